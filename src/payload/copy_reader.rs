//! Reads files from the copies of a payload, without staging them.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::block::{AlignedBuf, Ranges, Source};
use crate::error::{Error, Result};
use crate::progress::Progress;

use super::digest::Sha256Sum;
use super::problem::{Cause, Problem};
use super::read_around::read_around;
use super::walk::{Entry, Payload};

/// The size of one piece in bytes.
const PIECE: usize = 256 * 1024;

/// Reads parts of files from one copy, or from several. All of them record their bad places.
pub struct CopyReader<'a> {
    copies: Vec<Arc<dyn Source>>,
    buf: AlignedBuf,
    /// The number of bytes that were taken from each copy.
    taken: Vec<u64>,
    progress: &'a dyn Progress,
}

impl<'a> CopyReader<'a> {
    /// Creates a reader of the copies of `payload`, or of its only source.
    ///
    /// # Errors
    /// There is no memory for a buffer.
    pub fn new(payload: &Payload, progress: &'a dyn Progress) -> Result<Self> {
        let source = payload.source();
        let copies = match source.copies() {
            [] => vec![Arc::clone(source)],
            copies => copies.to_vec(),
        };
        Ok(Self {
            taken: vec![0; copies.len()],
            copies,
            buf: AlignedBuf::new(PIECE)
                .map_err(|e| Error::io("get memory to read", e).with_path(source.path()))?,
            progress,
        })
    }

    /// Returns the number of copies.
    pub fn copies(&self) -> usize {
        self.copies.len()
    }

    /// Returns the source of a copy.
    pub fn copy(&self, n: usize) -> &Arc<dyn Source> {
        &self.copies[n]
    }

    /// Returns the number of bytes that were taken from each copy.
    pub fn taken(&self) -> &[u64] {
        &self.taken
    }

    /// Reads `holes` from a copy and passes the bytes to `give`, with their offset in the source.
    /// Returns what cannot be read.
    ///
    /// # Errors
    /// An error of `give`, or an interruption.
    pub fn fill(
        &mut self,
        copy: usize,
        holes: &Ranges,
        give: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<Ranges> {
        let mut missing = Ranges::default();
        let taken = &mut self.taken[copy];
        for hole in holes.iter() {
            let source = &*self.copies[copy];
            let give = &mut |at, bytes: &[u8]| {
                *taken += bytes.len() as u64;
                give(at, bytes)
            };
            let bad = read_around(source, hole, &mut self.buf, self.progress, give)?;
            bad.iter().for_each(|range| missing.add(range));
        }
        Ok(missing)
    }

    /// Reads `range` in order, each part from the first of `order` that can give it. Returns what
    /// cannot be read.
    ///
    /// # Errors
    /// An error of `give`, or an interruption.
    pub fn read(
        &mut self,
        order: &[usize],
        range: Range<u64>,
        give: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Ranges> {
        let mut lost = Ranges::default();
        let mut piece = vec![0; (range.end - range.start).min(PIECE as u64) as usize];
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + piece.len() as u64);
            let mut missing = Ranges::from(at..end);
            for &copy in order {
                missing = self.fill(copy, &missing, &mut |from, bytes| {
                    let start = (from - at) as usize;
                    piece[start..start + bytes.len()].copy_from_slice(bytes);
                    Ok(())
                })?;
            }
            missing.iter().for_each(|range| lost.add(range));
            give(&piece[..(end - at) as usize])?;
            at = end;
        }
        Ok(lost)
    }

    /// Returns the checksum of an entry, read in this order, or what cannot be read of it.
    ///
    /// # Errors
    /// An interruption.
    pub fn sum(
        &mut self,
        order: &[usize],
        entry: &Entry,
    ) -> Result<std::result::Result<Sha256Sum, Ranges>> {
        let mut hasher = Sha256::new();
        let missing = self.read(order, entry.data_offset..entry.end(), &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        Ok(match missing.is_empty() {
            true => Ok(Sha256Sum::from_hasher(hasher)),
            false => Err(missing),
        })
    }

    /// Returns the first byte of `range` that two copies can both read, and that differs.
    ///
    /// # Errors
    /// An interruption.
    pub fn difference(&mut self, a: usize, b: usize, range: Range<u64>) -> Result<Option<u64>> {
        let before = self.taken.clone();
        let mut own = vec![0; PIECE];
        let mut at = range.start;
        let mut differs = None;
        while at < range.end && differs.is_none() {
            let end = range.end.min(at + PIECE as u64);
            let mut known = Ranges::from(at..end);
            let missing = self.fill(a, &Ranges::from(at..end), &mut |from, bytes| {
                let start = (from - at) as usize;
                own[start..start + bytes.len()].copy_from_slice(bytes);
                Ok(())
            })?;
            missing.iter().for_each(|range| known.remove(range));
            self.fill(b, &known, &mut |from, bytes| {
                let own = &own[(from - at) as usize..];
                if let Some(n) = own.iter().zip(bytes).position(|(a, b)| a != b) {
                    differs.get_or_insert(from + n as u64);
                }
                Ok(())
            })?;
            at = end;
        }
        // A comparison takes nothing.
        self.taken = before;
        Ok(differs)
    }

    /// Returns the problem that `missing` of an entry cannot be read.
    pub fn problem(&self, entry: &Entry, missing: &Ranges) -> Problem {
        let ranges: Vec<Range<u64>> = missing.iter().collect();
        let at = ranges
            .first()
            .map_or(entry.data_offset, |range| range.start);
        let faults = self.copies[0].faults();
        if faults.is_some_and(|faults| faults.has_ended_before(at)) {
            return entry.problem(at, Cause::Shrunk);
        }
        let error = faults.map_or_else(
            || std::io::Error::from_raw_os_error(libc::EIO),
            |faults| faults.error(),
        );
        entry.problem(at, Cause::BadSectors { error, ranges })
    }
}
