//! The filesystem without a kernel, compared with a simple model: a list of files.

use std::collections::BTreeMap;

use lbpayload::mount::{Filesystem, NodeKind, Refusal, Row};
use proptest::prelude::*;

use crate::memory_filesystem::filesystem;
use crate::support::Image;

const ROOT: u64 = 1;

/// Names in unsorted order, and data at all kinds of alignments.
fn image() -> impl Strategy<Value = Image> {
    let name = "[a-d]{1,3}|[ -.0-\\[\\]-~]{3,40}|é{100}";
    let data = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (0_usize..20_000, any::<u8>())
            .prop_map(|(len, seed)| (0..len).map(|n| (n / 7) as u8 ^ seed).collect()),
    ];
    let files = prop::collection::btree_map(name, data, 0..20);
    (files, any::<bool>(), 0_usize..20).prop_map(|(files, wide, turn)| {
        let own_name = |name: &String| name != "..." && name != "..";
        let files: BTreeMap<String, Vec<u8>> =
            files.into_iter().filter(|f| own_name(&f.0)).collect();
        let mut files: Vec<_> = files
            .into_iter()
            .map(|(n, d)| (n.into_bytes(), d))
            .collect();
        let turn = turn.min(files.len());
        files.rotate_left(turn);
        Image { wide, files }
    })
}

/// The expected rows of a listing from `offset` on.
fn rows(image: &Image, offset: u64) -> Vec<(u64, NodeKind, Vec<u8>, u64)> {
    let dots = [b".".to_vec(), b"..".to_vec()];
    let mut rows: Vec<_> = dots
        .map(|name| (ROOT, NodeKind::Directory, name, 0))
        .into_iter()
        .collect();
    for (n, (name, data)) in image.files.iter().enumerate() {
        let size = data.len() as u64;
        rows.push((n as u64 + 2, NodeKind::File(size), name.clone(), 0));
    }
    for (n, row) in rows.iter_mut().enumerate() {
        row.3 = n as u64 + 1;
    }
    rows.into_iter().skip(offset.min(1000) as usize).collect()
}

fn own(row: Row<'_>) -> (u64, NodeKind, Vec<u8>, u64) {
    (row.ino, row.kind, row.name.to_vec(), row.next)
}

fn read(filesystem: &Filesystem, ino: u64, offset: u64, size: usize) -> Option<Vec<u8>> {
    filesystem.read(ino, offset, size, <[u8]>::to_vec).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn lookup_by_name_and_inode_matches_the_model(
        image in image(),
        asked in "[a-d]{1,3}",
        far in any::<u64>(),
    ) {
        let filesystem = filesystem(image.bytes(), 1);
        let mut names: Vec<Vec<u8>> = image.files.iter().map(|f| f.0.clone()).collect();
        names.extend([asked.into_bytes(), b".".to_vec(), b"..".to_vec(), Vec::new()]);
        for name in names {
            let at = image.files.iter().position(|f| f.0 == name);
            let found = filesystem.lookup(ROOT, &name).ok();
            prop_assert_eq!(found.map(|node| node.ino()), at.map(|n| n as u64 + 2));
            prop_assert_eq!(
                found.map(|node| node.size),
                at.map(|n| image.files[n].1.len() as u64)
            );
        }
        let files = image.files.len() as u64;
        for ino in (0..files + 4).chain([far, u64::MAX, u64::MAX - 1]) {
            let file = ino.checked_sub(2).and_then(|n| image.files.get(usize::try_from(n).ok()?));
            match filesystem.kind(ino) {
                Ok(NodeKind::Directory) => prop_assert_eq!(ino, ROOT),
                Ok(NodeKind::File(size)) => prop_assert_eq!(Some(size), file.map(|f| f.1.len() as u64)),
                Err(Refusal::NotThere) => prop_assert!(file.is_none() && ino != ROOT),
                Err(other) => prop_assert!(false, "{:?}", other),
            }
            if ino != ROOT {
                let under = filesystem.lookup(ino, b"a").map(|_| ()).unwrap_err();
                let expected = if file.is_some() { "NotADirectory" } else { "NotThere" };
                prop_assert_eq!(format!("{under:?}"), expected);
                let listed = filesystem.list(ino, 0).map(|_| ()).unwrap_err();
                prop_assert_eq!(format!("{listed:?}"), expected);
            }
        }
        prop_assert!(matches!(filesystem.file(ROOT), Err(Refusal::ADirectory)));
    }

    #[test]
    fn listing_continues_from_any_offset(image in image(), far in any::<u64>()) {
        let filesystem = filesystem(image.bytes(), 1);
        let files = image.files.len() as u64;
        for offset in (0..files + 5).chain([far.max(1000), u64::MAX]) {
            let listed: Vec<_> = filesystem.list(ROOT, offset).unwrap().map(own).collect();
            prop_assert_eq!(listed, rows(&image, offset));
        }
        // As the kernel does: continue at the offset of the last row, one row at a
        // time.
        let mut walked = Vec::new();
        let mut offset = 0;
        while let Some(row) = filesystem.list(ROOT, offset).unwrap().next().map(own) {
            offset = row.3;
            walked.push(row);
        }
        prop_assert_eq!(walked, rows(&image, 0));
    }

    #[test]
    fn read_returns_the_requested_slice(
        image in image(),
        alignment in prop_oneof![Just(1_usize), Just(512), Just(4096)],
        places in prop::collection::vec((any::<u64>(), 0_u64..21_000, 0_usize..21_000), 1..20),
        far in any::<u64>(),
    ) {
        let mut bytes = image.bytes();
        // After an empty u32 payload, other bytes would be read as the upper half of
        // a u64 count.
        let padding = if image.files.is_empty() { 0 } else { 0xee };
        bytes.resize(bytes.len().next_multiple_of(alignment), padding);
        let filesystem = filesystem(bytes, alignment);
        for (n, (_, data)) in image.files.iter().enumerate() {
            let len = data.len() as u64;
            let fixed = [(0, 0, 1 << 20), (0, len, 1), (0, len.saturating_sub(1), 2), (0, far.max(len), 9)];
            for (_, offset, size) in fixed.iter().chain(&places) {
                let start = (*offset).min(len) as usize;
                let end = (start + size).min(data.len());
                let got = read(&filesystem, n as u64 + 2, *offset, *size);
                prop_assert_eq!(got.as_deref(), Some(&data[start..end]));
            }
        }
        for ino in [0, ROOT, image.files.len() as u64 + 2, far.max(1000)] {
            prop_assert_eq!(read(&filesystem, ino, 0, 9), None);
        }
    }
}

#[test]
fn read_larger_than_the_cached_buffers_is_complete() {
    let data = crate::support::noise(5, 5 << 20);
    for alignment in [1, 512, 4096] {
        let mut bytes = Image::new(&[("a", b"x"), ("big", &data)]).bytes();
        bytes.resize(bytes.len().next_multiple_of(alignment), 0);
        let filesystem = filesystem(bytes, alignment);
        for size in [
            1 << 20,
            (1 << 20) + 8191,
            (1 << 20) + 8193,
            5 << 20,
            usize::MAX,
        ] {
            let got = read(&filesystem, 3, 0, size).unwrap();
            assert!(got == data[..size.min(data.len())], "{alignment} {size}");
            let got = read(&filesystem, 3, 1, size).unwrap();
            assert!(
                got == data[1..size.saturating_add(1).min(data.len())],
                "{alignment} {size}"
            );
        }
    }
}
