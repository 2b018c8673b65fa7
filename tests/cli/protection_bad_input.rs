//! Trailers that are damaged, doubled or of another payload, and payloads of odd sizes.

use crate::fixture::{Place, as_tree, json, sample};
use crate::support::{Image, noise, tree};

const BLOCK: usize = 4096;

/// The image of a place after `protect` with these options.
fn protected(place: &Place, options: &[&str]) -> Vec<u8> {
    let mut args = vec!["protect"];
    args.extend(options);
    args.push(place.image.to_str().unwrap());
    crate::support::run(args).exits(0);
    std::fs::read(&place.image).unwrap()
}

/// Imports `bytes`, which must give all files of `image`.
#[track_caller]
fn imports(place: &Place, bytes: &[u8], image: &Image) {
    std::fs::write(&place.image, bytes).unwrap();
    let _ = std::fs::remove_dir_all(&place.dest);
    place.import().exits(0);
    assert!(tree(&place.dest) == as_tree(image));
}

#[test]
fn flipped_bit_in_a_header_is_noticed_and_the_other_header_is_used() {
    let image = Image::new(&[("a", &noise(1, 30_000)), ("b", b"b")]);
    let place = Place::new(&image);
    let good = protected(&place, &[]);
    let first = image.bytes().len().next_multiple_of(BLOCK);
    let second = good.len() - BLOCK;
    // Each field, what is behind them, and the hash.
    let bits = (0..200).step_by(19).chain([1000, 4063, 4064, 4095]);
    for (n, at) in bits.enumerate() {
        for header in [first, second] {
            let mut bad = good.clone();
            bad[header + at] ^= 1 << (n % 8);
            bad[500] ^= 1;
            std::fs::write(&place.image, &bad).unwrap();
            let report = json(&lb!["verify", "--json", &place.image].exits(1));
            let protection = &report["protection"];
            assert_eq!(protection["damaged_headers"], 1, "{header} {at}");
            assert_eq!(protection["healed_blocks"], 1, "{header} {at}");
            lb!["repair", &place.image].exits(0);
            assert!(
                std::fs::read(&place.image).unwrap() == good,
                "{header} {at}"
            );
        }
        // Both: there is no trailer, and the payload is read as it is.
        let mut bad = good.clone();
        bad[first + at] ^= 1 << (n % 8);
        bad[second + at] ^= 1 << (n % 8);
        imports(&place, &bad, &image);
    }
}

#[test]
fn second_trailer_does_no_harm() {
    let place = Place::new(&sample());
    let few = protected(&place, &["--percent", "3"]);
    let many = protected(&place, &["--percent", "30"]);
    let behind = |start: &[u8], end: &[u8]| {
        let mut bytes = start.to_vec();
        bytes.extend(end);
        bytes
    };
    let len = sample().bytes().len().next_multiple_of(BLOCK);
    let other = Place::new(&Image::new(&[("x", &noise(9, 900_000))]));
    let other = protected(&other, &[]);
    for both in [
        // An old, longer trailer was overwritten from its start.
        behind(&few, &many[few.len()..]),
        // A whole one behind the other.
        behind(&few, &many[len..]),
        behind(&many, &few[len..]),
        // One of another payload.
        behind(&few, &other[900_000 / BLOCK * BLOCK..]),
        // Only the last header of another one, as on a device.
        behind(&few, &other[other.len() - BLOCK..]),
    ] {
        imports(&place, &both, &sample());
        // It is still of use.
        let mut bad = both.clone();
        bad[300_000..300_100].fill(0);
        imports(&place, &bad, &sample());
        lb!["repair", &place.image].exits(0);
        let repaired = std::fs::read(&place.image).unwrap();
        assert!(repaired[..len] == both[..len]);
    }
}

#[test]
fn payload_of_any_size_and_dialect_is_healed() {
    for image in [
        Image::new(&[]),
        Image::new(&[]).narrow(),
        Image::new(&[("1", b"1")]),
        Image::new(&[("one", b"1")]).narrow(),
        Image::new(&[("x", &noise(1, 4096))]),
        Image::new(&[("x", &noise(1, 8000))]).narrow(),
        sample().narrow(),
    ] {
        let place = Place::new(&image);
        let good = protected(&place, &[]);
        let blocks = image.bytes().len().div_ceil(BLOCK);
        let mut all = vec![vec![0], vec![blocks - 1], vec![blocks], vec![0, blocks]];
        if blocks > 1 {
            // As many as a stripe can always lose.
            all.push(vec![0, 1]);
        }
        for damaged in all {
            let mut bad = good.clone();
            for block in &damaged {
                bad[block * BLOCK..(block + 1) * BLOCK].fill(0);
            }
            imports(&place, &bad, &image);
            lb!["verify", &place.image].exits(1);
            lb!["repair", &place.image].exits(0);
            let repaired = std::fs::read(&place.image).unwrap();
            assert!(repaired == good, "{damaged:?} of {blocks}");
        }
    }
}

#[test]
fn what_cannot_be_healed_is_named_exactly() {
    let place = Place::new(&sample());
    let good = protected(&place, &[]);
    let mut bad = good;
    // Each stripe loses more than it has, and one block elsewhere is damaged too.
    bad[500 * BLOCK..620 * BLOCK].fill(0);
    bad[10 * BLOCK] ^= 1;
    std::fs::write(&place.image, &bad).unwrap();
    let report = json(&lb!["verify", "--json", &place.image].exits(1));
    let protection = &report["protection"];
    let damaged = protection["damaged"].as_array().unwrap();
    let ranges: Vec<(u64, u64)> = damaged
        .iter()
        .map(|range| {
            let number = |name: &str| range[name].as_u64().unwrap();
            (number("offset") / 4096, number("length") / 4096)
        })
        .collect();
    assert_eq!(ranges, [(10, 1), (500, 120)]);
    assert_eq!(protection["damaged_blocks"], 121);
    assert_eq!(damaged[1]["healable"], false);
    assert_eq!(
        damaged[1]["entries"],
        serde_json::json!(["c-large", "d-medium"])
    );
}
