//! The source that checks what it gives out, and heals it.

use std::fs::Metadata as FileMetadata;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::block::{AlignedBuf, PAGE, ReadMode, Source, read_exact_at};
use crate::error::SourceFailure;

use super::geometry::{BLOCK, GROUP};
use super::heal::{Found, Healer};
use super::spare::Spare;

/// A payload that is checked against its trailer before its bytes are given out, and healed where
/// it is damaged. It ends with the payload: what lies behind is not protected.
pub struct ProtectedSource {
    inner: Arc<dyn Source>,
    healer: Healer,
    checked: AtomicU64,
    spare: OnceLock<Option<Spare>>,
    /// The longest copy of the headers that is used, in bytes.
    headers_max: u64,
}

/// What a protected source has found so far.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// The percentage of redundancy.
    pub percent: u32,
    /// The number of bytes that were checked and given out.
    pub checked_bytes: u64,
    /// The damage, in blocks of 4096 bytes.
    pub found: Found,
}

impl ProtectedSource {
    /// Creates a source that reads the payload in `inner`, checked and healed by `healer`.
    /// `memory` limits the copy of the headers, which is read if a header is lost.
    pub fn new(inner: Arc<dyn Source>, healer: Healer, memory: usize) -> Self {
        Self {
            inner,
            healer,
            checked: AtomicU64::new(0),
            spare: OnceLock::new(),
            headers_max: memory as u64 / 2,
        }
    }

    /// Returns what was found so far.
    pub fn report(&self) -> Report {
        Report {
            percent: self.healer.geometry().percent(),
            checked_bytes: self.checked.load(Ordering::Relaxed),
            found: self.healer.found(),
        }
    }

    /// Returns the healer.
    pub fn healer(&self) -> &Healer {
        &self.healer
    }

    /// Returns the source below, which is not checked.
    pub fn inner(&self) -> &Arc<dyn Source> {
        &self.inner
    }

    /// Returns the copy of the payload's headers and names in the trailer: its bytes are right, and
    /// were so when it was written. `None` if both copies are damaged, or too long.
    pub fn stored_headers(&self) -> Option<Vec<u8>> {
        self.healer.meta.headers(self.headers_max)
    }

    /// Reads into `buf`. Returns whether there were at least `len` bytes.
    ///
    /// # Errors
    /// A server does not answer. Bytes that could be computed from others would not come either.
    fn fills(&self, buf: &mut [u8], offset: u64, len: usize) -> io::Result<bool> {
        match read_exact_at(&*self.inner, buf, offset) {
            Ok(n) => Ok(n >= len),
            Err(e) if SourceFailure::is_in(&e) && self.inner.copies().is_empty() => Err(e),
            Err(_) => Ok(false),
        }
    }

    /// Reads whole groups into `buf`, checks them, and heals those that are wrong. `buf` may end
    /// with the payload, filled up to a whole block. Returns the group that is lost, if any, and
    /// everything before it is in `buf`.
    fn read_groups(&self, buf: &mut [u8], first: u64) -> io::Result<Option<u64>> {
        let g = self.healer.geometry();
        let offset = first * GROUP;
        let mut bad = Vec::new();
        let len = buf.len().min((g.payload_len() - offset) as usize);
        let whole = self.fills(buf, offset, len)?;
        for (group, bytes) in (first..).zip(buf.chunks_mut(GROUP as usize)) {
            let len = g.group_len(group);
            let read = whole || self.fills(bytes, group * GROUP, len)?;
            if !read || !self.healer.check(group, &bytes[..len]) {
                bad.push(group);
            }
        }
        if bad.is_empty() {
            return Ok(None);
        }
        let healed = self.healer.heal(&bad)?;
        for group in bad {
            let Some(Some(bytes)) = healed.get(&group) else {
                return Ok(Some(group));
            };
            let at = ((group - first) * GROUP) as usize;
            buf[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(None)
    }
}

/// Returns the error of a read that needs bytes that are lost.
fn lost() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "damaged, and too much is lost to heal it",
    )
}

impl Source for ProtectedSource {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn len(&self) -> u64 {
        self.healer.geometry().payload_len()
    }

    fn start(&self) -> u64 {
        self.inner.start()
    }

    fn alignment(&self) -> usize {
        BLOCK as usize
    }

    fn part(&self) -> usize {
        GROUP as usize
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = self.len().min(offset.saturating_add(buf.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        let mut at = offset;
        while at < end {
            let group = at / GROUP;
            let start = group * GROUP;
            let done = (at - offset) as usize;
            // Whole groups are read into the buffer directly. The last one may be shorter.
            let mut whole = if at == start {
                (end - start) / GROUP * GROUP
            } else {
                0
            };
            let padded = end.next_multiple_of(BLOCK);
            if at == start && end == self.len() && padded <= offset + buf.len() as u64 {
                whole = padded - start;
            }
            let lost_group;
            if whole > 0 {
                lost_group = self.read_groups(&mut buf[done..done + whole as usize], group)?;
                let healthy = lost_group.map_or(start + whole, |group| group * GROUP);
                at = healthy.min(end);
            } else {
                let len = self.healer.geometry().group_len(group);
                let mut scratch = AlignedBuf::new(GROUP as usize)?;
                let padded = len.next_multiple_of(PAGE);
                lost_group = self.read_groups(&mut scratch[..padded], group)?;
                if lost_group.is_none() {
                    let stop = end.min(start + len as u64);
                    let from = (at - start) as usize..(stop - start) as usize;
                    buf[done..done + from.len()].copy_from_slice(&scratch[from]);
                    at = stop;
                }
            }
            if lost_group.is_some() {
                // What comes before is returned first, as with a read of a bad sector.
                if at == offset {
                    return Err(lost());
                }
                break;
            }
        }
        self.checked.fetch_add(at - offset, Ordering::Relaxed);
        Ok((at - offset) as usize)
    }

    fn will_read(&self, offset: u64, len: usize) {
        self.inner.will_read(offset, len);
    }

    fn quiesce(&self) {
        self.inner.quiesce();
    }

    fn mode(&self) -> ReadMode {
        self.inner.mode()
    }

    fn modified(&self) -> Option<SystemTime> {
        self.inner.modified()
    }

    fn is_device(&self) -> bool {
        self.inner.is_device()
    }

    fn is_file(&self, meta: &FileMetadata) -> bool {
        self.inner.is_file(meta)
    }

    fn healed_blocks(&self) -> Option<u64> {
        Some(self.healer.healed_blocks())
    }

    fn read_spare(&self, buf: &mut [u8], offset: u64) -> bool {
        let spare = self
            .spare
            .get_or_init(|| self.stored_headers().map(Spare::new));
        spare.as_ref().is_some_and(|spare| spare.read(buf, offset))
    }
}
