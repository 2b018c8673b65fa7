//! Protected payloads: what a user sees of damage and repair.

use std::path::Path;
use std::process::Command;

use crate::fixture::{Place, as_tree, fails_with, json, sample};
use crate::support::{Image, Lacks, noise, skip, tree};

const BLOCK: usize = 4096;

/// A place with a protected image, and the bytes of the image.
fn protected(image: &Image) -> (Place, Vec<u8>) {
    let place = Place::new(image);
    lb!["protect", &place.image].exits(0);
    let bytes = std::fs::read(&place.image).unwrap();
    (place, bytes)
}

fn zero(bytes: &mut [u8], blocks: std::ops::Range<usize>) {
    let end = (blocks.end * BLOCK).min(bytes.len());
    bytes[blocks.start * BLOCK..end].fill(0);
}

#[test]
fn protect_leaves_the_payload_as_it_is_and_remove_restores_the_file() {
    for (image, padding) in [
        (sample(), 0),
        (sample().narrow(), 0),
        (sample(), 5000),
        (Image::new(&[]), 0),
        (Image::new(&[("one", b"1")]), 100),
    ] {
        let mut plain = image.bytes();
        let len = plain.len();
        plain.resize(len + padding, 0);
        let place = Place::with_bytes(&plain);
        let report = json(&lb!["protect", "--json", &place.image].exits(0));
        assert_eq!(report["payload_bytes"], len);
        let bytes = std::fs::read(&place.image).unwrap();
        assert_eq!(bytes[..len], plain[..len]);
        assert_eq!(bytes.len() % BLOCK, 0);
        assert_eq!(report["trailer_bytes"], bytes.len() - len);
        let listed = json(&lb!["list", "--json", &place.image].exits(0));
        assert_eq!(listed["payload_bytes"], len);
        assert_eq!(listed["source_bytes"], bytes.len());
        lb!["verify", &place.image].exits(0);
        // Once more: the same trailer.
        lb!["protect", &place.image].exits(0);
        assert!(std::fs::read(&place.image).unwrap() == bytes);
        lb!["protect", "--remove", &place.image].exits(0);
        assert!(std::fs::read(&place.image).unwrap() == plain);
    }
}

#[test]
fn reference_importer_reads_a_protected_image() {
    let place = Place::new(&sample());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench/reference-import.c");
    let importer = place.dir().join("reference-import");
    let built = Command::new("cc")
        .arg(source)
        .arg("-o")
        .arg(&importer)
        .status();
    match built {
        Ok(status) => assert!(status.success(), "cc: {status}"),
        Err(e) => return skip(Lacks::Setup, &format!("cc: {e}")),
    }
    let import = |dest: &Path| {
        std::fs::create_dir(dest).unwrap();
        let mut command = Command::new(&importer);
        crate::support::check(command.arg("--device").args([&place.image, dest]))
    };
    let before = import(&place.dir().join("before"));
    lb!["protect", &place.image].exits(0);
    let after = import(&place.dest);
    assert_eq!(after, before, "what it prints");
    assert_eq!(tree(&place.dest), as_tree(&sample()));
}

#[test]
fn second_reader_that_was_written_from_the_format_agrees() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/read-protected");
    let small = Image::new(&[("a", &noise(1, 30_000)), ("b", b""), ("c", &noise(2, 5))]);
    for image in [small.clone(), small.narrow(), Image::new(&[])] {
        let (place, mut bytes) = protected(&image);
        crate::support::check(Command::new(&script).arg(&place.image));
        // It can fail.
        bytes[9] ^= 1;
        std::fs::write(&place.image, bytes).unwrap();
        let status = Command::new(&script).arg(&place.image).output().unwrap();
        assert_eq!(status.status.code(), Some(1));
    }
}

