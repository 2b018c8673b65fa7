//! Random images with random bad sectors, compared with a simple model: entries
//! without a bad sector are read correctly, and entries with one are named in an
//! error.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lbpayload::block::{Completion, Queue, ReadMode, Source, ThreadQueue};
use lbpayload::import::Tuning;
use lbpayload::payload::{Checksums, EntryStream, Index, OnFault, Payload, Piece, Reread};
use lbpayload::progress::Silent;
use lbpayload::verify::{FileVerdict, verify};
use proptest::prelude::*;

use crate::doubles::{Engine, Trial, tiny};
use crate::support::{Image, noise, sha256sum, tree};

/// A disk with bad sectors that fail only after it is armed. An alignment of 1 means
/// that it is read through the page cache: a read ends before a bad page, and the
/// next one fails in that page.
struct Disk {
    bytes: Vec<u8>,
    alignment: usize,
    sector: usize,
    bad: Vec<usize>,
    /// Reads end here.
    end: usize,
    armed: AtomicBool,
    /// Number of reads since it was armed. A limit makes a test fail instead of hang.
    reads: AtomicUsize,
}

impl Disk {
    /// The first byte from `at` to `end` that cannot be read.
    fn first_bad(&self, at: usize, end: usize) -> Option<usize> {
        let starts = self.bad.iter().map(|&n| n * self.sector);
        starts
            .filter(|&start| start < end && start + self.sector > at)
            .map(|start| start.max(at))
            .chain((self.end < end).then_some(self.end.max(at)))
            .min()
    }
}

