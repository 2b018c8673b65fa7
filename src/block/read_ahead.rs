//! Small reads at increasing offsets, with a read-ahead that adapts to the distances.

use std::io;
use std::sync::Arc;

use super::buffer::{AlignedBuf, PAGE};
use super::prefetch::{BLOCK, Prefetch};
use super::source::{ReadMode, Source, read_exact_at, read_to_fault};

/// The largest read, in bytes.
const LARGE: usize = 1 << 20;
/// The smallest read, in bytes, before it is extended to the alignment.
const SMALL: usize = PAGE;
/// If the average distance is at most this many bytes, the bytes in between are read too:
/// this is about what a disk delivers in the time of one request.
const NEAR: u64 = 64 * 1024;

/// From this distance on, in bytes, reading single pages is cheaper if they are in the page
/// cache.
const CLOSE: u64 = 8 * 1024;

/// The number of large reads in a row, each where the last one ended, before the next blocks
/// are read in advance.
const IN_A_ROW: u32 = 3;

/// Whether blocks are read before they are wanted.
enum Advance {
    Never,
    /// They are after this many more large reads in a row.
    After(u32, Arc<dyn Source>),
    Running(Prefetch),
}

/// A view of a source that moves forward.
///
/// If the wanted offsets are close together, it reads ahead in blocks of up to 1 MiB, so
/// that not every offset needs a system call. If they are far apart or in the page cache
/// already, it reads one page at each.
pub struct ReadAhead<'a> {
    source: &'a dyn Source,
    buf: AlignedBuf,
    start: u64,
    filled: usize,
    last: u64,
    hop: u64,
    step: usize,
    advance: Advance,
    /// Bytes that begin before `buf` and end in it, and their offset.
    joint: Vec<u8>,
    joint_start: u64,
}

impl<'a> ReadAhead<'a> {
    /// Creates a view that starts at the beginning of `source`.
    ///
    /// # Errors
    /// There is no memory for its buffer (1 MiB, used only as far as needed).
    pub fn new(source: &'a dyn Source) -> io::Result<Self> {
        Ok(Self {
            source,
            buf: AlignedBuf::new(LARGE)?,
            start: 0,
            filled: 0,
            last: 0,
            hop: NEAR * 4,
            step: SMALL,
            advance: Advance::Never,
            joint: Vec::new(),
            joint_start: 0,
        })
    }

    /// Reads in advance where the wanted bytes are so close together that everything is read.
    /// This takes up to 6 MiB more. `source` is the source that the view was created for.
    ///
    /// What is read through the page cache is read in advance by the kernel.
    #[must_use]
    pub fn in_advance(mut self, source: &Arc<dyn Source>) -> Self {
        if source.mode() == ReadMode::Direct {
            self.advance = Advance::After(IN_A_ROW, Arc::clone(source));
        }
        self
    }

    /// Returns the `want` bytes at `offset`. `want` is at most 64 KiB. Fewer bytes are
    /// returned only at the end of the source.
    ///
    /// # Errors
    /// The bytes cannot be read. A failure to read ahead is not an error.
    pub fn at(&mut self, offset: u64, want: usize) -> io::Result<&[u8]> {
        debug_assert!(want <= LARGE / 16);
        let end = offset.saturating_add(want as u64).min(self.source.len());
        if offset >= end {
            return Ok(&[]);
        }
        if offset < self.start || end > self.start + self.filled as u64 {
            if self.join(offset, end) {
                let from = (offset - self.joint_start) as usize;
                return Ok(&self.joint[from..from + (end - offset) as usize]);
            }
            if let Err(e) = self.fill(offset, end) {
                let len = (end - offset) as usize;
                if !self.source.read_spare(&mut self.buf[..len], offset) {
                    return Err(e);
                }
                (self.start, self.filled) = (offset, len);
            }
        }
        let from = (offset - self.start).min(self.filled as u64) as usize;
        let to = (end - self.start).min(self.filled as u64) as usize;
        Ok(&self.buf[from..to])
    }

    /// Allows the source to read again what could not be read.
    pub fn allow_retry(&self) {
        let copies = self.source.copies().iter().map(|copy| copy.faults());
        for faults in copies.chain([self.source.faults()]).flatten() {
            faults.retry_bad();
        }
    }

    /// Announces the next wanted offset. The distance determines how far to read ahead.
    pub fn hop_to(&mut self, offset: u64) {
        let hop = offset.saturating_sub(self.last);
        self.hop = (self.hop / 8).saturating_mul(7).saturating_add(hop / 8);
        self.last = offset;
    }

