//! The device returns EIO half-way.

use std::sync::Arc;

use lbpayload::block::Source;
use lbpayload::error::Kind;
use lbpayload::import::Tuning;
use lbpayload::payload::{Cause, Checksums, Index, Payload};
use lbpayload::progress::Silent;
use lbpayload::verify::verify;

use crate::doubles::{Engine, Trial, tiny};
use crate::support::memory::Memory;
use crate::support::{Image, noise, tree};

fn image() -> Image {
    let files: Vec<(String, Vec<u8>)> = (0..12)
        .map(|n| (format!("file-{n:02}"), noise(n, 300 + 1900 * n as usize)))
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
    Image::new(&files)
}

fn device(bad: std::ops::Range<u64>) -> Arc<dyn Source> {
    device_with(&image(), bad)
}

fn device_with(image: &Image, bad: std::ops::Range<u64>) -> Arc<dyn Source> {
    let mut bytes = image.bytes();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let mut memory = Memory::new(bytes);
    memory.alignment = 512;
    memory.device = true;
    memory.bad = bad;
    memory.shared()
}

/// A device that starts to fail only after its headers were read.
struct Late {
    good: Arc<dyn Source>,
    bad: Arc<dyn Source>,
    armed: std::sync::atomic::AtomicBool,
    /// Number of reads since it was armed. A limit makes a test fail instead of hang.
    reads: std::sync::atomic::AtomicUsize,
}

impl Late {
    fn new(image: &Image, bad: std::ops::Range<u64>) -> Arc<Self> {
        Arc::new(Self {
            good: device_with(image, 0..0),
            bad: device_with(image, bad),
            armed: false.into(),
            reads: 0.into(),
        })
    }