#[test]
fn lost_first_sector_header_and_data_are_healed_on_the_way_out_and_by_repair() {
    let (place, good) = protected(&sample());
    let start = sample().bytes().len().div_ceil(BLOCK);
    let mut bad = good.clone();
    bad[..512].fill(0);
    zero(&mut bad, 100..120);
    zero(&mut bad, start..start + 1);
    std::fs::write(&place.image, &bad).unwrap();

    let report = json(&lb!["verify", "--json", &place.image].exits(1));
    assert_eq!(report["ok"], false);
    assert_eq!(report["problems"].as_array().unwrap().len(), 0);
    let protection = &report["protection"];
    assert_eq!(protection["damaged_blocks"], 21);
    assert_eq!(protection["healed_blocks"], 21);
    assert_eq!(protection["damaged_headers"], 1);
    let places = protection["damaged"].as_array().unwrap();
    assert_eq!(places[1]["offset"], 100 * BLOCK);
    assert_eq!(places[1]["length"], 20 * BLOCK);
    assert_eq!(places[1]["healable"], true);
    assert_eq!(places[1]["entries"][0], "c-large");
    lb!["verify", &place.image]
        .exits(1)
        .says("80.00 KiB of")
        .says("can be healed")
        .says("help: lbpayload repair");

    let ran = place.import().exits(0);
    let ran = ran.says("21 damaged blocks (84.00 KiB)");
    assert!(ran.stderr.contains("lbpayload repair"), "{}", ran.stderr);
    assert_eq!(tree(&place.dest), as_tree(&sample()));
    let report = json(&lb!["import", "--json", "--device", &place.image, &place.dest].exits(0));
    assert_eq!(report["protection"]["lost_blocks"], 0);
    let cat = lb!["cat", &place.image, "d-medium"].exits(0);
    assert!(cat.stdout_bytes == noise(2, 70_003));
    assert!(
        std::fs::read(&place.image).unwrap() == bad,
        "readers do not write"
    );
    lb!["list", "--no-protection", &place.image].exits(1);
    let report = json(&lb!["list", "--json", &place.image].exits(0));
    assert_eq!(report["protection"]["percent"], 5);
    assert!(report["protection"]["healed_blocks"].as_u64() >= Some(1));
    let intact = place.file("intact.img", &good);
    let same = lb!["diff", &place.image, &intact].exits(0);
    assert_eq!(same.stderr.matches("healed while reading").count(), 1);

    let dry = lb!["repair", "--dry-run", &place.image].exits(0);
    assert!(
        dry.stdout.contains("would repair 21 blocks"),
        "{}",
        dry.stdout
    );
    assert!(std::fs::read(&place.image).unwrap() == bad);
    let copy = place.dir().join("copy.img");
    lb!["repair", "-o", &copy, &place.image].exits(0);
    assert!(std::fs::read(&copy).unwrap() == good);
    let report = json(&lb!["repair", "--json", &place.image].exits(0));
    assert_eq!(report["protection"]["healed_blocks"], 21);
    assert_eq!(report["written_blocks"], 22);
    assert!(std::fs::read(&place.image).unwrap() == good);
    let again = lb!["repair", &place.image].exits(0);
    assert!(again.stdout.contains("is intact"), "{}", again.stdout);
}

#[test]
fn more_than_can_be_healed_costs_only_the_files_that_it_hits() {
    let (place, good) = protected(&sample());
    let mut bad = good.clone();
    // The header of `d-medium` too, of which there is a copy.
    zero(&mut bad, 500..620);
    std::fs::write(&place.image, &bad).unwrap();
    let report = json(&lb!["verify", "--json", &place.image].exits(1));
    assert!(report["protection"]["lost_blocks"].as_u64() > Some(0));
    assert_eq!(report["files"], 5, "the lost header is known");
    for name in ["a-empty", "b-small", "e-last"] {
        lb!["cat", &place.image, name].exits(0);
    }
    for name in ["c-large", "d-medium"] {
        lb!["cat", &place.image, name]
            .exits(1)
            .says("too much is lost");
    }
    let error = fails_with(lb!["repair", "--json", &place.image], "cannot-heal");
    assert!(error["help"][0].as_str().unwrap().contains("--from COPY"));
    assert!(
        std::fs::read(&place.image).unwrap() == bad,
        "nothing was written"
    );
    let copy = place.file("plain.img", sample().bytes());
    lb!["repair", "--from", &copy, &place.image].exits(0);
    assert!(std::fs::read(&place.image).unwrap() == good);
    // The first header too.
    zero(&mut bad, 0..1);
    std::fs::write(&place.image, &bad).unwrap();
    let listed = lb!["list", &place.image].exits(0);
    assert_eq!(listed.stdout.lines().count(), 5);
    lb!["cat", &place.image, "e-last"].exits(0);
}

