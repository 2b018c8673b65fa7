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

/// What `probe --udev` prints, as udev reads it.
fn for_udev(image: &std::path::Path) -> Vec<(String, String)> {
    let ran = lb!["probe", "--udev", image].exits(0);
    assert_eq!(ran.stderr, "");
    let pairs = ran.stdout.lines().map(|line| line.split_once('=').unwrap());
    pairs
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

#[test]
fn probe_for_udev_prints_properties_and_an_id_that_copies_share() {
    let place = Place::new(&sample());
    let found = for_udev(&place.image);
    let id = &found[3].1;
    let expected = [
        ("ID_FS_TYPE", "lbpayload"),
        ("ID_LBPAYLOAD_DIALECT", "u64"),
        ("ID_LBPAYLOAD_FILES", "5"),
        ("ID_LBPAYLOAD_ID", id),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(found, expected);
    assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let copy = place.file("copy", [sample().bytes(), vec![7; 9000]].concat());
    assert_eq!(for_udev(&copy), found);
    let narrow = for_udev(&place.file("narrow", sample().narrow().bytes()));
    assert_eq!(narrow[1].1, "u32");
    assert_ne!(narrow[3].1, *id);
    let other = for_udev(&place.file("other", Image::new(&[("x", b"y")]).bytes()));
    assert_ne!(other[3].1, *id);
}

#[test]
fn probe_for_udev_reads_only_the_first_headers() {
    let names: Vec<String> = (0..40).map(|n| format!("{n:02}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b"x"[..])).collect();
    let image = Image::new(&files);
    let (mut bytes, headers) = (image.bytes(), image.header_offsets());
    bytes[headers[30]] = 0;
    let place = Place::with_bytes(&bytes);
    lb!["probe", &place.image].exits(3);
    assert_eq!(for_udev(&place.image)[2].1, "40");
    // A broken header among the first is no payload to announce.
    bytes[headers[3]] = 0;
    let broken = place.file("broken", bytes);
    assert_eq!(lb!["probe", "--udev", &broken].exits(1).stdout, "");
}

#[test]
fn probe_for_udev_prints_nothing_and_fails_if_there_is_no_payload() {
    let place = Place::with_bytes(&[7; 4096]);
    let ran = lb!["probe", "--udev", &place.image].exits(3);
    assert_eq!((&*ran.stdout, &*ran.stderr), ("", ""));
    let ran = lb!["probe", "--udev", &place.dir().join("missing")].exits(1);
    assert_eq!(ran.stdout, "");
    lb!["probe", "--udev"].exits(2);
    lb!["probe", "--udev", &place.image, &place.image].exits(2);
    lb!["probe", "--udev", "--json", &place.image].exits(2);
}
