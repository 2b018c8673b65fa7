//! A protect or a repair that is killed at any write leaves the payload no worse than before.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lbpayload::block::{AlignedBuf, ReadMode, Source, read_exact_at};
use lbpayload::error::SourceFailure;
use lbpayload::progress::Silent;
use lbpayload::protect::{RepairOptions, repair_source, walk};
use lbpayload::protection::{
    Geometry, Header, Healer, ProtectedSource, Target, Trailer, TrailerWriter, find,
};

use crate::support::{Image, noise};

const BLOCK: usize = 4096;
const MEMORY: usize = 16 << 20;

/// A disk in memory that stops to write after some blocks. A write that is cut may have changed a
/// part of its blocks.
#[derive(Clone)]
struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

impl Disk {
    fn new(bytes: &[u8], blocks: usize) -> Self {
        Self(Arc::new(Mutex::new((bytes.to_vec(), blocks))))
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }
}

impl Target for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Source::read_at(self, buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        for (n, block) in buf.chunks(BLOCK).enumerate() {
            if disk.1 == 0 {
                return Err(io::Error::other("killed"));
            }
            disk.1 -= 1;
            let at = offset as usize + n * BLOCK;
            if disk.0.len() < at + BLOCK {
                disk.0.resize(at + BLOCK, 0);
            }
            disk.0[at..at + BLOCK].copy_from_slice(block);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        match self.0.lock().unwrap().1 {
            0 => Err(io::Error::other("killed")),
            _ => Ok(()),
        }
    }
}

impl Source for Disk {
    fn path(&self) -> &Path {
        Path::new("disk")
    }

    fn len(&self) -> u64 {
        self.0.lock().unwrap().0.len() as u64
    }

    fn alignment(&self) -> usize {
        512
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.0.lock().unwrap();
        let from = disk.0.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }
}

fn image() -> Image {
    Image::new(&[
        ("a", &noise(1, 100_000)),
        ("b", b""),
        ("c", &noise(2, 60_001)),
    ])
}

fn write_trailer(disk: &Disk) -> io::Result<Header> {
    let image = image();
    let plain = image.bytes();
    let mut headers = plain[..16].to_vec();
    for (at, (name, _)) in image.header_offsets().into_iter().zip(&image.files) {
        headers.extend(&plain[at..at + 16 + name.len()]);
    }
    let geometry = Geometry::plan(plain.len() as u64, headers.len() as u64, 5).unwrap();
    let mut writer = TrailerWriter::begin(disk, geometry, MEMORY, plain.len() as u64)?;
    writer.headers(&headers)?;
    writer.payload(&plain)?;
    writer.finish(None, MEMORY, &|_| Ok(()))
}

/// Reads the whole payload, checked and healed if there is a trailer.
fn read(disk: &Disk) -> Option<Vec<u8>> {
    let source = disk.source();
    let source: Arc<dyn Source> = match find(&source, &mut || walk(&source)) {
        Trailer::Found(header) => {
            let healer = Healer::new(Arc::clone(&source), *header, MEMORY);
            Arc::new(ProtectedSource::new(source, healer, MEMORY))
        }
        _ => source,
    };
    let len = image().bytes().len();
    let mut buf = AlignedBuf::new(len).unwrap();
    let padded = len.next_multiple_of(BLOCK);
    let n = read_exact_at(&*source, &mut buf[..padded], 0).ok()?;
    (n >= len).then(|| buf[..len].to_vec())
}

#[test]
fn trailer_whose_writer_was_killed_is_not_used_and_can_be_written_again() {
    let plain = image().bytes();
    let disk = Disk::new(&plain, usize::MAX);
    write_trailer(&disk).unwrap();
    let whole = disk.bytes();
    let mut kills = 0;
    for blocks in 0.. {
        let disk = Disk::new(&plain, blocks);
        let done = write_trailer(&disk).is_ok();
        assert!(
            read(&disk).unwrap() == plain,
            "killed after {blocks} blocks"
        );
        let again = Disk::new(&disk.bytes(), usize::MAX);
        write_trailer(&again).unwrap();
        assert!(again.bytes() == whole, "killed after {blocks} blocks");
        if done {
            break;
        }
        kills += 1;
    }
    assert!(kills > 10, "{kills}");
}

#[test]
fn repair_that_is_killed_makes_nothing_worse_and_can_be_repeated() {
    let plain = image().bytes();
    let disk = Disk::new(&plain, usize::MAX);
    let header = write_trailer(&disk).unwrap();
    let whole = disk.bytes();
    // Within the promise: two blocks of data or trailer, and the first header.
    let start = plain.len().div_ceil(BLOCK);
    let end = whole.len() / BLOCK;
    for damaged in [
        vec![0],
        vec![3, 20],
        vec![0, start],
        vec![7, start + 1, start + 2],
        vec![5, end - 1, end - 2],
        vec![start, start + 1, start + 2, start + 3],
    ] {
        let mut bad = whole.clone();
        for block in &damaged {
            bad[block * BLOCK..(block + 1) * BLOCK].fill(0x55);
        }
        let mut kills = 0;
        for blocks in 0.. {
            let disk = Disk::new(&bad, blocks);
            let open = || Ok(Box::new(disk.clone()) as Box<dyn Target>);
            let repair = |disk: &Disk| {
                let options = RepairOptions::default();
                repair_source(&disk.source(), &open, &header, &options, &Silent)
            };
            let done = repair(&disk).is_ok();
            // No block is worse than before.
            let after = disk.bytes();
            for (n, block) in after.chunks(BLOCK).enumerate() {
                let at = n * BLOCK..(n + 1) * BLOCK;
                let old_or_right = *block == bad[at.clone()] || *block == whole[at];
                assert!(old_or_right, "{damaged:?}, {blocks}: block {n}");
            }
            assert!(read(&disk).unwrap() == plain, "{damaged:?}, {blocks}");
            disk.0.lock().unwrap().1 = usize::MAX;
            repair(&disk).unwrap();
            assert!(disk.bytes() == whole, "{damaged:?}, {blocks}");
            if done {
                break;
            }
            kills += 1;
        }
        assert!(kills >= damaged.len(), "{damaged:?}: {kills}");
    }
}