    fn arm(&self) {
        self.armed.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Source for Late {
    fn path(&self) -> &std::path::Path {
        self.good.path()
    }
    fn len(&self) -> u64 {
        self.good.len()
    }
    fn alignment(&self) -> usize {
        self.good.alignment()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        if !self.armed.load(std::sync::atomic::Ordering::SeqCst) {
            return self.good.read_at(buf, offset);
        }
        let reads = self.reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        assert!(reads < 10_000, "too many reads");
        self.bad.read_at(buf, offset)
    }
    fn mode(&self) -> lbpayload::block::ReadMode {
        self.good.mode()
    }
    fn is_device(&self) -> bool {
        true
    }
}

#[test]
fn import_with_an_unreadable_sector_leaves_only_complete_files() {
    let image = image();
    let len = image.bytes().len() as u64;
    let (mut failed, mut fine) = (0, 0);
    for sector in 0..len.div_ceil(512) {
        let bad = sector * 512..sector * 512 + 1;
        let source = device(bad.clone());
        // If the sector holds a header, reading the index fails already.
        let Ok(payload) = Payload::open(Arc::clone(&source)) else {
            continue;
        };
        if Index::strict(&payload, &Silent).is_err() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let (result, _) = Trial::new(source, dir.path()).run();
        for (name, content) in tree(dir.path()) {
            let new = image
                .files
                .iter()
                .find(|(n, _)| *n == name.as_bytes())
                .map(|(_, d)| d);
            assert_eq!(Some(&content), new, "sector {sector}: {name}");
        }
        match result {
            Err(error) => {
                failed += 1;
                let errno = error.io_error().unwrap().raw_os_error();
                assert_eq!(errno, Some(libc::EIO), "{error}");
                assert!(error.names_entry(), "{error}");
                assert!(error.help().unwrap().contains("ddrescue"));
                let offset = error.offset().unwrap();
                assert!(
                    offset.abs_diff(bad.start) <= 4096,
                    "{error} for sector {sector}"
                );
            }
            Ok(_) => fine += 1,
        }
    }
    assert!(failed > 100 && fine < 20, "{failed} failed, {fine} fine");
}

#[test]
fn sector_that_goes_bad_after_the_header_scan_is_reported() {
    // Headers and data share sectors, and the header was readable a moment ago.
    let image = image();
    for header in image.header_offsets() {
        let at = header as u64 / 512 * 512;
        let source = Late::new(&image, at..at + 1);
        let payload = Payload::open(Arc::clone(&source) as Arc<dyn Source>).unwrap();
        Index::strict(&payload, &Silent).unwrap();
        source.arm();
        let report = verify(&payload, Checksums::new(), &Silent, &mut |_, _| ());
        // Either reading the headers again fails, or reading a file's data does. In
        // both cases the command ends with an error.
        assert!(
            report.is_err() || !report.unwrap().is_ok(),
            "header at {header}"
        );
    }
}

/// Two files, and between them one that the tests below do not request.
fn between() -> Image {
    Image::new(&[
        ("first", &noise(1, 9000)),
        ("unwanted", &noise(2, 20_000)),
        ("last", &noise(3, 30_000)),
    ])
}

#[test]
fn bad_sector_in_an_unselected_file_does_not_affect_the_selected_files() {
    // Reads of the data after the bad sector are in flight when the copy continues
    // with the next file. They complete while the copy waits for that file.
    let image = between();
    let start = image.header_offsets()[1] + 16 + "unwanted".len();
    let sectors = (start.div_ceil(512)..(start + 20_000) / 512).step_by(3);
    for sector in sectors.map(|n| n as u64 * 512) {
        for engine in [Engine::FirstFirst, Engine::LastFirst] {
            for reads in [1, 2, 3, 5] {
                let dir = tempfile::tempdir().unwrap();
                let source = device_with(&image, sector..sector + 1);
                let mut trial = Trial::new(source, dir.path());
                (trial.files, trial.engine) = (&["first", "last"], engine);
                trial.tuning = Tuning { reads, ..tiny() };
                let copied = trial.run().0.unwrap();
                assert_eq!(copied.files, 2);
                for at in [0, 2] {
                    let (name, expected) = &image.files[at];
                    let name = std::str::from_utf8(name).unwrap();
                    let found = std::fs::read(dir.path().join(name)).unwrap();
                    assert!(found == *expected, "{name}, {reads} reads, {sector}");
                }
            }
        }
    }
}

#[test]
fn bad_sector_that_extends_into_a_selected_file_is_an_error() {
    let image = between();
    let data = (image.header_offsets()[2] + 16 + "last".len()) as u64;
    let sector = data / 512 * 512;
    assert!(sector < data, "the sector must start before the data");
    let source = Late::new(&image, sector..sector + 1);
    let dir = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(Arc::clone(&source) as Arc<dyn Source>, dir.path());
    (trial.files, trial.engine) = (&["first", "last"], Engine::FirstFirst);
    let arm = || source.arm();
    trial.before_copy = &arm;
    let error = trial.run().0.unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Io, Some(data)));
    assert!(error.names_entry());
    let (_, first) = &image.files[0];
    assert!(tree(dir.path()) == [("first".into(), first.clone())]);
}

#[test]
fn verify_names_each_unreadable_file_and_reads_the_others() {
    let image = image();
    let starts = image.header_offsets();
    // In the middle of the data of file 7, far from any header.
    let bad = starts[7] as u64 + 6000;
    let payload = Payload::open(device(bad..bad + 1)).unwrap();
    let sums: String = image
        .files
        .iter()
        .map(|(name, data)| {
            format!(
                "{}  {}\n",
                crate::support::sha256sum(data),
                String::from_utf8_lossy(name)
            )
        })
        .collect();
    let mut given = Checksums::new();
    given.add_lines(sums.as_bytes(), "sums").unwrap();
    let mut told = Vec::new();
    let report = verify(&payload, given, &Silent, &mut |name, verdict| {
        told.push(format!("{name} {verdict:?}"));
    })
    .unwrap();
    assert_eq!(report.matched, 11);
    assert_eq!(report.problems.len(), 1);
    let problem = &report.problems[0];
    assert_eq!((problem.index, problem.slug()), (Some(7), "io"));
    let sector = bad / 512 * 512;
    let Cause::BadSectors { ranges, .. } = &problem.cause else {
        panic!("{problem:?}");
    };
    assert_eq!(ranges.len(), 1);
    assert_eq!(ranges[0], sector..sector + 512);
    let expected: Vec<String> = (0..12)
        .map(|n| format!("file-{n:02} {}", if n == 7 { "Failed" } else { "Ok" }))
        .collect();
    assert_eq!(told, expected, "the order must be that of the entries");
}

