//! Broken images: refused as `list` and `verify` refuse them. With `--lenient` the
//! intact parts are shown.

use std::collections::BTreeSet;

use lbpayload::error::{Error, Kind};
use lbpayload::mount::{Filesystem, Strictness, attribute};
use lbpayload::payload::{Index, Payload};
use lbpayload::progress::Silent;
use proptest::prelude::*;

use crate::memory_filesystem::{lenient, over, strict};
use crate::support::Image;
use crate::support::memory::Memory;

fn named(names: &[&[u8]]) -> Image {
    let file = |(n, name): (usize, &&[u8])| (name.to_vec(), format!("data {n}").into_bytes());
    Image {
        wide: true,
        files: names.iter().enumerate().map(file).collect(),
    }
}

fn names(filesystem: &Filesystem) -> Vec<Vec<u8>> {
    filesystem
        .tree()
        .from(0)
        .map(|node| node.name.to_vec())
        .collect()
}

fn problem(filesystem: &Filesystem, ino: u64) -> Option<String> {
    let value = attribute(filesystem, ino, b"user.lbpayload.problem");
    let value = String::from_utf8(value.ok()?).unwrap();
    assert_eq!(value.lines().count(), 1, "{value}");
    Some(value)
}

fn content(filesystem: &Filesystem, ino: u64) -> Vec<u8> {
    filesystem.read(ino, 0, 1 << 20, <[u8]>::to_vec).unwrap()
}

#[test]
fn names_that_no_file_system_supports_are_shown_escaped() {
    let long = vec![b'x'; 300];
    let cases: [(&[u8], Vec<u8>, bool); 11] = [
        (b"a/b", b"a%2Fb".to_vec(), true),
        (b"/etc/passwd", b"%2Fetc%2Fpasswd".to_vec(), true),
        (b"../up", b"..%2Fup".to_vec(), true),
        (b".", b"%2E".to_vec(), true),
        (b"..", b"%2E%2E".to_vec(), true),
        (b"nul\0inside", b"nul%00inside".to_vec(), true),
        (&long, [&long[..252], b"%6"].concat(), true),
        (b"line\nfeed", b"line\nfeed".to_vec(), true),
        (b"\xff\xfe", b"\xff\xfe".to_vec(), true),
        (b"back\\slash", b"back\\slash".to_vec(), true),
        (b"fine", b"fine".to_vec(), false),
    ];
    let image = named(&cases.each_ref().map(|case| case.0));
    let (filesystem, told) = lenient(image.bytes());
    assert_eq!(told.len(), 10, "{told:?}");
    let mut expected: Vec<Vec<u8>> = cases.iter().map(|case| case.1.clone()).collect();
    expected[6] = [&long[..253], b"%6"].concat();
    assert_eq!(names(&filesystem), expected);
    for (n, case) in cases.iter().enumerate() {
        let ino = n as u64 + 2;
        assert_eq!(problem(&filesystem, ino).is_some(), case.2, "{n}");
        assert_eq!(content(&filesystem, ino), format!("data {n}").into_bytes());
        assert_eq!(filesystem.lookup(1, &expected[n]).unwrap().ino(), ino);
    }
    let all = problem(&filesystem, 1).unwrap();
    assert!(all.starts_with("10 problems, the first: entry 0 "), "{all}");
}

#[test]
fn files_before_the_cut_are_shown() {
    for wide in [true, false] {
        let image = Image {
            wide,
            files: (0..1000)
                .map(|n| (format!("{n:03}").into(), vec![]))
                .collect(),
        };
        let mut bytes = image.bytes();
        // So short that the header's count is larger than the possible number of
        // files.
        bytes.truncate(if wide { 16 + 19 * 7 } else { 12 + 11 * 7 });
        assert_eq!(strict(bytes.clone()).kind(), Kind::Format);
        let (filesystem, told) = lenient(bytes);
        assert_eq!(told, ["count-too-large", "cut-off"]);
        assert_eq!(filesystem.tree().files(), 7);
        assert_eq!(content(&filesystem, 8), b"");
        let all = problem(&filesystem, 1).unwrap();
        assert!(
            all.starts_with("2 problems, the first: the header claims 1000 files"),
            "{all}"
        );
    }
}

