//! The data of a copy: what to copy, and the result.

use std::sync::Arc;

use crate::block::Queue;
use crate::durable::Store;
use crate::payload::{Bits, Checksums, Entry, Hashed, Index, Problems, Reread};
use crate::progress::Progress;

use super::commit::{Complete, Step};
use super::plan::Plan;
use super::small::Batch;
use super::tuning::Tuning;

/// The result of a copy.
#[derive(Debug, Default)]
pub struct Copied {
    /// The number of files that are complete under their names.
    pub files: u64,
    /// The number of bytes of these files.
    pub bytes: u64,
    /// The number of these files that replaced another.
    pub replaced: u64,
    /// The files that were not written: their checksum does not match, or parts of them cannot be
    /// read.
    pub failed: Problems,
    /// The number of bytes that came from each copy but the first.
    pub from: Vec<u64>,
    /// The files that are staged with zeros where nothing could be read.
    pub(super) partial: Bits,
}

impl Copied {
    /// Counts a file that is complete under its name and on stable storage.
    pub(super) fn settled(
        &mut self,
        file: &Complete,
        progress: &dyn Progress,
        tell: &mut dyn FnMut(u64, &str),
    ) {
        self.files += 1;
        self.bytes += file.size;
        self.replaced += u64::from(file.replaces);
        progress.file_done(&file.name);
        tell(file.slot, &file.name);
    }
}

/// How to recover the files that cannot be read in large blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// How often bad sectors are read again.
    pub retries: u32,
    /// Whether what could be read of a damaged file stays staged.
    pub keep_partial: bool,
}

/// A result that the threads of a copy return to its loop.
pub struct Done(pub(super) What);

pub(super) enum What {
    Reread(Reread),
    Hashed(Hashed),
    Small(Batch),
    Committed(Step),
}

impl From<Reread> for Done {
    fn from(done: Reread) -> Self {
        Self(What::Reread(done))
    }
}

impl From<Hashed> for Done {
    fn from(done: Hashed) -> Self {
        Self(What::Hashed(done))
    }
}

impl From<Batch> for Done {
    fn from(done: Batch) -> Self {
        Self(What::Small(done))
    }
}

impl From<Step> for Done {
    fn from(done: Step) -> Self {
        Self(What::Committed(done))
    }
}

/// A copy: the payload, the files, the destination and the settings.
pub struct CopyJob<'a> {
    /// The index of the payload to read.
    pub index: &'a Index,
    /// The entries to copy.
    pub plan: &'a Plan,
    /// The checksums that the files must match.
    pub sums: &'a Checksums,
    /// The destination of the files.
    pub store: Arc<dyn Store>,
    /// The queue for reads, writes and jobs.
    pub queue: Box<dyn Queue<Done>>,
    /// The sizes and depths.
    pub tuning: Tuning,
    /// What to do about files that cannot be read. `None` means to stop at the first.
    pub recovery: Option<Recovery>,
    /// Receives the progress, and tells when to stop.
    pub progress: &'a dyn Progress,
}

impl CopyJob<'_> {
    pub(super) fn is_small(&self, entry: &Entry) -> bool {
        entry.size <= self.tuning.small_max
    }
}

/// The files that a copy leaves for the recovery.
#[derive(Default)]
pub(super) struct Bad {
    /// Parts of them could not be read.
    pub(super) damaged: Bits,
    /// Their checksum does not match, and another copy may be right.
    pub(super) wrong: Bits,
    pub(super) any: bool,
}
