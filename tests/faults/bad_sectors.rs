//! Random sets of bad sectors, compared with a simple model: every file without a bad sector
//! arrives, every other file is named with exactly its bad sectors, and no bad sector is read more
//! often than necessary.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use lbpayload::block::{CopiesSource, IoEngine, ReadMode, Source};
use lbpayload::error::Kind;
use lbpayload::import::{Options, Report, Tuning, import};
use lbpayload::payload::{Cause, Payload};
use lbpayload::progress::{Progress, Silent};

use crate::support::{Image, noise, sha256sum, tree};

/// A disk that counts how often each bad sector is read.
pub struct Disk {
    path: PathBuf,
    bytes: Arc<Vec<u8>>,
    alignment: usize,
    sector: usize,
    /// The bad sectors, and how often each was read.
    bad: Mutex<BTreeMap<u64, u32>>,
    /// A sector becomes readable after this many reads.
    heals_after: u32,
    dead: AtomicBool,
    /// It dies at this read.
    dies_at: u32,
    /// The error of reads that fail.
    dies_with: fn() -> io::Error,
    all_reads: AtomicU32,
}

impl Disk {
    pub fn new(bytes: &Arc<Vec<u8>>, alignment: usize, bad: &[u64]) -> Self {
        Self {
            path: "disk".into(),
            bytes: Arc::clone(bytes),
            alignment,
            sector: if alignment == 1 { 4096 } else { alignment },
            bad: Mutex::new(bad.iter().map(|&n| (n, 0)).collect()),
            heals_after: u32::MAX,
            dead: false.into(),
            dies_at: u32::MAX,
            dies_with: || io::Error::from_raw_os_error(libc::EIO),
            all_reads: 0.into(),
        }
    }

    fn reads(&self) -> u32 {
        self.bad
            .lock()
            .unwrap()
            .values()
            .copied()
            .max()
            .unwrap_or(0)
    }
}

impl Source for Disk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        assert_eq!(offset % self.alignment as u64, 0, "an unaligned read");
        let n = self.all_reads.fetch_add(1, Ordering::SeqCst);
        if n >= self.dies_at || self.dead.load(Ordering::SeqCst) {
            return Err((self.dies_with)());
        }
        let start = offset as usize;
        let end = (start + buf.len()).min(self.bytes.len());
        let first = offset / self.sector as u64;
        let upto = (end as u64).div_ceil(self.sector as u64);
        let mut bad = self.bad.lock().unwrap();
        let mut hit = None;
        for (n, reads) in bad.range_mut(first..upto) {
            *reads += 1;
            if *reads <= self.heals_after {
                hit.get_or_insert(*n as usize * self.sector);
            }
            // Through the page cache, a read ends at the first bad page.
            if self.alignment == 1 && hit.is_some() {
                break;
            }
        }
        let end = match hit {
            Some(at) if self.alignment == 1 && at > start => at,
            Some(_) => return Err((self.dies_with)()),
            None => end,
        };
        buf[..end - start].copy_from_slice(&self.bytes[start..end]);
        Ok(end - start)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }

    fn is_device(&self) -> bool {
        true
    }
}

/// A simple generator, so that a seed names a case.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % below
    }
}

/// A payload of 300 files. A few are larger than a block, most are small.
fn payload_of_300() -> Image {
    let mut random = Random(1);
    let files: Vec<(String, Vec<u8>)> = (0..300)
        .map(|n| {
            let len = match n % 30 {
                0 => 200_000 + random.below(100_000),
                1..5 => random.below(30_000),
                _ => random.below(2000),
            };
            (format!("file-{n:03}"), noise(n, len as usize))
        })
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
    Image::new(&files)
}

/// Where the data of each file is.
fn extents(image: &Image) -> Vec<Range<u64>> {
    let starts = image.header_offsets().into_iter().zip(&image.files);
    starts
        .map(|(at, (name, data))| {
            let start = (at + 16 + name.len()) as u64;
            start..start + data.len() as u64
        })
        .collect()
}

/// The sectors that hold no part of a header.
fn without_header(image: &Image, len: u64, sector: u64) -> Vec<u64> {
    let mut free: Vec<bool> = vec![true; (len / sector) as usize];
    free[0] = false;
    for (at, (name, _)) in image.header_offsets().into_iter().zip(&image.files) {
        let end = at + 16 + name.len() - 1;
        for n in at as u64 / sector..=end as u64 / sector {
            free[n as usize] = false;
        }
    }
    (0..len / sector).filter(|&n| free[n as usize]).collect()
}