#[test]
fn all_files_are_shown_when_the_count_is_a_multiple_of_2_to_the_32() {
    let mut bytes = named(&[b"a", b"b"]).bytes();
    bytes[8..16].copy_from_slice(&(3_u64 << 32).to_le_bytes());
    assert_eq!(strict(bytes.clone()).kind(), Kind::Format);
    let (filesystem, told) = lenient(bytes);
    assert_eq!(told, ["count-too-large", "cut-off"]);
    assert_eq!(names(&filesystem), [b"a", b"b"]);
    assert_eq!(content(&filesystem, 3), b"data 1");
}

#[test]
fn duplicate_names_are_shown_under_different_names() {
    let (filesystem, told) = lenient(named(&[b"a", b"b", b"a", b"a"]).bytes());
    assert_eq!(names(&filesystem), [&b"a"[..], b"b", b"a%2", b"a%3"]);
    assert_eq!(told, ["name-repeated"; 2]);
    assert_eq!(problem(&filesystem, 2), None);
    let second = problem(&filesystem, 4).unwrap();
    assert!(
        second.contains("an earlier file is called a too"),
        "{second}"
    );
    assert_eq!(content(&filesystem, 5), b"data 3");
}

#[test]
fn names_that_collide_with_generated_names_still_get_unique_ones() {
    let full = |suffix: &str| [&vec![b'x'; 255 - suffix.len()][..], suffix.as_bytes()].concat();
    // Each is the name that would be generated for the next one.
    let first = full("%1");
    let image = named(&[
        &first, &first, b"a%2Fb", b"a/b", b"a/b%3", b"a%2Fb%3", b"a%2Fb",
    ]);
    let (filesystem, _) = lenient(image.bytes());
    let shown: BTreeSet<Vec<u8>> = names(&filesystem).into_iter().collect();
    assert_eq!(shown.len(), 7);
    for n in 0..7 {
        assert_eq!(
            content(&filesystem, n + 2),
            format!("data {n}").into_bytes()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn every_file_gets_a_valid_unique_name(
        names in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(prop::sample::select(b"/%.2F01\0a".to_vec()), 1..6),
                (0_usize..8, 250_usize..258).prop_map(|(n, len)| {
                    let mut name = vec![b'x'; len];
                    name.extend(format!("%{n}").bytes());
                    name
                }),
                (0_usize..8).prop_map(|n| [&[b'x'; 253][..], format!("%{n}").as_bytes()].concat()),
            ],
            0..12,
        ),
        wide in any::<bool>(),
    ) {
        let refs: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let image = Image { wide, ..named(&refs) };
        let (filesystem, _) = lenient(image.bytes());
        let shown = super::lenient::names(&filesystem);
        prop_assert_eq!(shown.len(), names.len());
        prop_assert_eq!(shown.iter().collect::<BTreeSet<_>>().len(), names.len());
        for (n, name) in shown.iter().enumerate() {
            prop_assert!((1..=255).contains(&name.len()));
            prop_assert!(!name.iter().any(|b| matches!(b, b'/' | 0)));
            prop_assert!(name != b"." && name != b"..");
            prop_assert_eq!(filesystem.lookup(1, name).unwrap().index, n as u64);
            prop_assert_eq!(content(&filesystem, n as u64 + 2), format!("data {n}").into_bytes());
        }
    }

    #[test]
    fn strict_refuses_the_same_images_as_the_index_with_the_same_message(
        names in prop::collection::vec("[ab]|\\.|a/b|x{256}", 1..5),
        lost in 0_usize..30,
        wide in any::<bool>(),
    ) {
        let refs: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let image = Image { wide, ..named(&refs) };
        let mut bytes = image.bytes();
        bytes.truncate(bytes.len() - lost.min(bytes.len() - 16));
        let source = Memory::new(bytes.clone()).shared();
        let index = Payload::open(source).and_then(|payload| Index::strict(&payload, &Silent).map(drop));
        let mount = over(Memory::new(bytes).shared(), Strictness::Strict).map(drop);
        // If there are two problems, the index reports duplicate names last.
        let all_differ = names.iter().collect::<BTreeSet<_>>().len() == names.len();
        let said = |e: Error| (e.kind(), all_differ.then(|| e.to_string()));
        prop_assert_eq!(mount.map_err(said), index.map_err(said));
    }
}