    /// Moves on to the block that was read in advance, and puts the wanted bytes together in
    /// `joint`. Returns false if they are not there.
    fn join(&mut self, offset: u64, end: u64) -> bool {
        let Advance::Running(prefetch) = &mut self.advance else {
            return false;
        };
        let block_end = self.start + self.filled as u64;
        let from = match self.joint.is_empty() {
            true => self.start,
            false => self.joint_start.min(self.start),
        };
        // Further away, a read of a page costs less than all blocks up to there.
        if offset < from || end > block_end + BLOCK as u64 {
            self.stop();
            return false;
        }
        if offset >= self.start {
            let tail = (offset.min(block_end) - self.start) as usize;
            self.joint.clear();
            self.joint.extend_from_slice(&self.buf[tail..self.filled]);
            self.joint_start = offset;
            let Some(filled) = prefetch.take(block_end, &mut self.buf) else {
                self.stop();
                return false;
            };
            (self.start, self.filled) = (block_end, filled);
        }
        let have = self.joint_start + self.joint.len() as u64;
        if end > have {
            let missing = (have - self.start) as usize..(end - self.start) as usize;
            self.joint.extend_from_slice(&self.buf[missing]);
        }
        true
    }

    fn stop(&mut self) {
        self.joint.clear();
        if let Advance::Running(prefetch) = &self.advance {
            self.advance = Advance::After(IN_A_ROW, prefetch.source());
        }
    }

    /// Starts to read in advance after enough large reads in a row.
    fn count(&mut self, follows: bool) {
        let Advance::After(left, source) = &mut self.advance else {
            return;
        };
        *left = if follows {
            left.saturating_sub(1)
        } else {
            IN_A_ROW
        };
        if *left == 0 {
            let next = self.start + self.filled as u64;
            self.advance = match Prefetch::start(source, next) {
                Ok(prefetch) => Advance::Running(prefetch),
                Err(e) => {
                    log::debug!("nothing is read in advance: {e}");
                    Advance::Never
                }
            };
        }
    }

    fn fill(&mut self, offset: u64, end: u64) -> io::Result<()> {
        if self.hop > CLOSE && self.fill_cached(offset, end) {
            return Ok(());
        }
        self.step = if self.hop <= NEAR {
            (self.step * 4).min(LARGE)
        } else {
            SMALL
        };
        let alignment = self.source.alignment() as u64;
        let start = offset - offset % alignment;
        let least = (end - start).next_multiple_of(alignment) as usize;
        let len = self.step.next_multiple_of(alignment as usize).max(least);
        let before = self.start..=self.start + self.filled as u64;
        let follows = self.filled == LARGE && len == LARGE && before.contains(&start);
        self.filled = 0;
        self.start = start;
        self.filled = match read_exact_at(self.source, &mut self.buf[..len], start) {
            Ok(n) => n,
            // A bad sector further on must not hide a readable header.
            Err(_) => {
                self.step = SMALL;
                match read_to_fault(self.source, &mut self.buf[..least], least, start) {
                    (n, Some(e)) if start + (n as u64) < end => return Err(e),
                    (n, _) => n,
                }
            }
        };
        // A copy that is cut off has no more, and the others cannot be read here.
        if start + (self.filled as u64) < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.count(follows && self.filled == LARGE);
        Ok(())
    }