impl Source for Disk {
    fn path(&self) -> &Path {
        Path::new("disk")
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        assert_eq!(offset % self.alignment as u64, 0, "an unaligned read");
        assert_eq!(buf.len() % self.alignment, 0, "an unaligned length");
        let armed = self.armed.load(Ordering::SeqCst);
        let end = if armed { self.end } else { self.bytes.len() };
        let start = (offset as usize).min(end);
        let mut end = (start + buf.len()).min(end);
        if armed {
            let reads = self.reads.fetch_add(1, Ordering::SeqCst);
            assert!(reads < 100_000, "too many reads");
            if let Some(bad) = self.first_bad(start, end) {
                if self.alignment > 1 || bad == start {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                end = bad;
            }
        }
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

/// An image, its disk and which of its entries are wanted.
#[derive(Debug, Clone)]
struct Case {
    sizes: Vec<usize>,
    wanted: Vec<bool>,
    alignment: usize,
    sector: usize,
    /// In thousandths of the image.
    bad: Vec<usize>,
    /// The whole image if the value is larger.
    end: usize,
    reads: usize,
    held: usize,
    engine: Engine,
}

fn cases() -> impl Strategy<Value = Case> {
    let size = prop_oneof![
        4 => 0..40_usize,
        2 => 0..1500_usize,
        2 => 3000..20_000_usize,
        1 => 300_000..310_000_usize,
    ];
    let entries = prop::collection::vec((size, prop::bool::weighted(0.7)), 1..60);
    let layout = prop_oneof![
        Just((1, 4096)),
        Just((512, 512)),
        Just((512, 4096)),
        Just((4096, 4096))
    ];
    let bad = prop::collection::vec(0..1000_usize, 0..8);
    let end = prop_oneof![4 => Just(2000), 1 => 0..1000_usize];
    let engine = prop::sample::select(&[Engine::Threads, Engine::LastFirst, Engine::FirstFirst]);
    (entries, layout, bad, end, 1..4_usize, 0..3_usize, engine).prop_map(
        |(entries, (alignment, sector), bad, end, reads, held, engine)| Case {
            sizes: entries.iter().map(|e| e.0).collect(),
            wanted: entries.iter().map(|e| e.1).collect(),
            alignment,
            sector,
            bad,
            end,
            reads,
            held,
            engine,
        },
    )
}

impl Case {
    fn image(&self) -> Image {
        let files: Vec<(String, Vec<u8>)> = (0..)
            .zip(&self.sizes)
            .map(|(n, &size)| (format!("{n}"), noise(n, size)))
            .collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
        Image::new(&files)
    }

    fn disk(&self, image: &Image) -> Disk {
        let mut bytes = image.bytes();
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        let sectors = bytes.len() / self.sector;
        // A block device ends at a sector boundary.
        let end = (bytes.len() * self.end / 1000).next_multiple_of(4096);
        Disk {
            bad: self.bad.iter().map(|n| n * sectors / 1000).collect(),
            end: end.min(bytes.len()),
            alignment: self.alignment,
            sector: self.sector,
            armed: false.into(),
            reads: 0.into(),
            bytes,
        }
    }
}

/// For each wanted entry: where its data starts to be unreadable, if it does.
fn model(case: &Case, image: &Image, disk: &Disk) -> Vec<Option<Option<usize>>> {
    let starts = image.header_offsets();
    let data = (0..).zip(starts).map(|(n, header): (usize, usize)| {
        let start = header + 16 + n.to_string().len();
        (start, start + case.sizes[n])
    });
    data.zip(&case.wanted)
        // An empty entry has no byte that could be bad.
        .map(|((start, end), wanted)| {
            wanted.then(|| (start < end).then(|| disk.first_bad(start, end))?)
        })
        .collect()
}

struct Done(Reread);

impl From<Reread> for Done {
    fn from(done: Reread) -> Self {
        Self(done)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        max_shrink_time: 5000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn stream_returns_readable_data_and_names_unreadable_entries(case in cases()) {
        let image = case.image();
        let disk = Arc::new(case.disk(&image));
        let expected = model(&case, &image, &disk);
        let payload = Payload::open(Arc::clone(&disk) as Arc<dyn Source>).unwrap();
        let index = Index::strict(&payload, &Silent).unwrap();
        disk.armed.store(true, Ordering::SeqCst);
        let mut queue = ThreadQueue::<Done>::new(3).unwrap();
        let wanted = |n: u64| case.wanted[n as usize];
        let mut stream = EntryStream::new(&index, wanted, 8192, case.reads, case.held, OnFault::Find).unwrap();
        let mut got: HashMap<u64, Vec<u8>> = HashMap::new();
        let mut failed: HashMap<u64, u64> = HashMap::new();
        loop {
            stream.submit(&mut queue).unwrap();
            match stream.next_piece().unwrap() {
                Some(Piece::Empty(entry)) => drop(got.insert(entry.index, Vec::new())),
                Some(Piece::Bytes { entry, offset, block, range }) => {
                    let bytes = got.entry(entry.index).or_default();
                    prop_assert_eq!(bytes.len() as u64, offset);
                    bytes.extend_from_slice(&block[range]);
                }
                Some(Piece::Unreadable { entry, at, .. }) => {
                    prop_assert!(failed.insert(entry.index, at).is_none());
                }
                Some(Piece::Gap { .. }) => prop_assert!(false, "a gap"),
                Some(Piece::EndOfBlock) => {}
                None if stream.is_done().unwrap() => break,
                None => match queue.wait() {
                    Some(Completion::Read { id, buf, result }) => {
                        stream.complete_read(id, buf, result, &mut queue);
                    }
                    Some(Completion::Job(Done(done))) => stream.complete_reread(done),
                    other => prop_assert!(false, "{}", other.is_none()),
                },
            }
        }
        let mut shrunk = false;
        for (n, expected) in expected.iter().enumerate() {
            let (name, data) = (n as u64, &image.files[n].1);
            match expected {
                None => prop_assert!(!got.contains_key(&name) && !failed.contains_key(&name)),
                // Everything after the end of a source that has shrunk counts as
                // unreadable.
                Some(None) if shrunk => prop_assert!(failed.contains_key(&name)),
                Some(None) => {
                    prop_assert!(!failed.contains_key(&name), "{name} {:?}", failed.get(&name));
                    prop_assert!(got.get(&name) == Some(data), "{name}");
                }
                Some(Some(at)) => {
                    prop_assert!(failed.contains_key(&name), "{name} {at}");
                    shrunk |= *at >= disk.end;
                    if !shrunk {
                        prop_assert_eq!(failed[&name], *at as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn import_fails_at_the_first_bad_file_and_keeps_the_files_before_it(case in cases()) {
        let image = case.image();
        let wanted: Vec<String> = (0..case.sizes.len())
            .filter(|&n| case.wanted[n])
            .map(|n| n.to_string())
            .collect();
        // An empty list of names means all files.
        prop_assume!(!wanted.is_empty());
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let sums: String = image
            .files
            .iter()
            .map(|(name, data)| format!("{}  {}\n", sha256sum(data), String::from_utf8_lossy(name)))
            .collect();
        let disk = Arc::new(case.disk(&image));
        let expected = model(&case, &image, &disk);
        let dir = tempfile::tempdir().unwrap();
        let mut trial = Trial::new(Arc::clone(&disk) as Arc<dyn Source>, dir.path());
        let arm = || disk.armed.store(true, Ordering::SeqCst);
        (trial.files, trial.engine, trial.before_copy) = (&wanted, case.engine, &arm);
        if case.held > 0 {
            trial.sums = &sums;
        }
        trial.tuning = Tuning { reads: case.reads, held: case.held, ..tiny() };
        let result = trial.run().0;
        let first = expected.iter().position(|bad| matches!(bad, Some(Some(_))));
        prop_assert_eq!(result.is_err(), first.is_some(), "{:?}", result.err());
        if let (Err(error), Some(first)) = (&result, first) {
            prop_assert_eq!(error.entry().map(|entry| entry.0), Some(first as u64), "{}", error);
        }
        let upto = first.unwrap_or(case.sizes.len());
        let mut complete: Vec<(String, Vec<u8>)> = (0..upto)
            .filter(|&n| case.wanted[n])
            .map(|n| (n.to_string(), image.files[n].1.clone()))
            .collect();
        complete.sort();
        prop_assert!(tree(dir.path()) == complete);
    }

    #[test]
    fn verify_reports_exactly_the_bad_files(case in cases()) {
        let image = case.image();
        let mut disk = case.disk(&image);
        disk.end = disk.bytes.len();
        // The headers stay readable, because verify reads them itself.
        let starts = image.header_offsets();
        let of_a_header: Vec<usize> = starts
            .iter()
            .flat_map(|&at| at / disk.sector..=(at + 18) / disk.sector)
            .chain([0])
            .collect();
        disk.bad.retain(|n| !of_a_header.contains(n));
        let case = Case { wanted: vec![true; case.sizes.len()], ..case };
        let expected = model(&case, &image, &disk);
        disk.armed.store(true, Ordering::SeqCst);
        let mut sums = Checksums::new();
        for (name, data) in &image.files {
            let line = format!("{}  {}\n", sha256sum(data), String::from_utf8_lossy(name));
            sums.add_lines(line.as_bytes(), "sums").unwrap();
        }
        let payload = Payload::open(Arc::new(disk)).unwrap();
        let mut told = Vec::new();
        let report = verify(&payload, sums, &Silent, &mut |name, verdict| {
            told.push((name.to_owned(), verdict == FileVerdict::Ok));
        })
        .unwrap();
        let verdicts: Vec<(String, bool)> = expected
            .iter()
            .enumerate()
            .map(|(n, bad)| (n.to_string(), *bad == Some(None)))
            .collect();
        // Files that could not be read in large blocks come last.
        told.sort_by_key(|(name, _)| name.parse::<u32>().unwrap());
        prop_assert_eq!(told, verdicts);
        let bad = expected.iter().filter(|bad| matches!(bad, Some(Some(_)))).count();
        prop_assert_eq!(report.problems.count(), bad as u64);
    }
}