#[test]
fn truncated_file_is_shown_up_to_the_cut() {
    let image = || Image::new(&[("whole", &[7; 99]), ("cut", b"abcdefghij"), ("lost", b"!")]);
    for image in [image(), image().narrow()] {
        let whole = image.bytes();
        let third = image.header_offsets()[2];
        for kept in 0..=10 {
            let cut = whole[..third - 10 + kept].to_vec();
            let (filesystem, told) = lenient(cut.clone());
            assert_eq!(told.len(), 1, "{kept}");
            assert_eq!(names(&filesystem), [&b"whole"[..], b"cut"], "{kept}");
            assert_eq!(content(&filesystem, 2), [7; 99]);
            assert_eq!(content(&filesystem, 3), b"abcdefghij"[..kept]);
            assert_eq!(problem(&filesystem, 2), None);
            assert_eq!(problem(&filesystem, 3).is_some(), kept < 10, "{kept}");
            assert!(problem(&filesystem, 1).is_some());
            assert_eq!(strict(cut).kind(), Kind::Format);
        }
        // The cut is in the third header and its name: nothing is known about that
        // file.
        for end in third..third + if image.wide { 20 } else { 12 } {
            let (filesystem, told) = lenient(whole[..end].to_vec());
            assert_eq!(told, ["cut-off"], "{end}");
            assert_eq!(names(&filesystem), [&b"whole"[..], b"cut"], "{end}");
            assert!(problem(&filesystem, 1).is_some());
        }
    }
}

#[test]
fn huge_size_or_count_shows_the_other_files_without_large_allocations() {
    let image = Image::new(&[("a", b"one"), ("b", b"two")]);
    let mut bytes = image.bytes();
    let size_at = image.header_offsets()[1] + 8;
    bytes[size_at..size_at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    let (filesystem, told) = lenient(bytes.clone());
    assert_eq!(told, ["size-overflow"]);
    assert_eq!(names(&filesystem), [b"a", b"b"]);
    assert_eq!(content(&filesystem, 2), b"one");
    assert_eq!(content(&filesystem, 3), b"two");
    assert!(problem(&filesystem, 3).unwrap().contains("overflow"));
    bytes[size_at..size_at + 8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    let (filesystem, told) = lenient(bytes);
    assert_eq!(told, ["data-past-end"]);
    assert_eq!(content(&filesystem, 3), b"two");
}

#[test]
fn files_before_an_unreadable_header_are_shown() {
    let image = Image::new(&[("a", &[1; 5000]), ("b", &[2; 5000]), ("c", &[3; 5000])]);
    let header = image.header_offsets()[2] as u64;
    let memory = || Memory {
        alignment: 512,
        bad: header / 512 * 512..header / 512 * 512 + 512,
        ..Memory::new({
            let mut bytes = image.bytes();
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes
        })
    };
    let strict = over(memory().shared(), Strictness::Strict);
    assert_eq!(strict.err().unwrap().kind(), Kind::Io);
    let (filesystem, told) = over(memory().shared(), Strictness::Lenient).unwrap();
    assert_eq!(told, ["io"]);
    assert_eq!(names(&filesystem), [&b"a"[..], b"b"]);
    assert_eq!(content(&filesystem, 2), [1; 5000]);
}
