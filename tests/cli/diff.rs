//! `lbpayload diff`: the files that two payloads have in common, and the others.

use std::path::PathBuf;

use lbpayload::diff::diff;
use lbpayload::payload::{Index, Payload};
use lbpayload::progress::Silent;
use serde_json::json;

use crate::fixture::{Place, json, sample, spoil, sums_of};
use crate::support::memory::Memory;
use crate::support::{Image, noise};

fn images(old: &Image, new: &Image) -> (Place, PathBuf) {
    let place = Place::new(old);
    let new = place.file("new.img", new.bytes());
    (place, new)
}

/// The image with the checksums of its files embedded.
fn with_sums(mut image: Image) -> Image {
    let sums = sums_of(&image);
    image
        .files
        .push((b"SHA256SUMS".to_vec(), sums.into_bytes()));
    image
}

#[test]
fn payloads_with_the_same_files_are_the_same_in_any_order_and_dialect() {
    let mut other = sample().narrow();
    other.files.reverse();
    let (place, new) = images(&sample(), &other);
    let ran = lb!["diff", &place.image, &new].exits(0);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("", "both hold the same 5 files\n")
    );
    let report = json(&lb!["diff", "--json", &place.image, &new].exits(0));
    let expected = json!({
        "old": place.image, "new": new, "same": true, "common": 5, "by_checksum": 0,
        "changed": [], "added": [], "removed": [],
    });
    assert_eq!(report, expected);
}

#[test]
fn changed_added_and_removed_files_are_listed() {
    let mut other = sample();
    // The last byte of a file of several blocks, a byte of a small one, and a size.
    *other.files[2].1.last_mut().unwrap() ^= 1;
    other.files[1].1 = b"hallo".to_vec();
    other.files[3].1.push(0);
    other.files.remove(0);
    other.files.push((b"new".to_vec(), b"1".to_vec()));
    let (place, new) = images(&sample(), &other);
    let ran = lb!["diff", &place.image, &new].exits(1);
    assert_eq!(
        ran.stdout,
        "removed a-empty\nchanged b-small\nchanged c-large\nchanged d-medium\nadded new\n"
    );
    assert_eq!(
        ran.stderr,
        "1 file in common, 3 changed, 1 added, 1 removed\n"
    );
    let report = json(&lb!["diff", "--json", &place.image, &new].exits(1));
    assert_eq!(report["same"], false);
    assert_eq!(report["changed"], json!(["b-small", "c-large", "d-medium"]));
    assert_eq!(report["added"], json!(["new"]));
    assert_eq!(report["removed"], json!(["a-empty"]));
    let report = json(&lb!["diff", "--json", &new, &place.image].exits(1));
    assert_eq!(report["added"], json!(["a-empty"]));
}

#[test]
fn checksums_decide_where_both_payloads_have_them() {
    let old = with_sums(sample());
    let mut damaged = old.clone();
    // The data differs, but the checksums say what it should be.
    damaged.files[2].1[1000] ^= 1;
    let (place, new) = images(&old, &damaged);
    let report = json(&lb!["diff", "--json", &place.image, &new].exits(0));
    assert_eq!(
        (&report["common"], &report["by_checksum"]),
        (&6.into(), &5.into())
    );

    let mut other = old.clone();
    other.files[5].1 = spoil(&sums_of(&sample()), "b-small").into_bytes();
    let new = place.file("other.img", other.bytes());
    let ran = lb!["diff", &place.image, &new].exits(1);
    assert_eq!(ran.stdout, "changed b-small\nchanged SHA256SUMS\n");
}

#[test]
fn content_decides_where_only_one_payload_has_checksums() {
    let mut damaged = sample();
    damaged.files[2].1[1000] ^= 1;
    let (place, new) = images(&with_sums(sample()), &damaged);
    let ran = lb!["diff", &place.image, &new].exits(1);
    assert_eq!(ran.stdout, "changed c-large\nremoved SHA256SUMS\n");
}

#[test]
fn damaged_payloads_are_refused() {
    let (place, _) = images(&sample(), &sample());
    let bytes = sample().bytes();
    let cut = place.file("cut.img", &bytes[..bytes.len() - 1]);
    for ran in [
        lb!["diff", "--json", &place.image, &cut],
        lb!["diff", "--json", &cut, &place.image],
    ] {
        let error = ran.exits(1).json_error();
        assert_eq!(error["code"], "data-past-end");
        assert_eq!(error["path"], cut.to_str().unwrap());
    }
}

#[test]
fn an_unreadable_sector_matters_only_in_a_file_that_is_compared() {
    let image = Image::new(&[
        ("a", &noise(1, 5000)),
        ("b", &noise(2, 5000)),
        ("c", &noise(3, 5000)),
    ]);
    let offsets = image.header_offsets();
    let index = |bad: std::ops::Range<u64>, image: &Image| {
        let mut memory = Memory::new(image.bytes());
        memory
            .bytes
            .resize(memory.bytes.len().next_multiple_of(512), 0);
        (memory.alignment, memory.bad) = (512, bad);
        Index::strict(&Payload::open(memory.shared()).unwrap(), &Silent).unwrap()
    };
    // A sector in the middle of the second file.
    let at = (offsets[1] as u64 + 2000) / 512 * 512;
    let bad = index(at..at + 512, &image);
    let good = index(0..0, &image);
    for (old, new) in [(&good, &bad), (&bad, &good)] {
        let error = diff(old, new, &Silent, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.entry(), Some((1, Some("b"))), "{error}");
        assert_eq!(error.offset(), Some(at));
    }
    let mut other = image.clone();
    other.files[1].1.pop();
    let report = diff(&bad, &index(0..0, &other), &Silent, &mut |_, _| Ok(())).unwrap();
    assert_eq!((report.common, report.changed), (2, 1));
}
