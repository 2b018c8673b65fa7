//! A filesystem whose source has unreadable sectors or shrinks.

use std::sync::atomic::Ordering;

use lbpayload::mount::{Filesystem, Refusal, Strictness, attribute, attribute_names};
use proptest::prelude::*;

use crate::memory_filesystem::{Shrinking, over};
use crate::support::memory::Memory;
use crate::support::{Image, noise};

/// Two files. The tests read the second one.
fn image() -> Image {
    Image::new(&[("first", &noise(1, 9_000)), ("second", &noise(2, 40_000))])
}

/// The image padded to whole sectors, and the offset of the second file's data.
fn disk(alignment: usize) -> (Vec<u8>, u64) {
    let image = image();
    let mut bytes = image.bytes();
    let start = bytes.len() - image.files[1].1.len();
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
    (bytes, start as u64)
}

/// Reads. If the read is refused, the error must be EIO.
fn read(filesystem: &Filesystem, offset: u64, size: usize) -> Option<Vec<u8>> {
    match filesystem.read(3, offset, size, <[u8]>::to_vec) {
        Ok(bytes) => Some(bytes),
        Err(Refusal::Unreadable) => None,
        Err(other) => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn bad_sector_fails_exactly_the_reads_that_include_it(
        alignment in prop_oneof![Just(1_usize), Just(512), Just(4096)],
        sector in 0_u64..90,
        offset in 0_u64..41_000,
        size in 1_usize..20_000,
    ) {
        let (bytes, start) = disk(alignment);
        let unit = alignment.max(512) as u64;
        // Somewhere in the second file, so that the header scan does not read it.
        let bad = (start + 700 + sector * 400) / unit * unit;
        let bad = bad.max((start + 100).next_multiple_of(unit));
        let bad = bad..bad + unit;
        let memory = Memory { alignment, bad: bad.clone(), ..Memory::new(bytes) };
        let (filesystem, _) = over(memory.shared(), Strictness::Strict).unwrap();
        let data = &image().files[1].1;
        let from = (offset as usize).min(data.len());
        let to = (from + size).min(data.len());
        let needed = start + (from as u64)..start + to as u64;
        // Direct reads read whole sectors, so every touched sector counts.
        let touched = needed.start / unit * unit..needed.end.next_multiple_of(unit);
        let touched = if alignment == 1 { needed.clone() } else { touched };
        let hit = from < to && touched.start < bad.end && touched.end > bad.start;
        let given = read(&filesystem, offset, size);
        prop_assert_eq!(given.as_deref(), (!hit).then_some(&data[from..to]));
        prop_assert_eq!(attribute(&filesystem, 3, b"user.lbpayload.problem").is_ok(), hit);
    }

    #[test]
    fn shrunken_source_fails_only_reads_after_its_end(
        alignment in prop_oneof![Just(1_usize), Just(512), Just(4096)],
        lost in 0_u64..41_000,
        offset in 0_u64..41_000,
        size in 1_usize..20_000,
    ) {
        let (bytes, start) = disk(alignment);
        let source = Shrinking::new(bytes, alignment);
        let (filesystem, _) = over(source.clone(), Strictness::Strict).unwrap();
        let end = start + 40_000 - lost.min(40_000);
        source.end.store(end, Ordering::Relaxed);
        let data = &image().files[1].1;
        let from = (offset as usize).min(data.len());
        let to = (from + size).min(data.len());
        let left = (end - start) as usize;
        let given = read(&filesystem, offset, size);
        let whole = from == to || to <= left;
        prop_assert_eq!(given.as_deref(), whole.then_some(&data[from..to]));
        // The other file is unchanged.
        let first = filesystem.read(2, 0, 9_000, <[u8]>::to_vec).unwrap();
        prop_assert_eq!(&first, &image().files[0].1);
    }
}

#[test]
fn failed_read_sets_the_problem_attribute() {
    let (bytes, start) = disk(512);
    let bad = (start + 5_000).next_multiple_of(512);
    let memory = Memory {
        alignment: 512,
        bad: bad..bad + 512,
        ..Memory::new(bytes)
    };
    let (filesystem, _) = over(memory.shared(), Strictness::Strict).unwrap();
    let names = |ino| String::from_utf8(attribute_names(&filesystem, ino).unwrap()).unwrap();
    assert!(!names(3).contains("problem"));
    assert_eq!(read(&filesystem, 0, 40_000), None);
    assert!(names(3).contains("user.lbpayload.problem\0"));
    assert!(!names(2).contains("problem"));
    let problem = attribute(&filesystem, 3, b"user.lbpayload.problem").unwrap();
    let problem = String::from_utf8(problem).unwrap();
    assert!(problem.contains("Input/output error"), "{problem}");
    // The reported offset is inside the failed read, at or before the bad sector.
    let place = problem.split("at offset ").nth(1).unwrap();
    let place: u64 = place.split(')').next().unwrap().parse().unwrap();
    assert!((start..=bad).contains(&place), "{problem}");
    assert_eq!(problem.lines().count(), 1, "{problem}");
}

#[test]
fn checksum_of_an_unreadable_file_is_an_error_and_not_cached() {
    let (bytes, start) = disk(1);
    let source = Shrinking::new(bytes, 1);
    let (filesystem, _) = over(source.clone(), Strictness::Strict).unwrap();
    source.end.store(start + 100, Ordering::Relaxed);
    assert!(matches!(filesystem.sum(3), Err(Refusal::Unreadable)));
    assert!(matches!(filesystem.known_sum(3), Ok(None)));
    assert!(filesystem.problem(3).unwrap().is_some());
    source.end.store(u64::MAX, Ordering::Relaxed);
    let expected = crate::support::sha256sum(&image().files[1].1);
    assert_eq!(filesystem.sum(3).unwrap().to_string(), expected);
    assert_eq!(
        filesystem.known_sum(3).unwrap().unwrap().to_string(),
        expected
    );
}

#[test]
fn problem_disappears_when_the_bytes_can_be_read_again() {
    let (bytes, start) = disk(1);
    let source = Shrinking::new(bytes, 1);
    let (filesystem, _) = over(source.clone(), Strictness::Strict).unwrap();
    source.end.store(start + 100, Ordering::Relaxed);
    assert_eq!(read(&filesystem, 0, 8192), None);
    assert_eq!(read(&filesystem, 16_384, 8192), None);
    source.end.store(u64::MAX, Ordering::Relaxed);
    // Only the bytes that failed count.
    assert!(read(&filesystem, 30_000, 8192).is_some());
    assert!(filesystem.problem(3).unwrap().is_some());
    assert!(read(&filesystem, 0, 8192).is_some());
    assert!(filesystem.problem(3).unwrap().is_some());
    assert!(read(&filesystem, 16_000, 20_000).is_some());
    assert_eq!(filesystem.problem(3).unwrap(), None);
    assert_eq!(
        attribute(&filesystem, 1, b"user.lbpayload.errors").unwrap(),
        b"2"
    );
    assert_eq!(
        attribute(&filesystem, 1, b"user.lbpayload.reads").unwrap(),
        b"5"
    );
    let given = attribute(&filesystem, 1, b"user.lbpayload.bytes").unwrap();
    assert_eq!(given, (8192 + 8192 + 20_000).to_string().into_bytes());
}

/// Earlier the problems of all but 4,096 files were forgotten.
#[test]
fn problem_of_each_file_is_known_however_many_fail() {
    let names: Vec<_> = (0..6000).map(|n| format!("file-{n}")).collect();
    let files: Vec<_> = names.iter().map(|n| (&**n, &b"content"[..])).collect();
    let image = Image::new(&files).bytes();
    let source = Shrinking::new(image, 1);
    let (filesystem, _) = over(source.clone(), Strictness::Strict).unwrap();
    source.end.store(0, Ordering::Relaxed);
    for ino in 2..6002 {
        assert!(filesystem.read(ino, 0, 7, <[u8]>::to_vec).is_err());
    }
    for ino in 2..6002 {
        assert!(filesystem.problem(ino).unwrap().is_some(), "{ino}");
    }
}
