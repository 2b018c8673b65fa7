//! `lbpayload list`

use serde_json::json;

use crate::fixture::{Place, json, sample};
use crate::support::Image;

#[test]
fn list_prints_size_and_name_of_each_file() {
    let place = Place::new(&sample());
    let ran = lb!["list", &place.image].exits(0);
    assert_eq!(
        ran.stdout,
        "           0 a-empty\n           5 b-small\n     2500001 c-large\n       70003 d-medium\n           7 e-last\n"
    );
    assert_eq!(ran.stderr, "");
}

#[test]
fn list_json_has_the_documented_fields() {
    let place = Place::new(&Image::new(&[("one", b"1"), ("two", b"22")]));
    let ran = lb!["list", "--json", &place.image].exits(0);
    let report = json(&ran);
    assert_eq!(report["source"], json!(place.image));
    assert_eq!(report["dialect"], "u64");
    assert_eq!(report["files"], 2);
    assert_eq!(report["payload_bytes"], 57);
    assert_eq!(report["source_bytes"], 57);
    assert_eq!(
        report["entries"],
        json!([
            {"index": 0, "name": "one", "size": 1, "data_offset": 35},
            {"index": 1, "name": "two", "size": 2, "data_offset": 55},
        ])
    );
}

#[test]
fn list_detects_the_u32_dialect() {
    let place = Place::new(&Image::new(&[("one", b"1"), ("two", b"22")]).narrow());
    let ran = lb!["list", &place.image].exits(0);
    assert_eq!(ran.stdout, "           1 one\n           2 two\n");
    let report = json(&lb!["list", "--json", &place.image].exits(0));
    assert_eq!(report["dialect"], "u32");
    assert_eq!(report["payload_bytes"], 37);
    assert_eq!(report["entries"][1]["data_offset"], 35);
}

#[test]
fn list_ignores_data_after_the_last_entry() {
    let mut bytes = sample().bytes();
    let payload = bytes.len();
    bytes.resize(payload + 100_000, 0xA5);
    let place = Place::with_bytes(&bytes);
    let report = json(&lb!["list", "--json", &place.image].exits(0));
    assert_eq!(report["payload_bytes"], payload);
    assert_eq!(report["source_bytes"], payload + 100_000);
    assert_eq!(report["entries"].as_array().unwrap().len(), 5);
}

#[test]
fn list_of_a_payload_without_files_is_empty_in_both_dialects() {
    for image in [Image::new(&[]), Image::new(&[]).narrow()] {
        let place = Place::new(&image);
        let ran = lb!["list", &place.image].exits(0);
        assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
        let report = json(&lb!["list", "--json", &place.image].exits(0));
        assert_eq!(report["files"], 0);
        assert_eq!(report["entries"], json!([]));
    }
}

#[test]
fn list_shows_the_entries_before_damage_and_then_fails() {
    let image = sample();
    let cut = image.bytes().len() - 3;
    let place = Place::with_bytes(&image.bytes()[..cut]);
    let at = image.header_offsets()[4];
    let ran = lb!["list", &place.image]
        .exits(1)
        .says(&format!("at offset {at}"));
    assert_eq!(ran.stdout.lines().count(), 4);
    let report = json(&lb!["list", "--json", &place.image].exits(1));
    assert_eq!(report["entries"].as_array().unwrap().len(), 4);
    assert_eq!(report["problems"][0]["kind"], "data-past-end");
    assert_eq!(report["problems"][0]["index"], 4);
}
