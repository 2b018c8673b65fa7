//! `lbpayload probe` of named files. The tests with devices cover a scan of the
//! machine.

use serde_json::json;

use crate::fixture::{Place, json, sample};
use crate::support::Image;

#[test]
fn probe_prints_the_path_of_each_named_payload() {
    let place = Place::new(&sample());
    let other = place.file("other.img", Image::new(&[("x", b"y")]).narrow().bytes());
    let noise = place.file("noise.img", [7; 4096]);
    let ran = lb!["probe", &place.image, &noise, &other].exits(0);
    assert_eq!(
        ran.stdout,
        format!("{}\n{}\n", place.image.display(), other.display())
    );
    assert_eq!(ran.stderr, "");
}

#[test]
fn probe_exits_with_3_if_nothing_is_found_and_lists_what_it_probed() {
    let place = Place::with_bytes(&[7; 4096]);
    let ran = lb!["probe", &place.image].exits(3).says("no payload in ");
    assert_eq!(ran.stdout, "");
}

#[test]
fn probe_of_a_missing_device_reports_it_by_name() {
    let place = Place::new(&sample());
    let missing = place.dir().join("nothing");
    let ran = lb!["probe", &missing]
        .exits(3)
        .says("No such file or directory");
    assert!(
        ran.stderr.contains(&*missing.to_string_lossy()),
        "{}",
        ran.stderr
    );
    let ran = lb!["probe", &missing, &place.image].exits(0);
    assert_eq!(ran.stdout, format!("{}\n", place.image.display()));
}

#[test]
fn probe_json_has_a_verdict_for_every_kind_of_content() {
    let image = Image::new(&[("one", b"1")]);
    let place = Place::new(&image.narrow());
    let noise = place.file("noise", [7; 4096]);
    let empty = place.file("empty", "");
    let corrupt = place.file("corrupt", &sample().bytes()[..1000]);
    let directory = place.dir();
    let ran = lb![
        "probe",
        "--json",
        &place.image,
        &noise,
        &empty,
        &corrupt,
        directory
    ]
    .exits(0);
    let report = json(&ran);
    let verdicts: Vec<&str> = report
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(
        verdicts,
        ["payload", "no-magic", "empty", "corrupt", "unreadable"]
    );
    let first = &report[0];
    assert_eq!(first["device"], json!(place.image));
    assert_eq!(first["kind"], "other");
    assert_eq!(first["size_bytes"], 24);
    assert_eq!(first["dialect"], "u32");
    assert_eq!(first["files"], 1);
    assert_eq!(first["payload_bytes"], 24);
    for field in ["major", "minor", "logical_block_size", "error"] {
        assert!(first.as_object().unwrap()[field].is_null(), "{field}");
    }
    let error = report[3]["error"].as_str().unwrap();
    assert!(
        error.contains("`c-large`") && error.contains("cut off"),
        "{error}"
    );
}

#[test]
fn probe_json_is_a_list_even_if_nothing_is_found() {
    let place = Place::with_bytes(b"");
    let ran = lb!["probe", "--json", &place.image].exits(3);
    assert_eq!(json(&ran)[0]["verdict"], "empty");
}

#[test]
fn probe_with_all_prints_a_table_with_a_header() {
    let place = Place::new(&sample());
    let noise = place.file("noise", [7; 4096]);
    let ran = lb!["probe", "--all", &place.image, &noise].exits(0);
    let rows: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(
        rows[0],
        ["DEVICE", "KIND", "SIZE", "BLOCK", "VERDICT", "WHAT"]
    );
    assert_eq!(rows[1][0], place.image.to_str().unwrap());
    assert!(
        ran.stdout.contains("payload") && ran.stdout.contains("5 files"),
        "{}",
        ran.stdout
    );
    assert!(rows[2].contains(&"no-magic"), "{}", ran.stdout);
}

#[test]
fn a_damaged_payload_is_said_once_and_in_a_short_line() {
    let place = Place::with_bytes(&sample().bytes()[..1_000_000]);
    let ran = lb!["probe", &place.image].exits(3).says("is damaged");
    let ran = ran.says("help: ").says("--lenient");
    assert!(ran.stderr.lines().count() <= 3, "{}", ran.stderr);
    let ran = lb!["probe", "--all", &place.image].exits(3);
    let row = ran.stdout.lines().nth(1).unwrap();
    let path = place.image.to_str().unwrap();
    assert_eq!(row.matches(path).count(), 1, "{row}");
    assert!(row.len() < path.len() + 150, "{row}");
    let why = row.split("corrupt").nth(1).unwrap().trim();
    assert!(!ran.stderr.contains(why), "{}", ran.stderr);
}
