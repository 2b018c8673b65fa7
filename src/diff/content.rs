//! Compares the bytes of entries of two payloads, which are read at the same time.

use std::io;

use crate::block::{AlignedBuf, Source, read_exact_at, read_to_fault};
use crate::error::{Error, Result};
use crate::payload::{Cause, Entry};
use crate::progress::Progress;

/// The size of one read in bytes, where the next entry is close to the one before.
const BLOCK: usize = 2 << 20;

/// The smallest read elsewhere.
const SMALL: usize = 64 << 10;

/// The two sources. Each keeps the block that was read last, because the next entry begins
/// where the one before ends.
pub(super) struct Content<'a> {
    old: Block<'a>,
    new: Block<'a>,
}

impl<'a> Content<'a> {
    pub(super) fn new(old: &'a dyn Source, new: &'a dyn Source) -> Result<Self> {
        Ok(Self {
            old: Block::new(old)?,
            new: Block::new(new)?,
        })
    }

    /// Returns whether an entry of the old payload has the same bytes as one of the same size
    /// in the new payload.
    ///
    /// # Errors
    /// A source cannot be read, or the user interrupts it.
    pub(super) fn is_same(
        &mut self,
        old: &Entry,
        new: &Entry,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let mut done = 0;
        while done < old.size {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let ends = (old.data_offset + done, new.data_offset + done);
            let left = usize::try_from(old.size - done).unwrap_or(usize::MAX);
            let (a, b) = (&mut self.old, &mut self.new);
            // A disk is busy while the other one is.
            let filled = std::thread::scope(|scope| {
                let other = (!b.holds(ends.1)).then(|| scope.spawn(|| b.fill(ends.1, left)));
                let one = a.fill(ends.0, left);
                let other = other.map_or(Ok(()), |thread| {
                    thread
                        .join()
                        .unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
                });
                (one, other)
            });
            let failed = |entry: &Entry, at, e, source: &dyn Source| {
                entry.problem(at, Cause::Io(e)).into_error(source)
            };
            filled
                .0
                .map_err(|e| failed(old, ends.0, e, self.old.source))?;
            filled
                .1
                .map_err(|e| failed(new, ends.1, e, self.new.source))?;
            let (a, b) = (self.old.from(ends.0), self.new.from(ends.1));
            let len = a.len().min(b.len()).min(left);
            if a[..len] != b[..len] {
                return Ok(false);
            }
            done += len as u64;
        }
        Ok(true)
    }
}

/// A block of a source.
struct Block<'a> {
    source: &'a dyn Source,
    buf: AlignedBuf,
    start: u64,
    len: usize,
}

impl<'a> Block<'a> {
    fn new(source: &'a dyn Source) -> Result<Self> {
        let buf = AlignedBuf::new(BLOCK)
            .map_err(|e| Error::io("get a buffer to read", e).with_path(source.path()))?;
        Ok(Self {
            source,
            buf,
            start: 0,
            len: 0,
        })
    }

    fn holds(&self, at: u64) -> bool {
        (self.start..self.start + self.len as u64).contains(&at)
    }

    /// Returns the bytes from an offset up to the end of the block.
    fn from(&self, at: u64) -> &[u8] {
        &self.buf[(at - self.start) as usize..self.len]
    }

    /// Reads a block that begins at an offset and has up to `want` bytes or more, unless the
    /// offset is in the block already.
    fn fill(&mut self, at: u64, want: usize) -> io::Result<()> {
        if self.holds(at) {
            return Ok(());
        }
        let alignment = self.source.alignment();
        let start = at - at % alignment as u64;
        let end = self.start + self.len as u64;
        let is_close = at >= self.start && start.saturating_sub(end) < BLOCK as u64;
        let len = match is_close {
            true => BLOCK,
            false => want.clamp(SMALL, BLOCK - alignment) + alignment,
        };
        let len = len.next_multiple_of(alignment).min(BLOCK);
        (self.start, self.len) = (start, 0);
        self.len = match read_exact_at(self.source, &mut self.buf[..len], start) {
            Ok(n) => n,
            // What comes before a bad sector is compared.
            Err(_) => match read_to_fault(self.source, &mut self.buf[..len], len, start) {
                (n, Some(fault)) if start + n as u64 <= at => return Err(fault),
                (n, _) => n,
            },
        };
        if self.holds(at) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}