#[test]
fn trailer_without_recovery_blocks_still_checks() {
    let (place, good) = protected(&sample());
    let start = sample().bytes().len().div_ceil(BLOCK);
    let mut bad = good.clone();
    // From the middle of the recovery blocks to the end of the first copy of the metadata.
    let second = u64::from_le_bytes(good[good.len() - BLOCK + 176..][..8].try_into().unwrap());
    let first = u64::from_le_bytes(good[good.len() - BLOCK + 160..][..8].try_into().unwrap());
    zero(&mut bad, start..first as usize / BLOCK);
    zero(&mut bad, first as usize / BLOCK..second as usize / BLOCK);
    std::fs::write(&place.image, &bad).unwrap();
    place.import().exits(0);
    assert_eq!(tree(&place.dest), as_tree(&sample()));
    lb!["verify", &place.image].exits(1);
    bad[300_000] ^= 1;
    std::fs::write(&place.image, &bad).unwrap();
    lb!["cat", &place.image, "c-large"].exits(1);
    lb!["cat", &place.image, "d-medium"].exits(0);
    bad[300_000] ^= 1;
    std::fs::write(&place.image, &bad).unwrap();
    lb!["repair", &place.image].exits(0);
    assert!(std::fs::read(&place.image).unwrap() == good);
}

#[test]
fn cut_off_trailer_is_no_obstacle() {
    let (place, good) = protected(&sample());
    let len = sample().bytes().len();
    let start = len.next_multiple_of(BLOCK);
    let step = (good.len() - start) / 12;
    for cut in (start..good.len())
        .step_by(step)
        .chain([len, good.len() - 1])
    {
        std::fs::write(&place.image, &good[..cut]).unwrap();
        let ran = lb!["cat", &place.image, "c-large"];
        assert_eq!(ran.status, Some(0), "{cut}: {}", ran.stderr);
        assert!(ran.stdout_bytes == noise(1, 2_500_001), "{cut}");
    }
}

#[test]
fn trailer_of_another_payload_is_ignored_with_a_note() {
    let (place, old) = protected(&sample());
    // A shorter payload over the old one. The old trailer is intact.
    let other = Image::new(&[("x", &noise(9, 1_000_000)), ("y", &noise(8, 9))]);
    let mut bytes = old.clone();
    bytes[..other.bytes().len()].copy_from_slice(&other.bytes());
    std::fs::write(&place.image, &bytes).unwrap();
    let longer = Image::new(&[("x", &noise(9, 2_573_000)), ("y", &noise(8, 300))]);
    let check = |image: &Image| {
        let _ = std::fs::remove_dir_all(&place.dest);
        place.import().exits(0);
        assert_eq!(tree(&place.dest), as_tree(image));
    };
    // 39 percent of the blocks differ, so this could be damage too: nothing wrong is given out.
    lb!["cat", &place.image, "x"].exits(1);
    lb!["cat", "--no-protection", &place.image, "x"].exits(0);
    fails_with(lb!["repair", "--json", &place.image], "cannot-heal");
    // Now almost all blocks differ.
    let mut bytes = old.clone();
    bytes[..longer.bytes().len()].copy_from_slice(&longer.bytes());
    std::fs::write(&place.image, &bytes).unwrap();
    check(&longer);
    place
        .import()
        .exits(0)
        .says("it belongs to another payload");
}

#[test]
fn damaged_payload_is_not_protected_anew() {
    let (place, good) = protected(&sample());
    let mut bad = good.clone();
    bad[5000] ^= 1;
    std::fs::write(&place.image, &bad).unwrap();
    fails_with(lb!["protect", "--json", &place.image], "trailer-mismatch");
    assert!(std::fs::read(&place.image).unwrap() == bad);
    lb!["protect", "--force", "--percent", "10", &place.image].exits(0);
    lb!["verify", &place.image].exits(0);
    let mut data = sample().bytes();
    data.extend(b"something else");
    let other = Place::with_bytes(&data);
    fails_with(
        lb!["protect", "--json", &other.image],
        "data-behind-payload",
    );
    assert!(std::fs::read(&other.image).unwrap() == data);
    fails_with(lb!["repair", "--json", &other.image], "not-protected");
    for percent in ["0", "51", "x"] {
        lb!["protect", "--percent", percent, &other.image].exits(2);
    }
}

#[test]
fn payload_at_an_offset_is_protected_there() {
    let mut bytes = noise(5, 1536);
    bytes.extend(sample().bytes());
    let place = Place::with_bytes(&bytes);
    lb!["protect", "--offset", "1536", &place.image].exits(0);
    let good = std::fs::read(&place.image).unwrap();
    let mut bad = good.clone();
    bad[1536 + 40_000] ^= 1;
    std::fs::write(&place.image, &bad).unwrap();
    let report = json(&lb!["verify", "--json", "--offset", "1536", &place.image].exits(1));
    let damaged = &report["protection"]["damaged"][0];
    assert_eq!(damaged["offset"], 1536 + 9 * BLOCK);
    lb!["repair", "--offset", "1536", &place.image].exits(0);
    assert!(std::fs::read(&place.image).unwrap() == good);
}

