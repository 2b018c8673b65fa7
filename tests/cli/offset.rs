//! `--offset`: the payload starts inside a larger image.

use crate::fixture::{Place, as_tree, json, sample};
use crate::support::{Image, noise, tree};

const AT: usize = 1536;

fn place() -> (Place, Image) {
    let image = sample();
    let bytes = [&noise(9, AT)[..], &image.bytes()].concat();
    (Place::with_bytes(&bytes), image)
}

#[test]
fn every_command_that_reads_a_payload_takes_an_offset() {
    let (place, image) = place();
    let offset = AT.to_string();
    let name = std::str::from_utf8(&image.files[1].0).unwrap();
    lb!["list", &place.image].exits(1).says("not a payload");
    let listed = lb!["list", "--offset", &offset, &place.image].exits(0);
    assert_eq!(listed.stdout.lines().count(), image.files.len());
    lb!["verify", "--offset", &offset, &place.image].exits(0);
    let ran = lb!["cat", "--offset", &offset, &place.image, name].exits(0);
    assert!(ran.stdout_bytes == image.files[1].1);
    let ran = lb!["diff", "--offset", &offset, &place.image, &place.image].exits(0);
    assert_eq!(ran.stderr, "both hold the same 5 files\n");
    lb![
        "import",
        "--offset",
        "1536",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0);
    assert!(tree(&place.dest) == as_tree(&image));
    lb!["list", "--offset", "1K", &place.image]
        .exits(1)
        .says("not a payload");
    lb!["list", "--offset", "1.5K", &place.image].exits(2);
}

#[test]
fn with_an_offset_reports_and_errors_count_from_the_start_of_the_image() {
    let (place, image) = place();
    let report = json(&lb!["list", "--json", "--offset", "1536", &place.image].exits(0));
    let first = AT + image.header_offsets()[0] + 16 + image.files[0].0.len();
    assert_eq!(report["entries"][0]["data_offset"], first);

    let broken = Image::new(&[("a", b"1"), ("b/c", b"2")]);
    let at = AT + broken.header_offsets()[1];
    let bytes = [&noise(9, AT)[..], &broken.bytes()].concat();
    let place = Place::with_bytes(&bytes);
    let report = json(&lb!["verify", "--json", "--offset", "1536", &place.image].exits(1));
    assert_eq!(report["problems"][0]["offset"], at);
    lb![
        "import",
        "--offset",
        "1536",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(1)
    .says(&format!("at offset {at}"));
}

#[test]
fn an_offset_beyond_the_end_or_without_a_device_is_refused() {
    let (place, _) = place();
    for command in ["list", "verify"] {
        lb![command, "--offset", "1G", &place.image]
            .exits(1)
            .says("beyond its end");
    }
    lb!["import", "--offset", "512", &place.dest]
        .exits(2)
        .says("--device");
    assert!(!place.dest.exists());
}
