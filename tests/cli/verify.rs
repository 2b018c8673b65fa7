//! `lbpayload verify`

use serde_json::json;

use crate::fixture::{Place, checkout, json, sample, spoil, sums_of};
use crate::support::{Image, sha256sum};

#[test]
fn verify_of_an_intact_payload_prints_the_summary_on_standard_error() {
    let place = Place::new(&Image::new(&[("one", b"1"), ("two", b"22")]));
    let ran = lb!["verify", &place.image].exits(0);
    assert_eq!(ran.stdout, "");
    assert_eq!(
        ran.stderr,
        format!(
            "{}: OK: 2 files, 57 B (u64), every byte read, 0 checksums matched\n",
            place.image.display()
        )
    );
    let ran = lb!["verify", "-q", &place.image].exits(0);
    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
}

#[test]
fn verify_json_has_the_documented_fields() {
    let image = sample();
    let place = Place::new(&image);
    let report = json(&lb!["verify", "--json", &place.image].exits(0));
    assert_eq!(report["source"], json!(place.image));
    assert_eq!(report["dialect"], "u64");
    assert_eq!(report["files"], 5);
    assert_eq!(report["payload_bytes"], image.bytes().len());
    assert_eq!(report["ok"], true);
    assert_eq!(report["problems"], json!([]));
}

#[test]
fn verify_prints_sha256sum_lines_in_entry_order() {
    for image in [sample(), sample().narrow()] {
        let place = Place::new(&image);
        let sums = place.file("SUMS", sums_of(&image));
        let ran = lb!["verify", "--checksums", &sums, &place.image].exits(0);
        assert_eq!(
            ran.stdout,
            "a-empty: OK\nb-small: OK\nc-large: OK\nd-medium: OK\ne-last: OK\n"
        );
        let ran = ran.says("5 checksums matched");
        assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
    }
}

#[test]
fn verify_names_each_file_that_does_not_match_and_continues() {
    let image = sample();
    let place = Place::new(&image);
    let spoiled = spoil(&spoil(&sums_of(&image), "b-small"), "c-large");
    let sums = place.file("SUMS", spoiled);
    let ran = lb!["verify", "--checksums", &sums, &place.image].exits(1);
    assert_eq!(
        ran.stdout,
        "a-empty: OK\nb-small: FAILED\nc-large: FAILED\nd-medium: OK\ne-last: OK\n"
    );
    let found = sha256sum(b"hello");
    let expected = sha256sum(b"something else");
    let ran = ran
        .says(&expected)
        .says(&found)
        .says("`b-small`")
        .says("`c-large`");
    assert!(ran.stderr.contains("entry 2, "), "{}", ran.stderr);
    let report = json(&lb!["verify", "--json", "--checksums", &sums, &place.image].exits(1));
    assert_eq!(report["ok"], false);
    let problems = report["problems"].as_array().unwrap();
    let mut names: Vec<_> = problems
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["b-small", "c-large"]);
    assert!(
        problems.iter().all(|p| p["kind"] == "checksum"),
        "{problems:?}"
    );
    let small = problems.iter().find(|p| p["index"] == 1).unwrap();
    assert_eq!(small["offset"], image.header_offsets()[1] + 16 + 7);
}

#[test]
fn verify_finds_a_single_flipped_bit_in_the_data() {
    let image = sample();
    let sums = sums_of(&image);
    let mut bytes = image.bytes();
    let middle = image.header_offsets()[2] + 1_300_000;
    bytes[middle] ^= 4;
    let place = Place::with_bytes(&bytes);
    lb!["verify", &place.image].exits(0);
    let sums = place.file("SUMS", sums);
    let ran = lb!["verify", "--checksums", &sums, &place.image].exits(1);
    assert!(
        ran.stdout.contains("c-large: FAILED\nd-medium: OK\n"),
        "{}",
        ran.stdout
    );
}

#[test]
fn verify_names_files_without_a_checksum_and_checksums_without_a_file() {
    let image = sample();
    let place = Place::new(&image);
    let unlisted: String = sums_of(&image)
        .lines()
        .filter(|l| !l.ends_with("d-medium"))
        .map(|l| format!("{l}\n"))
        .collect();
    let sums = place.file("SUMS", &unlisted);
    let ran = lb!["verify", "--checksums", &sums, &place.image].says("d-medium");
    assert!(!ran.stdout.contains("d-medium: OK"), "{}", ran.stdout);
    assert_eq!(ran.stdout.lines().count(), 4);

    let extra = format!("{}{}  absent\n", sums_of(&image), sha256sum(b"absent"));
    let sums = place.file("SUMS", extra);
    let ran = lb!["verify", "--checksums", &sums, &place.image]
        .exits(1)
        .says("absent");
    assert!(ran.stdout.contains("absent: FAILED\n"), "{}", ran.stdout);
    let report = json(&lb!["verify", "--json", "--checksums", &sums, &place.image].exits(1));
    assert_eq!(report["problems"][0]["kind"], "missing");
    assert_eq!(report["problems"][0]["name"], "absent");
}