#[test]
fn pack_with_protection_writes_what_pack_and_protect_write() {
    let place = Place::new(&sample());
    let inputs = place.dir().join("inputs");
    std::fs::create_dir(&inputs).unwrap();
    for (name, data) in &sample().files {
        std::fs::write(inputs.join(std::str::from_utf8(name).unwrap()), data).unwrap();
    }
    let (once, twice) = (place.dir().join("once.img"), place.dir().join("twice.img"));
    for options in [
        &[][..],
        &["--dialect", "u32"],
        &["--embed-checksums"],
        &["--memory", "4M", "--verify"],
    ] {
        let run = |protect: &str, out: &Path| {
            let mut args = vec!["pack", "-o", out.to_str().unwrap()];
            args.extend(options);
            args.extend(Some(protect).filter(|option| !option.is_empty()));
            args.push(inputs.to_str().unwrap());
            crate::support::run(args).exits(0)
        };
        let ran = run("--protect=7", &once);
        ran.says("protected with 7 percent");
        run("", &twice);
        let plain = std::fs::read(&twice).unwrap();
        lb!["protect", "--percent", "7", &twice].exits(0);
        let bytes = std::fs::read(&once).unwrap();
        assert!(bytes == std::fs::read(&twice).unwrap(), "{options:?}");
        assert!(bytes[..plain.len()] == plain[..], "{options:?}");
        lb!["verify", &once].exits(0);
        lb!["protect", "--remove", &once].exits(0);
        assert!(std::fs::read(&once).unwrap() == plain);
    }
    lb!["pack", "-o", &once, "--protect", "--pad", "4096", &inputs].exits(2);
    lb!["pack", "-o", "-", "--protect", &inputs].exits(2);
    lb!["pack", "-o", &once, "--protect=51", &inputs].exits(2);
}

#[test]
fn example_of_the_format_is_what_the_program_writes() {
    let place = Place::new(&Image::new(&[("hello", b"hello, world")]));
    lb!["protect", &place.image].exits(0);
    let bytes = std::fs::read(&place.image).unwrap();
    let format = Path::new(env!("CARGO_MANIFEST_DIR")).join("FORMAT.md");
    let text = std::fs::read_to_string(format).unwrap();
    let mut compared = 0;
    for line in text.lines() {
        let Some((at, hex)) = line.strip_prefix("    ").and_then(|l| l.split_once("  ")) else {
            continue;
        };
        let Ok(at) = usize::from_str_radix(at, 16) else {
            continue;
        };
        let expected: Vec<u8> = hex
            .split(' ')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        assert_eq!(bytes[at..at + expected.len()], expected, "{line}");
        compared += expected.len();
    }
    assert!(compared > 400, "{compared}");
}

/// The offsets of the two headers of a protected image of the sample.
fn headers(good: &[u8]) -> [usize; 2] {
    let start = sample().bytes().len().next_multiple_of(BLOCK);
    [start, good.len() - BLOCK]
}

#[test]
fn second_header_is_found_where_nothing_points_to_it() {
    for percent in ["5", "30"] {
        let place = Place::new(&sample());
        lb!["protect", "--percent", percent, &place.image].exits(0);
        let good = std::fs::read(&place.image).unwrap();
        let [first, _] = headers(&good);
        // As on a larger device: the last block is no header.
        for (damage, noticed) in [(0..BLOCK, true), (0..1, true), (100..101, true)] {
            let mut bad = good.clone();
            bad.resize(good.len() + 100 * BLOCK, 0);
            bad[5 * BLOCK] ^= 1;
            bad[first..][damage.clone()].fill(0);
            std::fs::write(&place.image, &bad).unwrap();
            let ran = lb!["verify", "--json", &place.image].exits(1);
            let report = json(&ran);
            let healed = &report["protection"]["healed_blocks"];
            assert_eq!(healed == 1, noticed, "{percent} {damage:?}: {}", ran.stderr);
        }
        lb!["repair", &place.image].exits(0);
        assert!(std::fs::read(&place.image).unwrap()[..good.len()] == good);
    }
}