/// The parts of `data` in bad sectors, joined where they touch.
fn bad_parts(data: &Range<u64>, bad: &[u64], sector: u64) -> Vec<Range<u64>> {
    let mut parts: Vec<Range<u64>> = Vec::new();
    for n in bad {
        let part = (n * sector).max(data.start)..((n + 1) * sector).min(data.end);
        match parts.last_mut() {
            _ if part.is_empty() => {}
            Some(last) if last.end == part.start => last.end = part.end,
            _ => parts.push(part),
        }
    }
    parts
}

fn padded(image: &Image) -> Arc<Vec<u8>> {
    let mut bytes = image.bytes();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    Arc::new(bytes)
}

fn run(disk: Arc<dyn Source>, dest: &Path, set: impl FnOnce(&mut Options)) -> Report {
    let payload = Payload::open(disk).unwrap();
    let mut options = Options::default();
    options.dest = dest.to_owned();
    options.engine = IoEngine::Threads;
    options.retries = 0;
    set(&mut options);
    import(&payload, options, &Silent, None).unwrap()
}

fn check(image: &Image, bad: &[u64], sector: u64, report: &Report, dest: &Path) {
    let expected: Vec<(u64, Vec<Range<u64>>)> = (0..)
        .zip(extents(image))
        .map(|(n, data)| (n, bad_parts(&data, bad, sector)))
        .filter(|(_, parts)| !parts.is_empty())
        .collect();
    let found: Vec<(u64, Vec<Range<u64>>)> = report
        .failed
        .iter()
        .map(|problem| match &problem.cause {
            Cause::BadSectors { ranges, .. } => (problem.index.unwrap(), ranges.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, expected);
    let good: Vec<(String, Vec<u8>)> = (0..)
        .zip(&image.files)
        .filter(|(n, _)| expected.iter().all(|(bad, _)| bad != n))
        .map(|(_, (name, data))| (String::from_utf8(name.clone()).unwrap(), data.clone()))
        .collect();
    assert!(tree(dest) == good);
    assert_eq!(report.written, good.len() as u64);
}

/// A directory in memory, where flushes cost nothing.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// Returns a number from the environment, for long runs by hand.
fn sets(default: u64) -> u64 {
    let sets = std::env::var("BAD_SECTOR_SETS").ok();
    sets.map_or(default, |n| n.parse().expect("a number of sets"))
}

/// A random set of bad sectors that spare the headers: single ones and runs.
fn random_set(random: &mut Random, free: &[u64]) -> Vec<u64> {
    let mut bad: Vec<u64> = Vec::new();
    for _ in 0..random.below(12) {
        let at = random.below(free.len() as u64) as usize;
        let run = if random.below(3) == 0 {
            1 + random.below(20)
        } else {
            1
        };
        bad.extend(&free[at..(at + run as usize).min(free.len())]);
    }
    bad.sort_unstable();
    bad.dedup();
    bad
}

#[test]
fn every_file_without_a_bad_sector_arrives_and_the_others_are_named_with_exactly_theirs() {
    let image = payload_of_300();
    let bytes = padded(&image);
    for seed in 0..sets(100) {
        let mut random = Random(seed);
        let alignment = [512, 512, 4096, 1][seed as usize % 4];
        let sector = if alignment == 1 {
            4096
        } else {
            alignment as u64
        };
        let free = without_header(&image, bytes.len() as u64, sector);
        let bad = random_set(&mut random, &free);
        let disk = Arc::new(Disk::new(&bytes, alignment, &bad));
        let dir = in_memory();
        let retries = (seed % 3 == 2).into();
        let report = run(
            Arc::clone(&disk) as Arc<dyn Source>,
            dir.path(),
            |options| {
                options.retries = retries;
                if seed % 2 == 0 {
                    options.tuning = Tuning::for_memory(4 << 20);
                }
            },
        );
        check(&image, &bad, sector, &report, dir.path());
        let reads = disk.reads();
        assert!(reads <= 2 + retries, "seed {seed}: {reads} reads");
    }
}

#[test]
fn sectors_that_can_be_read_at_another_try_are_recovered() {
    let image = payload_of_300();
    let bytes = padded(&image);
    let free = without_header(&image, bytes.len() as u64, 512);
    let bad: Vec<u64> = free.iter().copied().step_by(37).collect();
    for (heals_after, retries, all) in [(2, 0, false), (1, 1, true), (3, 1, false), (3, 3, true)] {
        let mut disk = Disk::new(&bytes, 512, &bad);
        disk.heals_after = heals_after;
        let dir = in_memory();
        let report = run(Arc::new(disk), dir.path(), |options| {
            options.retries = retries
        });
        assert_eq!(report.failed.is_empty(), all, "{heals_after} {retries}");
        if !all {
            check(&image, &bad, 512, &report, dir.path());
        }
    }
}

#[test]
fn disk_that_dies_has_given_what_was_read_before_and_is_not_tried_for_every_sector() {
    struct Dying(Disk, Mutex<u32>, u64);
    impl Source for Dying {
        fn path(&self) -> &Path {
            self.0.path()
        }
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn alignment(&self) -> usize {
            512
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            if offset >= self.2 {
                self.0.dead.store(true, Ordering::SeqCst);
            }
            *self.1.lock().unwrap() += u32::from(self.0.dead.load(Ordering::SeqCst));
            self.0.read_at(buf, offset)
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Direct
        }
    }
    let files: Vec<(String, Vec<u8>)> = (0..40)
        .map(|n| (format!("file-{n:02}"), noise(n, 400_000)))
        .collect();
    let image: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
    let image = Image::new(&image);
    let bytes = padded(&image);
    let dies_at = extents(&image)[20].start - 100;
    let dir = in_memory();
    // It dies when the data is read: the headers are far apart, and were read before.
    let disk = Arc::new(Dying(Disk::new(&bytes, 512, &[]), Mutex::new(0), dies_at));
    struct Late(Arc<Dying>, AtomicBool);
    impl Source for Late {
        fn path(&self) -> &Path {
            self.0.path()
        }
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn alignment(&self) -> usize {
            512
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            // The first large read starts the copy.
            if buf.len() > 100_000 {
                self.1.store(true, Ordering::SeqCst);
            }
            match self.1.load(Ordering::SeqCst) {
                true => self.0.read_at(buf, offset),
                false => self.0.0.read_at(buf, offset),
            }
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Direct
        }
    }
    let late = Arc::new(Late(Arc::clone(&disk), false.into()));
    let report = run(late, dir.path(), |options| {
        options.tuning.block_bytes = 256 * 1024;
        options.tuning.reads = 1;
    });
    assert!(report.written >= 18, "{}", report.written);
    assert_eq!(report.written + report.failed.count(), 40);
    let reads = *disk.1.lock().unwrap();
    assert!(reads < 500, "{reads} reads of a dead disk");
}

fn copies(disks: &[&Arc<Disk>]) -> Arc<dyn Source> {
    let copies = disks.iter().map(|disk| Arc::clone(disk) as Arc<dyn Source>);
    Arc::new(CopiesSource::new(copies.collect()).unwrap())
}

#[test]
fn two_copies_with_disjoint_bad_sectors_give_every_file() {
    let image = payload_of_300();
    let bytes = padded(&image);
    for seed in 0..sets(50) {
        let mut random = Random(seed + 7000);
        let alignment = [512, 4096, 1][seed as usize % 3];
        let sector = if alignment == 1 {
            4096
        } else {
            alignment as u64
        };
        // Headers too: each copy has what the other lacks.
        let all: Vec<u64> = (0..bytes.len() as u64 / sector).collect();
        let first = random_set(&mut random, &all);
        let mut second = random_set(&mut random, &all);
        second.retain(|n| !first.contains(n));
        let first = Arc::new(Disk::new(&bytes, alignment, &first));
        // The second disk may have smaller sectors.
        let second = match seed % 2 {
            0 => Disk::new(&bytes, alignment, &second),
            _ => {
                let n = sector / 512;
                let second: Vec<u64> = second.iter().flat_map(|s| s * n..(s + 1) * n).collect();
                Disk::new(&bytes, 512, &second)
            }
        };
        let second = Arc::new(second);
        let dir = in_memory();
        let report = run(copies(&[&first, &second]), dir.path(), |_| ());
        assert!(report.failed.is_empty(), "seed {seed}: {:?}", report.failed);
        check(&image, &[], sector, &report, dir.path());
        let given: u64 = report.from.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(given, report.bytes);
    }
}

#[test]
fn disk_that_dies_at_any_read_is_replaced_by_a_second_copy() {
    let image = payload_of_300();
    let bytes = padded(&image);
    // The first reads find the payload.
    let alone = Arc::new(Disk::new(&bytes, 512, &[]));
    let dir = in_memory();
    run(
        Arc::clone(&alone) as Arc<dyn Source>,
        dir.path(),
        |options| {
            options.tuning = Tuning::for_memory(4 << 20);
        },
    );
    let reads = alone.all_reads.load(Ordering::SeqCst);
    for dies_at in (1..reads).step_by(7) {
        let mut first = Disk::new(&bytes, 512, &[]);
        first.dies_at = dies_at;
        let second = Arc::new(Disk::new(&bytes, 512, &[]));
        let dir = in_memory();
        let both = copies(&[&Arc::new(first), &second]);
        let report = run(both, dir.path(), |options| {
            options.tuning = Tuning::for_memory(4 << 20);
        });
        assert!(report.failed.is_empty(), "{dies_at}: {:?}", report.failed);
        check(&image, &[], 512, &report, dir.path());
    }
}

#[test]
fn source_that_is_gone_stops_the_import_with_its_own_words() {
    let image = payload_of_300();
    let bytes = padded(&image);
    type Fails = fn() -> io::Error;
    let errors: [(Fails, &str); 2] = [
        (
            || io::Error::from_raw_os_error(libc::ENODEV),
            "No such device",
        ),
        (
            || io::Error::other("the network is gone"),
            "the network is gone",
        ),
    ];
    for (dies_with, words) in errors {
        let mut disk = Disk::new(&bytes, 512, &[]);
        // The headers take fewer reads, and the data more.
        (disk.dies_at, disk.dies_with) = (100, dies_with);
        let disk = Arc::new(disk);
        let payload = Payload::open(Arc::clone(&disk) as Arc<dyn Source>).unwrap();
        let dir = in_memory();
        let mut options = Options::default();
        options.dest = dir.path().into();
        options.engine = IoEngine::Threads;
        options.tuning = Tuning::for_memory(4 << 20);
        options.tuning.block_bytes = 16 << 10;
        let error = import(&payload, options, &Silent, None).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        let notes = error.notes().join(", ");
        assert!(notes.contains("of 300 files are complete"), "{notes}");
        let complete = tree(dir.path()).len();
        assert!((1..300).contains(&complete), "{complete}");
        let reads = disk.all_reads.load(Ordering::SeqCst);
        assert!(reads < 120, "{reads} reads");
    }
}

#[test]
fn damage_that_a_source_reports_in_its_own_words_costs_only_its_files() {
    let image = payload_of_300();
    let bytes = padded(&image);
    let free = without_header(&image, bytes.len() as u64, 512);
    let bad: Vec<u64> = free.iter().copied().step_by(500).collect();
    let mut disk = Disk::new(&bytes, 512, &bad);
    disk.dies_with = || io::Error::new(io::ErrorKind::InvalidData, "too much is lost to heal it");
    let dir = in_memory();
    let report = run(Arc::new(disk), dir.path(), |_| ());
    check(&image, &bad, 512, &report, dir.path());
    assert!(report.failed[0].message().contains("too much is lost"));
}

/// A payload of two files, and two copies of it. The first has a bad sector in `b`.
fn two_versions(change: impl Fn(&mut Vec<u8>)) -> (Image, [Arc<Disk>; 2]) {
    let image = Image::new(&[("a", &noise(1, 5000)), ("b", &noise(2, 100_000))]);
    let bytes = padded(&image);
    let mut other = Vec::clone(&bytes);
    change(&mut other);
    let first = Disk::new(&bytes, 512, &[40]);
    let mut second = Disk::new(&Arc::new(other), 512, &[]);
    second.path = "other".into();
    (image, [Arc::new(first), Arc::new(second)])
}

#[test]
fn file_is_never_mixed_from_two_versions_unless_its_checksum_says_so() {
    // One byte differs, far from the bad sector.
    let (image, [first, second]) = two_versions(|bytes| bytes[90_000] ^= 1);
    let dir = in_memory();
    let report = run(copies(&[&first, &second]), dir.path(), |_| ());
    assert!(
        matches!(&report.failed[0].cause, Cause::CopiesDiffer { other } if other == Path::new("other"))
    );
    assert_eq!(report.failed[0].offset, 90_000);
    assert!(tree(dir.path()) == [("a".into(), image.files[0].1.clone())]);

    let sums = format!("{}  b\n", sha256sum(&image.files[1].1));
    let (_, [first, second]) = two_versions(|bytes| bytes[90_000] ^= 1);
    let dir = in_memory();
    let report = run(copies(&[&first, &second]), dir.path(), |options| {
        options
            .checksums
            .add_lines(sums.as_bytes(), "sums")
            .unwrap();
    });
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    check(&image, &[], 512, &report, dir.path());
    // Only the bad sector came from the other copy.
    assert_eq!(report.from[1], ("other".into(), 512));
}

#[test]
fn file_with_a_wrong_checksum_is_taken_from_another_copy() {
    for damaged in ["b-large", "a-small"] {
        let image = Image::new(&[
            ("a-small", &noise(1, 5000)),
            ("b-large", &noise(2, 300_000)),
        ]);
        let good = padded(&image);
        let mut wrong = Vec::clone(&good);
        let n = usize::from(damaged == "b-large");
        wrong[extents(&image)[n].start as usize + 1000] ^= 1;
        let sums: String = image
            .files
            .iter()
            .map(|(name, data)| format!("{}  {}\n", sha256sum(data), String::from_utf8_lossy(name)))
            .collect();
        let (wrong, good) = (
            Disk::new(&Arc::new(wrong), 512, &[]),
            Disk::new(&good, 512, &[]),
        );
        let dir = in_memory();
        let both = copies(&[&Arc::new(wrong), &Arc::new(good)]);
        let report = run(both, dir.path(), |options| {
            options
                .checksums
                .add_lines(sums.as_bytes(), "sums")
                .unwrap();
        });
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        check(&image, &[], 512, &report, dir.path());
        assert_eq!(report.from[1].1, image.files[n].1.len() as u64);
    }
}

#[test]
fn copies_with_other_headers_are_refused_before_anything_is_written() {
    let image = payload_of_300();
    let mut other = payload_of_300();
    other.files[200].0 = b"another-name".to_vec();
    let at = image.header_offsets()[200];
    let first = Arc::new(Disk::new(&padded(&image), 512, &[]));
    let second = Arc::new(Disk::new(&padded(&other), 512, &[]));
    let dir = in_memory();
    let payload = Payload::open(copies(&[&first, &second])).unwrap();
    let mut options = Options::default();
    options.dest = dir.path().join("dest");
    let error = import(&payload, options, &Silent, None).unwrap_err();
    assert_eq!(error.code(), "copies-differ");
    assert_eq!(
        (error.entry().unwrap().0, error.offset()),
        (200, Some(at as u64))
    );
    assert!(tree(dir.path()).is_empty());
}

#[test]
fn files_before_an_unreadable_header_arrive_and_those_behind_it_are_counted() {
    let image = payload_of_300();
    let bytes = padded(&image);
    let header = image.header_offsets()[150] as u64;
    let free = without_header(&image, bytes.len() as u64, 512);
    assert!(!free.contains(&(header / 512)));
    let mut disk = Disk::new(&bytes, 512, &[header / 512]);
    let dir = in_memory();
    let report = run(Arc::new(disk), dir.path(), |_| ());
    let names: Vec<String> = tree(dir.path()).into_iter().map(|(name, _)| name).collect();
    let first_bad = extents(&image)
        .iter()
        .position(|data| data.end > header / 512 * 512)
        .unwrap();
    let expected: Vec<String> = (0..first_bad).map(|n| format!("file-{n:03}")).collect();
    assert_eq!(names, expected);
    assert_eq!(report.lost, 150);
    let lost = report.failed.iter().find(|p| p.index == Some(150)).unwrap();
    assert_eq!((lost.slug(), lost.offset), ("header-unreadable", header));

    // Of the files that are asked for, only those behind it are lost.
    for (asked, lost) in [(&["file-003"][..], 0), (&["file-003", "file-200"], 1)] {
        let disk = Disk::new(&bytes, 512, &[header / 512]);
        let dir = in_memory();
        let report = run(Arc::new(disk), dir.path(), |options| {
            options.files = asked.iter().map(|&name| name.into()).collect();
        });
        assert_eq!((report.written, report.lost), (1, lost));
        assert_eq!(report.failed.count(), lost);
    }

    // Another try reads the header, and the files behind it are found.
    disk = Disk::new(&bytes, 512, &[header / 512]);
    disk.heals_after = 3;
    let dir = in_memory();
    let report = run(Arc::new(disk), dir.path(), |options| options.retries = 5);
    assert_eq!((report.lost, report.failed.count()), (0, 0));
    check(&image, &[], 512, &report, dir.path());
}

#[test]
fn fail_fast_stops_at_the_first_file_that_cannot_be_read() {
    let image = payload_of_300();
    let bytes = padded(&image);
    let free = without_header(&image, bytes.len() as u64, 512);
    let bad = free[free.len() / 2];
    let dir = in_memory();
    let payload = Payload::open(Arc::new(Disk::new(&bytes, 512, &[bad]))).unwrap();
    let mut options = Options::default();
    (options.dest, options.fail_fast) = (dir.path().into(), true);
    let error = import(&payload, options, &Silent, None).unwrap_err();
    let first = extents(&image)
        .iter()
        .position(|data| data.end > bad * 512)
        .unwrap();
    assert_eq!(error.entry().unwrap().0, first as u64);
    assert_eq!(tree(dir.path()).len(), first);
}

#[test]
fn existing_files_with_a_checksum_are_checked_without_reading_the_disk() {
    let image = Image::new(&[("a", &noise(1, 200_000)), ("b", &noise(2, 200_000))]);
    let bytes = padded(&image);
    let sums = format!("{}  a\n", sha256sum(&image.files[0].1));
    let dir = in_memory();
    std::fs::write(dir.path().join("a"), &image.files[0].1).unwrap();
    // Every sector of `a` is bad, except for those that are read with a header.
    let free = without_header(&image, bytes.len() as u64, 512);
    let end = extents(&image)[0].end;
    let bad: Vec<u64> = free
        .into_iter()
        .filter(|n| (8..end / 512).contains(n))
        .collect();
    let disk = Arc::new(Disk::new(&bytes, 512, &bad));
    let report = run(
        Arc::clone(&disk) as Arc<dyn Source>,
        dir.path(),
        |options| {
            options
                .checksums
                .add_lines(sums.as_bytes(), "sums")
                .unwrap();
        },
    );
    assert_eq!(
        (report.kept, report.written, report.failed.count()),
        (1, 1, 0)
    );
    assert_eq!(disk.reads(), 0, "reads of the existing file");
    assert!(tree(dir.path()).len() == 2);
}

#[test]
fn missing_files_are_read_before_existing_ones_are_compared() {
    struct Ordered(Disk, Mutex<Vec<(u64, usize)>>);
    impl Source for Ordered {
        fn path(&self) -> &Path {
            self.0.path()
        }
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn alignment(&self) -> usize {
            512
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            self.1.lock().unwrap().push((offset, buf.len()));
            self.0.read_at(buf, offset)
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Direct
        }
    }
    let files = [noise(1, 600_000), noise(2, 600_000), noise(3, 600_000)];
    let image = Image::new(&[("a", &files[0]), ("b", &files[1]), ("c", &files[2])]);
    let dir = in_memory();
    std::fs::write(dir.path().join("a"), &files[0]).unwrap();
    // `b` has other content of the same size.
    std::fs::write(dir.path().join("b"), &files[2]).unwrap();
    let disk = Arc::new(Ordered(
        Disk::new(&padded(&image), 512, &[]),
        Mutex::default(),
    ));
    let report = run(Arc::clone(&disk) as Arc<dyn Source>, dir.path(), |_| ());
    assert_eq!((report.kept, report.written, report.replaced), (1, 2, 1));
    check_content(&image, dir.path());
    let reads = disk.1.lock().unwrap();
    let large: Vec<u64> = reads.iter().filter(|r| r.1 > 50_000).map(|r| r.0).collect();
    let extents = extents(&image);
    assert!(large[0] >= extents[1].end - 512, "{large:?}");
}

fn check_content(image: &Image, dest: &Path) {
    let all: Vec<(String, Vec<u8>)> = image
        .files
        .iter()
        .map(|(name, data)| (String::from_utf8(name.clone()).unwrap(), data.clone()))
        .collect();
    assert!(tree(dest) == all);
}

#[test]
fn partial_file_holds_what_could_be_read_and_goes_when_its_file_is_complete() {
    for len in [3000, 200_000] {
        let image = Image::new(&[("a", &noise(1, 600)), ("b", &noise(2, len))]);
        let bytes = padded(&image);
        let data = extents(&image)[1].clone();
        let bad = vec![(data.end / 512) - 2];
        let dir = in_memory();
        let import = |bad: &[u64]| {
            let disk = Arc::new(Disk::new(&bytes, 512, bad));
            run(disk, dir.path(), |options| options.partial = true)
        };
        let report = import(&bad);
        assert_eq!((report.partial, report.failed.count()), (1, 1));
        let mut expected = image.files[1].1.clone();
        let hole = bad[0] * 512 - data.start;
        expected[hole as usize..hole as usize + 512].fill(0);
        assert!(std::fs::read(dir.path().join("b.partial")).unwrap() == expected);
        // A second run, which reads less, leaves the better one.
        let report = import(&[bad[0] - 1, bad[0]]);
        assert_eq!(report.failed.count(), 1);
        assert!(std::fs::read(dir.path().join("b.partial")).unwrap() == expected);
        let report = import(&[]);
        assert!(report.failed.is_empty());
        check_content(&image, dir.path());
    }
}

#[test]
fn partial_file_replaces_neither_an_entry_nor_another_file() {
    let image = Image::new(&[
        ("a", &noise(1, 5000)),
        ("a.partial", b"an entry"),
        ("b", &noise(2, 5000)),
    ]);
    let bytes = padded(&image);
    let dir = in_memory();
    std::fs::write(dir.path().join("b.partial"), noise(7, 5000)).unwrap();
    let import = |bad: &[u64]| {
        let disk = Arc::new(Disk::new(&bytes, 512, bad));
        run(disk, dir.path(), |options| options.partial = true)
    };
    let report = import(&[3, 15]);
    assert_eq!((report.partial, report.failed.count()), (0, 2));
    let names: Vec<String> = tree(dir.path()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a.partial", "b.partial"]);
    assert!(import(&[]).failed.is_empty());
    assert_eq!(
        std::fs::read(dir.path().join("a.partial")).unwrap(),
        b"an entry"
    );
    assert!(std::fs::read(dir.path().join("b.partial")).unwrap() == noise(7, 5000));
}

/// Records the phases, and asks to stop when one of them begins.
#[derive(Default)]
struct Phases {
    seen: Mutex<Vec<String>>,
    stop_at: &'static str,
    stop: AtomicBool,
}

impl Progress for Phases {
    fn begin(&self, phase: &str, _total_bytes: u64) {
        let stops = !self.stop_at.is_empty() && phase.starts_with(self.stop_at);
        self.stop.fetch_or(stops, Ordering::SeqCst);
        self.seen.lock().unwrap().push(phase.to_owned());
    }
    fn advance(&self, _bytes: u64) {}
    fn file_done(&self, _name: &str) {}
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// A disk with one bad sector, and the file that has it.
fn one_bad_sector(image: &Image) -> (Arc<Disk>, String) {
    let bytes = padded(image);
    let free = without_header(image, bytes.len() as u64, 512);
    let extents = extents(image);
    let file = 120;
    let inside =
        |n: &&u64| **n * 512 >= extents[file].start && (**n + 1) * 512 <= extents[file].end;
    let bad = *free.iter().find(inside).unwrap();
    let name = String::from_utf8(image.files[file].0.clone()).unwrap();
    (Arc::new(Disk::new(&bytes, 512, &[bad])), name)
}

#[test]
fn progress_names_the_file_whose_bad_sectors_are_waited_for() {
    let image = payload_of_300();
    let (disk, name) = one_bad_sector(&image);
    let dir = in_memory();
    let payload = Payload::open(disk).unwrap();
    let mut options = Options::default();
    options.dest = dir.path().into();
    let phases = Phases::default();
    import(&payload, options, &phases, None).unwrap();
    let seen = phases.seen.lock().unwrap();
    for phase in ["reading around bad sectors of", "retrying bad sectors of"] {
        assert!(seen.contains(&format!("{phase} {name}")), "{seen:?}");
    }
}

#[test]
fn import_that_is_stopped_while_it_retries_has_given_every_other_file() {
    let image = payload_of_300();
    let (disk, name) = one_bad_sector(&image);
    let dir = in_memory();
    let payload = Payload::open(disk).unwrap();
    let mut options = Options::default();
    options.dest = dir.path().into();
    let phases = Phases {
        stop_at: "retrying",
        ..Phases::default()
    };
    let error = import(&payload, options, &phases, None).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
    let names: Vec<String> = tree(dir.path()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 299);
    assert!(!names.contains(&name));
}