/// Reports its full length, and ends early once it is told to.
struct Shrinking {
    inner: Arc<dyn Source>,
    end: std::sync::atomic::AtomicU64,
    reads: std::sync::atomic::AtomicU64,
}

impl Source for Shrinking {
    fn path(&self) -> &std::path::Path {
        self.inner.path()
    }
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn alignment(&self) -> usize {
        self.inner.alignment()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.reads
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let end = self.end.load(std::sync::atomic::Ordering::SeqCst);
        let n = self.inner.read_at(buf, offset)?;
        Ok(n.min(end.saturating_sub(offset) as usize))
    }
    fn mode(&self) -> lbpayload::block::ReadMode {
        self.inner.mode()
    }
}

#[test]
fn shrunken_source_is_not_read_again_for_every_file_after_its_end() {
    let files: Vec<String> = (0..20_000).map(|n| format!("{n}")).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|n| (n.as_str(), &b"x"[..])).collect();
    let image = Image::new(&files).bytes();
    let source = Arc::new(Shrinking {
        inner: Memory::new(image).shared(),
        end: u64::MAX.into(),
        reads: 0.into(),
    });
    let payload = Payload::open(Arc::clone(&source) as Arc<dyn Source>).unwrap();
    let index = Index::strict(&payload, &Silent).unwrap();
    assert_eq!(index.files(), 20_000);
    let before = source.reads.load(std::sync::atomic::Ordering::Relaxed);
    // The first scan of verify reads the whole source. After that the source ends
    // early.
    let cut = ShrinksAfter {
        source: Arc::clone(&source),
        reads: before,
    };
    let payload = Payload::open(Arc::new(cut)).unwrap();
    let report = verify(&payload, Checksums::new(), &Silent, &mut |_, _| ()).unwrap();
    assert!(!report.is_ok());
    assert!(
        report.problems.count() > 19_000,
        "{}",
        report.problems.count()
    );
    assert_eq!(report.problems[0].slug(), "source-shrunk");
    let reads = source.reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        reads < 10 * before + 300,
        "{reads} reads, {before} for the headers"
    );
}

/// Shrinks its source to one page after as many reads as a scan needs.
struct ShrinksAfter {
    source: Arc<Shrinking>,
    reads: u64,
}

impl Source for ShrinksAfter {
    fn path(&self) -> &std::path::Path {
        self.source.path()
    }
    fn len(&self) -> u64 {
        self.source.len()
    }
    fn alignment(&self) -> usize {
        self.source.alignment()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let reads = self.source.reads.load(std::sync::atomic::Ordering::Relaxed);
        // Counted twice: `try_open` reads once more than the header scan.
        if reads >= 2 * self.reads {
            self.source
                .end
                .store(4096, std::sync::atomic::Ordering::SeqCst);
        }
        self.source.read_at(buf, offset)
    }
    fn mode(&self) -> lbpayload::block::ReadMode {
        self.source.mode()
    }
}

#[test]
fn file_lookup_fails_when_a_header_cannot_be_read() {
    let image = Image::new(&[("a", &noise(1, 50_000)), ("b", b"x")]);
    let end = image.bytes().len() as u64;
    // The second header, its name and its data byte are at the end of the image.
    let payload = Payload::open(device_with(&image, end - 18..end)).unwrap();
    assert!(payload.has_header(0, 16 + 16 + 1, b"a", 50_000).unwrap());
    assert!(!payload.has_header(0, 16 + 16 + 1, b"c", 50_000).unwrap());
    let failed = payload.has_header(1, end - 1, b"b", 1).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
}
