//! Damaged images: the filesystem without a kernel, and real mounts that are walked. Whatever an
//! image holds, a reader gets bytes of the image or an error.
//!
//! `scripts/hostile-mounts` does this many times.

// What scripts/hostile-mounts prints.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lbpayload::mount::Filesystem;
use rustix::fs::{getxattr, listxattr};

use crate::fixture::{Fixture, sh};
use crate::memory_filesystem::over;
use crate::support::memory::Memory;
use crate::support::{Image, noise};

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Numbers that a seed determines.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// An image with names that nobody should choose, and with damage.
fn damaged(seed: u64) -> Vec<u8> {
    let random = &mut Random(seed);
    let name = |random: &mut Random, n: usize| match random.below(12) {
        0 => b"same".to_vec(),
        1 => [b"..", b".".as_slice(), b"a/../b", b"/etc", b"n\0l"][random.below(5)].to_vec(),
        2 => noise(random.next(), 1 + random.below(30)),
        3 => vec![b'x'; 200 + random.below(900)],
        4 => b"%2F".to_vec(),
        _ => format!("file-{n}").into_bytes(),
    };
    let files = random.below(12);
    let image = Image {
        wide: random.below(2) == 0,
        files: (0..files)
            .map(|n| {
                let size = [0, 10, 700, 9000][random.below(4)];
                let size = random.below(size + 1);
                (name(random, n), noise(random.next(), size))
            })
            .collect(),
    };
    let mut bytes = image.bytes();
    let mut places: Vec<usize> = image.header_offsets();
    places.push(8);
    for _ in 0..random.below(4) {
        let place = places[random.below(places.len())] + random.below(24);
        let place = place.min(bytes.len() - 1);
        match random.below(7) {
            0 => bytes[place] ^= 1 << random.below(8),
            1 => bytes[place] = random.next() as u8,
            2 => {
                let values = [
                    0,
                    1,
                    255,
                    1024,
                    1025,
                    u64::from(u32::MAX),
                    1 << 63,
                    u64::MAX,
                ];
                let value = values[random.below(values.len())].to_le_bytes();
                let len = 8.min(bytes.len() - place);
                bytes[place..place + len].copy_from_slice(&value[..len]);
            }
            3 => bytes.truncate(8 + random.below(bytes.len() - 7)),
            4 => bytes.insert(place, random.next() as u8),
            5 => drop(bytes.remove(place.max(8).min(bytes.len() - 1))),
            _ => {
                let from = random.below(bytes.len());
                let part = bytes[from..(from + 40).min(bytes.len())].to_vec();
                bytes.splice(place..place, part);
            }
        }
        if bytes.len() < 20 {
            break;
        }
    }
    bytes
}

/// What a mount must show: name, size and bytes, from the filesystem without a kernel.
fn expected(filesystem: &Filesystem) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let nodes = filesystem.tree().from(0);
    nodes
        .map(|node| {
            let bytes = filesystem.read(node.ino(), 0, 1 << 20, <[u8]>::to_vec);
            (node.name.to_vec(), bytes.unwrap())
        })
        .collect()
}

/// Mounts an image, walks it, and compares. False if it is refused.
fn walked(bytes: &[u8]) -> bool {
    let fixture = Fixture::with_bytes(bytes);
    let made = std::panic::catch_unwind(|| {
        over(
            Memory::new(bytes.to_vec()).shared(),
            lbpayload::mount::Strictness::Lenient,
        )
    });
    let made = made.unwrap();
    let ran = fixture.mount(&["--lenient"]);
    let Ok((filesystem, _)) = made else {
        assert_ne!(ran.status, Some(0), "a mount of what cannot be mounted");
        return false;
    };
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let mut expected = expected(&filesystem);
    let found = sh("find", &[&fixture.point, &"-ls"]);
    assert!(found.lines().count() > expected.len(), "{found}");
    for entry in fs::read_dir(&fixture.point).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let name = entry.file_name().as_bytes().to_vec();
        let want = expected.remove(&name).expect("a file that is not expected");
        let meta = entry.metadata().unwrap();
        assert_eq!((meta.size(), meta.nlink()), (want.len() as u64, 1));
        assert!(meta.is_file() && meta.mode() & 0o7222 == 0);
        assert!(
            fs::read(&path).unwrap() == want,
            "{}: other bytes",
            path.display()
        );
        attributes(&path);
    }
    assert!(expected.is_empty(), "not listed: {:?}", expected.keys());
    attributes(&fixture.point);
    fixture.unmount(&[]).exits(0);
    true
}

/// Reads all attributes, as getfattr does.
fn attributes(path: &Path) {
    let mut names = vec![0; 65536];
    let len = listxattr(path, &mut names[..]).unwrap();
    for name in names[..len]
        .split(|byte| *byte == 0)
        .filter(|n| !n.is_empty())
    {
        let name = std::str::from_utf8(name).unwrap();
        let mut value = vec![0; 65536];
        getxattr(path, name, &mut value[..]).unwrap();
    }
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    text.parse().unwrap_or(default)
}

/// Runs `act` for `count` images. Returns how many it accepted, and the seeds that failed.
fn try_all(first: u64, count: u64, act: impl Fn(&[u8]) -> bool) -> (u64, Vec<u64>) {
    let (mut accepted, mut failed) = (0, Vec::new());
    for seed in first..first + count {
        let run = || act(&damaged(seed));
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            Ok(true) => accepted += 1,
            Ok(false) => {}
            Err(_) => failed.push(seed),
        }
    }
    (accepted, failed)
}

fn without_a_kernel(bytes: &[u8]) -> bool {
    targets::payload(bytes);
    over(
        Memory::new(bytes.to_vec()).shared(),
        lbpayload::mount::Strictness::Lenient,
    )
    .is_ok()
}

#[test]
fn filesystem_over_a_damaged_image_gives_bytes_of_the_image_or_an_error() {
    let (accepted, failed) = try_all(0, 1500, without_a_kernel);
    assert_eq!(failed, [] as [u64; 0]);
    assert!(accepted > 300, "only {accepted} could be used");
}

#[test]
fn damaged_image_that_is_mounted_and_walked_gives_bytes_of_the_image() {
    needs_fuse!();
    let (accepted, failed) = try_all(0, 12, walked);
    assert_eq!(failed, [] as [u64; 0]);
    assert!(accepted > 3, "only {accepted} could be mounted");
}

/// `scripts/hostile-mounts` runs this.
#[test]
#[ignore = "scripts/hostile-mounts runs it"]
fn many_damaged_images() {
    let first = number("LBPAYLOAD_SEED", 0);
    let images = number("LBPAYLOAD_IMAGES", 0);
    let (accepted, mut failed) = try_all(first, images, without_a_kernel);
    println!("{images} images without a kernel, {accepted} of them usable");
    let mounts = number("LBPAYLOAD_MOUNTS", 0);
    let (accepted, more) = try_all(first, mounts, walked);
    println!("{mounts} images mounted, {accepted} of them usable");
    failed.extend(more);
    failed.iter().for_each(|seed| println!("seed {seed}"));
    println!("{} images, {} failures", images + mounts, failed.len());
    assert!(failed.is_empty());
}
