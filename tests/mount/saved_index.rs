//! `--index`: the headers are saved for the next mount, and checked when they are
//! used.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lbpayload::block::Source;
use lbpayload::mount::{Filesystem, Unfit};
use lbpayload::payload::Payload;
use sha2::{Digest, Sha256};

use crate::fixture::{Fixture, attribute, sample};
use crate::memory_filesystem::strict_filesystem;
use crate::support::memory::Memory;
use crate::support::{Image, Ran, noise, tree};

const CHANGED: SystemTime = SystemTime::UNIX_EPOCH;

/// More files than are compared with the image at mount time.
fn many() -> Image {
    let file = |n: u64| {
        (
            format!("file-{n:03}").into_bytes(),
            noise(n, n as usize % 7),
        )
    };
    Image {
        wide: true,
        files: (0..200).map(file).collect(),
    }
}

fn index_of(image: &Image) -> Vec<u8> {
    let mut index = Vec::new();
    let filesystem = strict_filesystem(image.bytes());
    filesystem.write_index(CHANGED, &mut index).unwrap();
    index
}

fn by_index(source: Memory, changed: SystemTime, index: &[u8]) -> Result<Filesystem, Unfit> {
    let source: Arc<dyn Source> = Arc::new(source);
    let payload = Payload::open_whatever_its_count(source).unwrap();
    Filesystem::from_index(payload, changed, index)
}

fn files(filesystem: &Filesystem) -> Vec<(Vec<u8>, Vec<u8>)> {
    let of = |ino| filesystem.read(ino, 0, 1 << 22, <[u8]>::to_vec).unwrap();
    let nodes = filesystem.tree().from(0);
    nodes
        .map(|node| (node.name.to_vec(), of(node.ino())))
        .collect()
}

/// With a correct checksum at the end, as an attacker would create it.
fn sealed(mut index: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    index.truncate(index.len() - 32);
    change(&mut index);
    let sum = Sha256::digest(&index);
    [index, sum.to_vec()].concat()
}

/// The offset of the first file in an index.
const FILES: usize = 8 + 8 + 12 + 1 + 8;

#[test]
fn files_from_an_index_match_the_image() {
    let empty = Image::new(&[]);
    for image in [many(), many().narrow(), empty, sample()] {
        let filesystem = by_index(Memory::new(image.bytes()), CHANGED, &index_of(&image)).unwrap();
        assert!(files(&filesystem) == image.files);
        let walked = strict_filesystem(image.bytes());
        assert_eq!(filesystem.tree().bytes(), walked.tree().bytes());
        for node in walked.tree().from(0) {
            assert_eq!(filesystem.tree().named(node.name), Some(node));
        }
    }
}

#[test]
fn truncated_or_corrupt_index_is_not_used() {
    let image = many();
    let index = index_of(&image);
    let refused = |index: &[u8]| by_index(Memory::new(image.bytes()), CHANGED, index).is_err();
    for len in 0..index.len() {
        assert!(refused(&index[..len]), "cut off at {len}");
        let mut flipped = index.clone();
        flipped[len] ^= 1 << (len % 8);
        assert!(refused(&flipped), "a bit of byte {len}");
    }
    assert!(refused(&[&index[..], b"x"].concat()));
    assert!(!refused(&index));
}

#[test]
fn index_of_another_image_is_not_used() {
    let index = index_of(&many());
    let refused =
        |image: &Image, changed| by_index(Memory::new(image.bytes()), changed, &index).is_err();
    assert!(!refused(&many(), CHANGED));
    assert!(refused(&many(), CHANGED + Duration::from_nanos(1)));
    assert!(refused(&many().narrow(), CHANGED));
    let mut other = many();
    other.files.pop();
    assert!(refused(&other, CHANGED), "fewer files");
    for place in [0, 199] {
        let mut other = many();
        other.files[place].0[0] = b'F';
        assert!(refused(&other, CHANGED), "another name at {place}");
    }
    // An image of the same length, with other file sizes.
    let mut other = many();
    (other.files[100].1, other.files[101].1) = (vec![], vec![0; 5]);
    assert_eq!(other.bytes().len(), many().bytes().len());
    assert!(refused(&other, CHANGED));
}

#[test]
fn only_files_whose_header_differs_from_the_index_are_unreadable() {
    let index = index_of(&many());
    let mut other = many();
    // A file that is not compared at mount time: every fourth file and the last one
    // are.
    other.files[101].0[0] = b'F';
    let filesystem = by_index(Memory::new(other.bytes()), CHANGED, &index).unwrap();
    for (n, (_, data)) in other.files.iter().enumerate() {
        let read = filesystem.read(n as u64 + 2, 0, 100, <[u8]>::to_vec);
        // An empty file needs no read.
        if n == 101 && !data.is_empty() {
            assert!(read.is_err());
            assert!(filesystem.sum(103).is_err());
            let problem = filesystem.problem(103).unwrap().unwrap();
            assert!(
                problem.contains("the index is of another image"),
                "{problem}"
            );
        } else {
            assert_eq!(read.unwrap(), *data, "{n}");
        }
    }
    // If a header cannot be read, its file cannot be read either.
    let at = many().header_offsets()[101] as u64;
    let source = Memory {
        bad: at..at + 1,
        ..Memory::new(many().bytes())
    };
    let filesystem = by_index(source, CHANGED, &index).unwrap();
    assert!(filesystem.read(103, 0, 100, |_| ()).is_err());
    assert!(filesystem.read(101, 0, 100, |_| ()).is_ok());
}