#[test]
fn verify_accepts_checksums_from_several_files() {
    let image = sample();
    let place = Place::new(&image);
    let sums = sums_of(&image);
    let (first, rest) = sums.split_at(sums.find('\n').unwrap() + 1);
    let (first, rest) = (place.file("FIRST", first), place.file("REST", rest));
    let ran = lb![
        "verify",
        "--checksums",
        &first,
        "--checksums",
        &rest,
        &place.image
    ]
    .exits(0);
    assert_eq!(ran.stdout.matches(": OK\n").count(), 5);
}

#[test]
fn verify_refuses_invalid_checksums_and_names_the_line() {
    let image = sample();
    let place = Place::new(&image);
    let good = sums_of(&image);
    for (text, why) in [
        (
            format!("{good}rubbish\n"),
            "line 6: not a checksum: \"rubbish\"",
        ),
        (
            format!("123  a-empty\n{good}"),
            "line 1: not a checksum: \"123  a-empty\"",
        ),
        (
            format!("{}  a-empty\n", "0a".repeat(64)),
            "line 1: SHA-512 checksum, expected SHA-256",
        ),
        (
            format!("{}  a-empty\n", "0a".repeat(20)),
            "line 1: SHA-1 checksum, expected SHA-256",
        ),
        (
            format!("MD5 (a-empty) = {}\n", "0a".repeat(16)),
            "line 1: MD5 checksum, expected SHA-256",
        ),
        (
            format!("{good}{}  b-small\n", sha256sum(b"other")),
            "\"b-small\" has two different checksums",
        ),
    ] {
        let sums = place.file("SUMS", text);
        let ran = lb!["verify", "--checksums", &sums, &place.image]
            .exits(1)
            .says(why);
        assert!(
            ran.stderr.contains(&*sums.to_string_lossy()),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "");
    }
    let missing = place.dir().join("NOT-THERE");
    lb!["verify", "--checksums", &missing, &place.image]
        .exits(1)
        .says("NOT-THERE`: No such file");
    lb!["verify", "--checksums", place.dir(), &place.image]
        .exits(1)
        .says("found a directory");
}

/// An image that ends with its own SHA256SUMS.
fn with_embedded(image: Image, sums: &str) -> Image {
    let mut image = image;
    image
        .files
        .push((b"SHA256SUMS".to_vec(), sums.as_bytes().to_vec()));
    image
}

#[test]
fn verify_checks_embedded_checksums_by_default() {
    let sums = sums_of(&sample());
    let place = Place::new(&with_embedded(sample(), &sums));
    let ran = lb!["verify", &place.image]
        .exits(0)
        .says("5 checksums matched");
    assert_eq!(ran.stdout.matches(": OK\n").count(), 5);
    assert!(
        !ran.stderr.contains("warning"),
        "the sums need none themselves: {}",
        ran.stderr
    );

    let place = Place::new(&with_embedded(sample(), &spoil(&sums, "e-last")));
    let ran = lb!["verify", &place.image].exits(1);
    assert!(ran.stdout.contains("e-last: FAILED\n"), "{}", ran.stdout);
}

#[test]
fn verify_refuses_checksums_that_differ_from_the_embedded_ones() {
    let sums = sums_of(&sample());
    let place = Place::new(&with_embedded(sample(), &sums));
    let other = place.file("SUMS", spoil(&sums, "e-last"));
    lb!["verify", "--checksums", &other, &place.image]
        .exits(1)
        .says("\"e-last\" has two different checksums")
        .says("SHA256SUMS");
}

#[test]
fn verify_refuses_invalid_embedded_checksums() {
    let place = Place::new(&with_embedded(sample(), "this is no checksum\n"));
    lb!["verify", &place.image]
        .exits(1)
        .says("SHA256SUMS")
        .says("line 1: ");
}

#[test]
fn verify_uses_checksums_from_a_live_bootstrap_checkout() {
    let image = Image::new(&[("gcc.tar", b"gcc"), ("musl.tar", b"musl")]);
    let place = Place::new(&image);
    let sources = |wrong: &[u8]| {
        format!(
            "f https://x/gcc.tar {}\nf https://x/musl.tar {}\n",
            sha256sum(b"gcc"),
            sha256sum(wrong)
        )
    };
    let manifest = "improve: import_payload\nbuild: gcc\n";
    let root = checkout(place.dir(), manifest, &[("gcc", &sources(b"musl"))]);
    let ran = lb!["verify", "--live-bootstrap", &root, &place.image].exits(0);
    assert_eq!(ran.stdout, "gcc.tar: OK\nmusl.tar: OK\n");
    checkout(place.dir(), manifest, &[("gcc", &sources(b"other"))]);
    let ran = lb!["verify", "--live-bootstrap", &root, &place.image].exits(1);
    assert_eq!(ran.stdout, "gcc.tar: OK\nmusl.tar: FAILED\n");
    lb!["verify", "--live-bootstrap", &place.dest, &place.image]
        .exits(1)
        .says("steps/manifest")
        .says("live-bootstrap checkout");
}

#[test]
fn verify_ignores_data_after_the_payload() {
    let image = Image::new(&[("one", b"1")]);
    let mut bytes = image.bytes();
    bytes.extend_from_slice(&[0xA5; 999]);
    let place = Place::with_bytes(&bytes);
    let report = json(&lb!["verify", "--json", &place.image].exits(0));
    assert_eq!(report["payload_bytes"], image.bytes().len());
}
