//! Verifies a payload: checks its structure, then reads every byte of it.

mod reader;
mod recover;
mod report;
mod run;

use crate::block::{IoEngine, open_queue};
use crate::error::{Error, Result};
use crate::payload::{Checksums, Payload};
use crate::progress::Progress;

pub use report::{FileVerdict, Report};

#[cfg(feature = "internals")]
pub use reader::Done;
#[cfg(feature = "internals")]
pub use run::verify_on;
#[cfg(not(feature = "internals"))]
use run::verify_on;

/// Verifies `payload` against `sums` and the embedded checksums, which are added to
/// `sums`. Reports each file that has a checksum, or that has none while others do. Files that
/// could not be read in large blocks come last: they are read sector by sector, and from the other
/// copies if the source consists of several.
///
/// # Errors
/// An interruption, too little memory, or copies whose headers differ. Problems of
/// the payload are in the report and not errors.
pub fn verify(
    payload: &Payload,
    sums: Checksums,
    progress: &dyn Progress,
    tell: &mut dyn FnMut(&str, FileVerdict),
) -> Result<Report> {
    let (queue, _) = open_queue(IoEngine::Auto, reader::DEPTH, reader::HASHERS)
        .map_err(|e| Error::io("start threads", e))?;
    verify_on(payload, sums, queue, progress, tell)
}