#[test]
fn malicious_index_is_refused() {
    type Change = fn(&mut Vec<u8>);
    let index = index_of(&many());
    let changes: [(&str, Change); 7] = [
        ("a name with a slash", |index| index[FILES + 9] = b'/'),
        ("a name of nothing", |index| index[FILES] = 0),
        ("a size without end", |index| {
            index[FILES + 1..FILES + 9].fill(0xff)
        }),
        ("a size past the end", |index| index[FILES + 3] = 1),
        ("a name twice", |index| {
            let first = index[FILES..FILES + 17].to_vec();
            // The second file has one byte. The size is its own field.
            let second = FILES + 17;
            index[second + 9..second + 17].copy_from_slice(&first[9..]);
        }),
        ("one file less", |index| index.truncate(index.len() - 17)),
        ("a file more", |index| {
            index.extend_from_within(FILES..FILES + 17)
        }),
    ];
    for (what, change) in changes {
        let index = sealed(index.clone(), change);
        let refused = by_index(Memory::new(many().bytes()), CHANGED, &index);
        assert!(refused.is_err(), "{what}");
    }
    assert!(by_index(Memory::new(many().bytes()), CHANGED, &sealed(index, |_| ())).is_ok());
}

#[test]
fn false_file_count_needs_no_memory_or_time() {
    let mut bytes = many().bytes();
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    bytes[12..16].fill(0);
    let index = sealed(index_of(&many()), |index| {
        index[FILES - 8..FILES].copy_from_slice(&bytes[8..16]);
    });
    assert!(by_index(Memory::new(bytes), CHANGED, &index).is_err());
}

/// Damages a header and keeps the time of the image. Only a mount that uses the index
/// works after that, because it does not read that header.
fn damage_a_header_and_keep_the_time(fixture: &Fixture, image: &Image) {
    let time = fixture.image.metadata().unwrap().modified().unwrap();
    let mut bytes = image.bytes();
    bytes[image.header_offsets()[101]..][..8].fill(0xff);
    std::fs::write(&fixture.image, bytes).unwrap();
    let file = File::options().write(true).open(&fixture.image).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
fn second_mount_uses_the_index_of_the_first() {
    needs_fuse!();
    let image = many();
    let fixture = Fixture::new(&image);
    let index = fixture.dir().join("the index");
    let arg = index.to_str().unwrap();
    fixture.mounted(&["--index", arg]);
    let seen = tree(&fixture.point);
    fixture.unmount(&[]).exits(0);
    damage_a_header_and_keep_the_time(&fixture, &image);
    fixture.mount(&[]).exits(1).says("entry 101");
    fixture.mounted(&["-o", &format!("index={arg}")]);
    let (name, _) = &image.files[101];
    let name = std::str::from_utf8(name).unwrap();
    let error = std::fs::read(fixture.file(name)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let problem = attribute(&fixture.file(name), "problem").unwrap();
    assert!(problem.contains("remove it and mount again"), "{problem}");
    for (name, data) in seen.iter().filter(|(other, _)| other != name) {
        assert_eq!(std::fs::read(fixture.file(name)).unwrap(), *data);
    }
    fixture.unmount(&[]).exits(0);
    // Size and time of the image have changed. So a new index is written, if
    // possible.
    let before = std::fs::read(&index).unwrap();
    std::fs::write(&fixture.image, sample().bytes()).unwrap();
    fixture.mounted(&["--index", arg]);
    assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
    fixture.unmount(&[]).exits(0);
    assert_ne!(std::fs::read(&index).unwrap(), before);
    fixture.is_clean();
}

#[test]
fn no_index_is_saved_for_an_image_with_problems() {
    needs_fuse!();
    let mut image = many();
    image.files[7].0 = b"a/b".to_vec();
    let fixture = Fixture::new(&image);
    let index = fixture.dir().join("index");
    let arg = index.to_str().unwrap();
    fixture.mount(&["--index", arg]).exits(1);
    fixture.mount(&["--lenient", "--index", arg]).exits(0);
    assert!(!index.exists());
    fixture.unmount(&[]).exits(0);
}

#[test]
fn file_that_is_not_an_index_is_refused_and_kept() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mine = fixture.dir().join("mine");
    std::fs::write(&mine, "mine").unwrap();
    let fifo = fixture.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (file, why) in [
        (&mine, "not an index"),
        (&fifo, "found a FIFO"),
        (&fixture.image, "not an index"),
        (&fixture.point, "found a directory"),
    ] {
        let ran = fixture.mount(&["--index", file.to_str().unwrap()]).exits(1);
        ran.says(file.to_str().unwrap()).says("--index").says(why);
        assert!(!crate::fixture::is_mounted(&fixture.point));
    }
    assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
    // A file as mktemp creates it.
    std::fs::write(&mine, "").unwrap();
    fixture.mounted(&["--index", mine.to_str().unwrap()]);
    assert!(std::fs::read(&mine).unwrap().starts_with(b"LBPINDX1"));
    fixture.unmount(&[]).exits(0);
}

#[test]
fn mount_continues_with_a_warning_when_no_index_can_be_written() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let ran: Ran = fixture.mount(&["--index", "/proc/no/index"]).exits(0);
    ran.says("warning: ").says("/proc/no");
    assert_eq!(tree(&fixture.point).len(), 5);
    fixture.unmount(&[]).exits(0);
}