/// A server that does not answer for some blocks, for a while.
struct Away {
    disk: Disk,
    blocks: std::ops::Range<usize>,
    away: Arc<AtomicBool>,
}

impl Source for Away {
    fn path(&self) -> &Path {
        self.disk.path()
    }

    fn len(&self) -> u64 {
        Source::len(&self.disk)
    }

    fn alignment(&self) -> usize {
        1
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = offset as usize;
        let wanted = start / BLOCK..(start + buf.len()).div_ceil(BLOCK);
        let common = wanted.start.max(self.blocks.start)..wanted.end.min(self.blocks.end);
        if !common.is_empty() && self.away.load(Ordering::Relaxed) {
            let failure = SourceFailure {
                words: "503 Service Unavailable".into(),
                code: "http",
                help: "try it again later",
            };
            return Err(failure.into_io(io::ErrorKind::Other));
        }
        Source::read_at(&self.disk, buf, offset)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Buffered
    }
}

#[test]
fn bytes_that_a_server_did_not_send_are_not_taken_for_damaged_ones() {
    let plain = image().bytes();
    let disk = Disk::new(&plain, usize::MAX);
    let header = write_trailer(&disk).unwrap();
    let mut damaged = disk.bytes();
    let blocks = damaged.len() / BLOCK;
    let payload_blocks = plain.len().div_ceil(BLOCK);
    let len = plain.len();
    let read = |source: &ProtectedSource| {
        let mut buf = AlignedBuf::new(len).unwrap();
        read_exact_at(source, &mut buf[..len.next_multiple_of(BLOCK)], 0)
            .map(|_| buf[..len].to_vec())
    };
    damaged[3 * BLOCK..4 * BLOCK].fill(0x55);
    // Whatever is away: healing block 3 needs it, or not.
    let mut failed = 0;
    let ranges = (0..blocks).map(|n| n..n + 1);
    for blocks in ranges.chain([payload_blocks..blocks, 0..payload_blocks, 0..blocks]) {
        let away = Arc::new(AtomicBool::new(true));
        let source: Arc<dyn Source> = Arc::new(Away {
            disk: Disk::new(&damaged, 0),
            blocks: blocks.clone(),
            away: Arc::clone(&away),
        });
        let healer = Healer::new(Arc::clone(&source), header.clone(), MEMORY);
        let source = ProtectedSource::new(source, healer, MEMORY);
        match read(&source) {
            Ok(bytes) => assert!(bytes == plain, "{blocks:?}"),
            Err(e) => {
                failed += 1;
                assert!(SourceFailure::is_in(&e), "{blocks:?}: {e}");
            }
        }
        let found = source.report().found;
        assert_eq!(found.lost.count(), 0, "{blocks:?}");
        // It answers again, and nothing is lost.
        away.store(false, Ordering::Relaxed);
        assert!(read(&source).unwrap() == plain, "{blocks:?}");
        assert_eq!(source.report().found.healed.count(), 1, "{blocks:?}");
    }
    assert!(failed > payload_blocks, "{failed}");
}

/// A disk that returns different wrong bytes each time a block is read.
struct Erratic(Disk, std::sync::atomic::AtomicU8, usize);

impl Source for Erratic {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn len(&self) -> u64 {
        Source::len(&self.0)
    }

    fn alignment(&self) -> usize {
        512
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = Source::read_at(&self.0, buf, offset)?;
        let wrong = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) | 1;
        let at = self.2 * BLOCK + 77;
        if let Some(place) = at.checked_sub(offset as usize).filter(|place| *place < n) {
            buf[place] ^= wrong;
        }
        Ok(n)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }
}

#[test]
fn device_that_returns_different_wrong_bytes_each_time_is_healed() {
    let plain = image().bytes();
    let disk = Disk::new(&plain, usize::MAX);
    let header = write_trailer(&disk).unwrap();
    for block in 0..disk.bytes().len() / BLOCK {
        let source: Arc<dyn Source> = Arc::new(Erratic(disk.clone(), 0.into(), block));
        let healer = Healer::new(Arc::clone(&source), header.clone(), MEMORY);
        let source = ProtectedSource::new(source, healer, MEMORY);
        let mut buf = AlignedBuf::new(plain.len()).unwrap();
        let padded = plain.len().next_multiple_of(BLOCK);
        read_exact_at(&source, &mut buf[..padded], 0).unwrap();
        assert!(buf[..plain.len()] == plain[..], "block {block}");
    }
}
