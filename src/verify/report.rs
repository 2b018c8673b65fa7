//! What a verification found.

use crate::format::Dialect;
use crate::payload::Problems;

/// What was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// How wide the integers are.
    pub dialect: Dialect,
    /// Entries that could be walked to.
    pub files: u64,
    /// Bytes of the payload, as far as it could be walked.
    pub payload_bytes: u64,
    /// What is wrong.
    pub problems: Problems,
    /// Files that were read and matched their checksum.
    pub matched: u64,
    /// Files without a checksum, where others have one.
    pub unlisted: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What became of one file, in the order of the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileVerdict {
    /// Read, and its checksum matches.
    Ok,
    /// Its checksum does not match, or it cannot be read.
    Failed,
    /// It has no checksum, and others have.
    Unlisted,
}
