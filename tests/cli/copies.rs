//! Several copies of one payload: `--device A --device B`.

use crate::fixture::{Place, as_tree, fails_with, json, sample, spoil, sums_of};
use crate::support::{Image, tree};

/// A payload, and a copy of it with these changes, in files.
fn two(change: impl Fn(&mut Vec<u8>)) -> (Place, std::path::PathBuf) {
    let place = Place::new(&sample());
    let mut bytes = sample().bytes();
    change(&mut bytes);
    let other = place.file("other.img", bytes);
    (place, other)
}

/// The offset of the data of `c-large` in the sample.
fn in_large() -> usize {
    sample().header_offsets()[2] + 100_000
}

#[test]
fn what_is_cut_off_from_one_copy_comes_from_the_other() {
    let (place, cut) = two(|bytes| bytes.truncate(in_large()));
    lb!["import", "--device", &cut, &place.dest].exits(1);
    assert!(!place.dest.exists());
    for order in [[&place.image, &cut], [&cut, &place.image]] {
        let dest = place.dir().join(
            order[0]
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .replace('.', "-"),
        );
        let ran = lb![
            "import", "--json", "--device", order[0], "--device", order[1], &dest
        ]
        .exits(0);
        assert!(tree(&dest) == as_tree(&sample()));
        let report = json(&ran);
        let copies = report["copies"].as_array().unwrap();
        assert_eq!(copies[0]["device"], order[0].to_str().unwrap());
        let total: u64 = copies
            .iter()
            .map(|copy| copy["bytes"].as_u64().unwrap())
            .sum();
        assert_eq!(total, report["bytes"].as_u64().unwrap());
        assert_eq!(copies[1]["bytes"] == 0, order[0] == &place.image);
        lb!["verify", "--device", order[0], "--device", order[1]].exits(0);
        let ran = lb![
            "cat", "--device", order[0], "--device", order[1], "--", "c-large", "e-last"
        ];
        let files = sample().files;
        assert!(ran.exits(0).stdout_bytes == [&files[2].1[..], &files[4].1].concat());
    }
}

#[test]
fn what_is_wrong_in_one_copy_comes_from_the_other_if_there_is_a_checksum() {
    let (place, wrong) = two(|bytes| bytes[in_large()] ^= 1);
    let sums = place.file("SUMS", sums_of(&sample()));
    let both = [
        "--device",
        wrong.to_str().unwrap(),
        "--device",
        place.image.to_str().unwrap(),
    ];
    let sums = ["--checksums", sums.to_str().unwrap()];
    lb!["import", both[0], both[1], sums[0], sums[1], &place.dest]
        .exits(1)
        .says("`c-large`");
    lb![
        "import",
        both[0],
        both[1],
        both[2],
        both[3],
        sums[0],
        sums[1],
        &place.dest
    ]
    .exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
    lb!["verify", both[0], both[1], sums[0], sums[1]].exits(1);
    let ran = lb![
        "verify", both[0], both[1], both[2], both[3], sums[0], sums[1]
    ]
    .exits(0);
    assert_eq!(ran.stdout.matches(": OK").count(), 5);
    // A checksum that no copy matches fails the file.
    let spoiled = place.file("SPOILED", spoil(&sums_of(&sample()), "b-small"));
    let spoiled = ["--checksums", spoiled.to_str().unwrap()];
    let ran = lb![
        "verify", both[0], both[1], both[2], both[3], spoiled[0], spoiled[1]
    ]
    .exits(1);
    assert!(ran.stdout.contains("b-small: FAILED"), "{}", ran.stdout);
}

#[test]
fn copies_whose_headers_differ_are_refused_and_the_place_is_said() {
    let mut other = sample();
    other.files[3].0 = b"d-Medium".to_vec();
    let place = Place::new(&sample());
    let changed = place.file("changed.img", other.bytes());
    let fewer = Image::new(&[("a-empty", b"")]);
    let fewer = place.file("fewer.img", fewer.bytes());
    let nothing = place.file("nothing.img", vec![0; 100_000]);
    for (other, at) in [
        (&changed, sample().header_offsets()[3]),
        (&fewer, 0),
        (&nothing, 0),
    ] {
        let both = [
            "--device",
            place.image.to_str().unwrap(),
            "--device",
            other.to_str().unwrap(),
        ];
        let ran = lb![
            "import",
            "--json",
            both[0],
            both[1],
            both[2],
            both[3],
            &place.dest
        ];
        let error = fails_with(ran, "copies-differ");
        assert_eq!(error["offset"], at);
        assert_eq!(error["path"], other.to_str().unwrap());
        assert_eq!(error["name"] == "d-medium", at > 0);
        assert!(!place.dest.exists() || tree(&place.dest).is_empty());
        lb!["verify", both[0], both[1], both[2], both[3]]
            .exits(1)
            .says("is not a copy of");
        lb!["cat", both[0], both[1], both[2], both[3], "--", "b-small"]
            .exits(1)
            .says("is not a copy of");
    }
}

#[test]
fn copies_that_make_no_sense_are_usage_errors() {
    let place = Place::new(&sample());
    let image = place.image.to_str().unwrap();
    lb!["import", "--device", image, "--device", image, &place.dest]
        .exits(2)
        .says("same device");
    lb!["import", "--copies", "--device", image, &place.dest].exits(2);
    lb!["verify", image, "--device", image].exits(2);
    lb!["verify", "--device", image, "--map", "x"].exits(2);
    lb!["cat", "--device", image].exits(2).says("names");
    lb!["cat", image].exits(2).says("NAME");
    lb![
        "import",
        "--fail-fast",
        "--partial",
        "--device",
        image,
        &place.dest
    ]
    .exits(2);
    let missing = place.dir().join("missing");
    lb![
        "import",
        "--device",
        image,
        "--device",
        &missing,
        &place.dest
    ]
    .exits(1)
    .says("missing");
    assert!(!place.dest.exists());
}

#[test]
fn map_of_an_intact_image_calls_all_of_the_payload_read() {
    let bytes = [sample().bytes(), vec![0; 1000]].concat();
    let place = Place::with_bytes(&bytes);
    let map = place.dir().join("map");
    lb!["verify", &place.image, "--map", &map].exits(0);
    let len = sample().bytes().len();
    let text = std::fs::read_to_string(&map).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .skip(1)
        .collect();
    let expected = [
        format!("0x00000000  0x{len:08X}  +"),
        format!("0x{len:08X}  0x{:08X}  ?", 1000),
    ];
    assert_eq!(lines, expected);
}
