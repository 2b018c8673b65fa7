//! The result of a verification.

use std::ops::Range;

use crate::format::Dialect;
use crate::payload::Problems;

/// The result of a verification.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// The dialect, which is the width of the integers.
    pub dialect: Dialect,
    /// The number of entries found.
    pub files: u64,
    /// The length of the payload in bytes, as far as its entries were found.
    pub payload_bytes: u64,
    /// The sectors that cannot be read from the first copy, in bytes from the start of the source.
    pub bad: Vec<Range<u64>>,
    /// The number of bytes that only another copy could give.
    pub from_other_copies: u64,
    /// The problems found.
    pub problems: Problems,
    /// The number of files that were read and match their checksum.
    pub matched: u64,
    /// The number of files without a checksum, if others have one.
    pub unlisted: u64,
}

impl Report {
    /// Returns whether there are no problems.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// The verdict on one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileVerdict {
    /// It was read, and its checksum matches.
    Ok,
    /// Its checksum does not match, or it cannot be read.
    Failed,
    /// It has no checksum, but others have one.
    Unlisted,
}
