//! A source that reads no bad place more often than necessary.

use std::fs::Metadata;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use super::buffer::{AlignedBuf, PAGE};
use super::fault_map::FaultMap;
use super::source::{ReadMode, Source, read_exact_at};

/// A source that records which reads fail. It does not repeat a read that failed: only single
/// sectors of it are read, and each of those once, until [`FaultMap::forget_bad`] allows another
/// try.
pub struct FaultRecorder {
    inner: Arc<dyn Source>,
    map: FaultMap,
}

impl FaultRecorder {
    /// Creates a source that reads `inner`.
    pub fn new(inner: Arc<dyn Source>) -> Self {
        let map = FaultMap::new(inner.sector() as u64, inner.start());
        Self { inner, map }
    }

    /// Returns whether bytes that were read before still can be.
    fn is_alive(&self) -> bool {
        let Some(offset) = self.map.last_read() else {
            return false;
        };
        let alignment = self.alignment() as u64;
        let start = offset - offset % alignment;
        AlignedBuf::new(PAGE)
            .and_then(|mut buf| read_exact_at(&*self.inner, &mut buf[..alignment as usize], start))
            .is_ok_and(|n| n > 0)
    }
}

impl Source for FaultRecorder {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn start(&self) -> u64 {
        self.inner.start()
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }

    fn part(&self) -> usize {
        self.inner.part()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let range = offset..(offset + buf.len() as u64).min(self.len()).max(offset);
        if range.is_empty() {
            // Nothing is there. Without a record of it, the same read would be tried forever.
            return self.inner.read_at(buf, offset).inspect_err(|e| {
                if e.kind() != io::ErrorKind::Interrupted {
                    self.map.add_end(self.len());
                }
            });
        }
        if let Some(error) = self.map.refusal(&range) {
            return Err(error);
        }
        if self.map.is_lost(offset) {
            return Ok(0);
        }
        let result = self.inner.read_at(buf, offset);
        match &result {
            Ok(0) => self.map.add_end(offset),
            Ok(n) => {
                self.map.add_read(offset);
                // A read through the page cache ends before a bad page. Another large read would
                // only reach that page again.
                self.map
                    .add_suspect((offset + *n as u64).min(range.end)..range.end);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                if self.map.add_failed(range, e) && !self.is_alive() {
                    self.map.add_gone();
                }
            }
        }
        result
    }

    fn read_cached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_cached(buf, offset)
    }

    fn read_spare(&self, buf: &mut [u8], offset: u64) -> bool {
        self.inner.read_spare(buf, offset)
    }

    fn healed_blocks(&self) -> Option<u64> {
        self.inner.healed_blocks()
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

    fn is_device(&self) -> bool {
        self.inner.is_device()
    }

    fn is_file(&self, meta: &Metadata) -> bool {
        self.inner.is_file(meta)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn faults(&self) -> Option<&FaultMap> {
        Some(&self.map)
    }
}