    /// Reads the bytes from the page cache. Returns false if they are not there.
    fn fill_cached(&mut self, offset: u64, end: u64) -> bool {
        let alignment = self.source.alignment() as u64;
        let start = offset - offset % alignment;
        let least = (end - start).next_multiple_of(alignment) as usize;
        let len = SMALL.next_multiple_of(alignment as usize).max(least);
        self.filled = 0;
        self.start = start;
        match self.source.read_cached(&mut self.buf[..len], start) {
            Ok(n) if start + n as u64 >= end => {
                self.filled = n;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::block::ReadMode;

    /// A source that counts reads and fails from offset `bad` on.
    struct Counted {
        len: u64,
        bad: u64,
        reads: AtomicU64,
        bytes: AtomicU64,
    }

    impl Counted {
        fn new(len: u64, bad: u64) -> Self {
            Self {
                len,
                bad,
                reads: 0.into(),
                bytes: 0.into(),
            }
        }
    }

    impl Source for Counted {
        fn path(&self) -> &Path {
            Path::new("counted")
        }
        fn len(&self) -> u64 {
            self.len
        }
        fn alignment(&self) -> usize {
            512
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            assert_eq!((offset % 512, buf.len() % 512), (0, 0));
            self.reads.fetch_add(1, Ordering::Relaxed);
            let n = (self.len - offset.min(self.len)).min(buf.len() as u64);
            if offset + n > self.bad {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            self.bytes.fetch_add(n, Ordering::Relaxed);
            for (i, b) in buf[..n as usize].iter_mut().enumerate() {
                *b = ((offset + i as u64) % 251) as u8;
            }
            Ok(n as usize)
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Direct
        }
    }

    fn walk(source: &Counted, hop: u64) {
        let mut reads = ReadAhead::new(source).unwrap();
        let mut at = 3;
        while at + 300 < source.len {
            reads.hop_to(at);
            let got = reads.at(at, 300).unwrap();
            assert_eq!(got.len(), 300);
            assert_eq!(u64::from(got[0]), at % 251);
            assert_eq!(u64::from(got[299]), (at + 299) % 251);
            at += hop;
        }
    }

    #[test]
    fn reads_close_together_are_shared() {
        let source = Counted::new(64 << 20, u64::MAX);
        walk(&source, 8 << 10);
        let reads = source.reads.load(Ordering::Relaxed);
        assert!(reads < 200, "{reads} reads for 8192 hops");
    }

    #[test]
    fn reads_far_apart_read_little() {
        let source = Counted::new(4 << 30, u64::MAX);
        walk(&source, 1 << 20);
        let bytes = source.bytes.load(Ordering::Relaxed);
        assert!(bytes < 4096 * 8192, "{bytes} bytes for 4096 hops");
    }

    #[test]
    fn a_bad_sector_after_the_wanted_bytes_does_not_hide_them() {
        let source = Counted::new(1 << 20, 2048);
        let mut reads = ReadAhead::new(&source).unwrap();
        assert_eq!(reads.at(1000, 100).unwrap().len(), 100);
        assert!(reads.at(4096, 100).is_err());
    }

    /// Reads 300 bytes in every 1000, some of them across the ends of blocks.
    fn walk_in_advance(source: &Arc<Counted>, until: u64) -> Vec<u64> {
        let shared: Arc<dyn Source> = Arc::clone(source) as Arc<dyn Source>;
        let mut reads = ReadAhead::new(&*shared).unwrap().in_advance(&shared);
        let mut failed = Vec::new();
        for at in (3..until).step_by(1000) {
            reads.hop_to(at);
            // A header and its name: the second part was in the first part, or follows it.
            for (from, want) in [(at, 40), (at, 300), (at + 40, 280)] {
                let Ok(got) = reads.at(from, want) else {
                    failed.push(from);
                    continue;
                };
                assert_eq!(got.len() as u64, (source.len - from).min(want as u64));
                let right = (from..).zip(got).all(|(at, b)| u64::from(*b) == at % 251);
                assert!(right, "{want} bytes at {from}");
            }
        }
        failed
    }

    #[test]
    fn what_is_read_in_advance_is_the_same() {
        for len in [12 << 20, (12 << 20) + 512, (9 << 20) + 4096] {
            let source = Arc::new(Counted::new(len, u64::MAX));
            assert!(walk_in_advance(&source, len).is_empty());
            let bytes = source.bytes.load(Ordering::Relaxed);
            assert!(bytes < len + (4 << 20), "{bytes} of {len} bytes");
            let reads = source.reads.load(Ordering::Relaxed);
            assert!(reads < 20, "nothing was read in advance: {reads} reads");
        }
    }

    #[test]
    fn a_bad_place_ahead_hides_nothing_before_it() {
        let bad = (7 << 20) + 1536;
        let source = Arc::new(Counted::new(12 << 20, bad));
        let failed = walk_in_advance(&source, bad + 2000);
        assert!(!failed.is_empty());
        // A read that ends in the sector before it may extend into it.
        assert!(failed.iter().all(|at| at + 300 > bad), "{failed:?}");
    }

    #[test]
    fn a_large_file_between_small_ones_is_not_read() {
        let source = Arc::new(Counted::new(1 << 30, u64::MAX));
        let shared: Arc<dyn Source> = Arc::clone(&source) as Arc<dyn Source>;
        let mut reads = ReadAhead::new(&*shared).unwrap().in_advance(&shared);
        for start in [0, 500 << 20] {
            for at in (start..start + (8 << 20)).step_by(1000) {
                reads.hop_to(at);
                assert_eq!(reads.at(at, 64).unwrap().len(), 64);
            }
        }
        drop(reads);
        let bytes = source.bytes.load(Ordering::Relaxed);
        assert!(bytes < 40 << 20, "{bytes}");
    }

    #[test]
    fn a_view_can_also_move_back() {
        let source = Counted::new(1 << 20, u64::MAX);
        let mut reads = ReadAhead::new(&source).unwrap();
        for at in [5000, 3, 900_000, 4999] {
            let got = reads.at(at, 10).unwrap();
            assert_eq!((got.len(), u64::from(got[0])), (10, at % 251));
        }
    }
}
