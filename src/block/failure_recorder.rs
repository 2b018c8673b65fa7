//! A source that remembers when a server did not answer.

use std::fs::Metadata;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::error::SourceFailure;

use super::fault_map::FaultMap;
use super::source::{ReadMode, Source};

/// A source that remembers each [`SourceFailure`], for code that takes bytes that cannot be read
/// for damaged ones. Bytes that did not come are not damaged.
pub struct FailureRecorder {
    inner: Arc<dyn Source>,
    /// The number of failures, and the latest.
    failures: Mutex<(u64, Option<(SourceFailure, io::ErrorKind)>)>,
}

impl FailureRecorder {
    /// Creates a source that reads `inner`.
    pub fn new(inner: Arc<dyn Source>) -> Self {
        Self {
            inner,
            failures: Mutex::default(),
        }
    }

    /// Returns the number of failures so far.
    pub fn count(&self) -> u64 {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Checks that there was no failure since there were `before`.
    ///
    /// # Errors
    /// The latest failure.
    pub fn check(&self, before: u64) -> io::Result<()> {
        let failures = self.failures.lock();
        let failures = failures.unwrap_or_else(PoisonError::into_inner);
        match &*failures {
            (count, Some((latest, kind))) if *count > before => Err(latest.clone().into_io(*kind)),
            _ => Ok(()),
        }
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|e| {
            if let Some(failure) = SourceFailure::of(e) {
                let failures = self.failures.lock();
                let mut failures = failures.unwrap_or_else(PoisonError::into_inner);
                *failures = (failures.0 + 1, Some((failure.clone(), e.kind())));
            }
        })
    }
}

impl Source for FailureRecorder {
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
        self.note(self.inner.read_at(buf, offset))
    }

    fn read_cached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_cached(buf, offset)
    }

    fn read_past_cache(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.note(self.inner.read_past_cache(buf, offset))
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

    fn is_file(&self, meta: &Metadata) -> bool {
        self.inner.is_file(meta)
    }

    fn sector(&self) -> usize {
        self.inner.sector()
    }

    fn faults(&self) -> Option<&FaultMap> {
        self.inner.faults()
    }

    fn copies(&self) -> &[Arc<dyn Source>] {
        self.inner.copies()
    }

    fn read_spare(&self, buf: &mut [u8], offset: u64) -> bool {
        self.inner.read_spare(buf, offset)
    }

    fn healed_blocks(&self) -> Option<u64> {
        self.inner.healed_blocks()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }
}