/// The headers of the payload are damaged, so that they lead elsewhere or nowhere, and the last
/// header of the trailer is lost.
#[test]
fn first_header_is_found_from_the_copy_of_the_payload_headers() {
    let (place, good) = protected(&sample());
    let [_, second] = headers(&good);
    for magic_too in [false, true] {
        let mut bad = good.clone();
        // One file less.
        bad[8] -= 1;
        if magic_too {
            bad[0] = 0;
        }
        bad[second..].fill(0);
        std::fs::write(&place.image, &bad).unwrap();
        let report = json(&lb!["verify", "--json", &place.image].exits(1));
        assert_eq!(report["protection"]["healed_blocks"], 1);
        lb!["repair", &place.image].exits(0);
        assert!(std::fs::read(&place.image).unwrap() == good);
    }
}

#[test]
fn payload_whose_trailer_lost_all_headers_is_not_taken_for_an_unprotected_one() {
    let (place, good) = protected(&sample());
    let [first, second] = headers(&good);
    let mut bad = good.clone();
    (bad[first + 100], bad[second + 2000]) = (bad[first + 100] ^ 1, !bad[second + 2000]);
    for magic_too in [false, true] {
        if magic_too {
            (bad[first], bad[second + 1]) = (0, 0);
        }
        std::fs::write(&place.image, &bad).unwrap();
        let ran = lb!["verify", &place.image].exits(1);
        let warning = "all headers of its protection trailer are damaged";
        assert!(ran.stderr.contains(warning), "{}", ran.stderr);
        assert!(ran.stderr.contains("repair --from COPY"), "{}", ran.stderr);
        let report = json(&lb!["verify", "--json", &place.image].exits(1));
        assert_eq!(report["ok"], false);
        let ran = place.import().exits(0);
        assert!(ran.stderr.contains(warning), "{}", ran.stderr);
        lb!["verify", "--no-protection", &place.image].exits(0);
    }
    // Other bytes behind a payload are no trailer.
    let mut other = sample().bytes();
    other.extend(noise(5, 200_000));
    let other = place.file("other.img", other);
    let ran = lb!["verify", &other].exits(0);
    assert!(!ran.stderr.contains("trailer"), "{}", ran.stderr);
}

#[test]
fn payload_that_lost_its_whole_trailer_gets_it_back_from_a_copy() {
    let (place, good) = protected(&sample());
    let [first, _] = headers(&good);
    let copy = |name: &str, bytes: &[u8]| place.file(name, bytes);
    let repair = |copy: &Path, args: &[&str]| {
        let mut command = crate::support::lbpayload();
        command.arg("repair").args(args).arg("--from").arg(copy);
        crate::support::Ran::of(command.arg(&place.image))
    };
    // The copy is damaged elsewhere, and in its own trailer.
    let mut other = good.clone();
    zero(&mut other, 150..160);
    other[first + 10] ^= 1;
    other[first + BLOCK + 10] ^= 1;
    let with_trailer = copy("copy.img", &other);
    let mut bad = good[..first].to_vec();
    zero(&mut bad, 10..20);
    zero(&mut bad, 150..151);
    for (what, tail) in [("cut off", 0), ("zeros", good.len() - first)] {
        let mut bytes = bad.clone();
        bytes.resize(bad.len() + tail, 0);
        std::fs::write(&place.image, &bytes).unwrap();
        let ran = repair(&with_trailer, &[]).exits(0);
        assert!(ran.stderr.contains("gets that of"), "{}", ran.stderr);
        assert!(std::fs::read(&place.image).unwrap() == good, "{what}");
    }
    // Nothing of an unprotected copy says what is right.
    let plain = copy("plain.img", &sample().bytes());
    std::fs::write(&place.image, &bad).unwrap();
    fails_with(repair(&plain, &["--json"]), "not-protected");
    // Another payload, and data where the trailer would be.
    let mut foreign = sample().bytes();
    let len = foreign.len();
    foreign[100..len].copy_from_slice(&noise(9, len - 100));
    std::fs::write(&place.image, &foreign).unwrap();
    fails_with(repair(&with_trailer, &["--json"]), "other-payload");
    assert!(std::fs::read(&place.image).unwrap() == foreign);
    let mut data_behind = bad.clone();
    data_behind.extend(noise(3, 5000));
    std::fs::write(&place.image, &data_behind).unwrap();
    fails_with(repair(&with_trailer, &["--json"]), "data-behind-payload");
    repair(&with_trailer, &["--force"]).exits(0);
    assert!(std::fs::read(&place.image).unwrap() == good);
}
