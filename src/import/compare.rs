//! Whether a file that is there already is the payload's.

use sha2::{Digest, Sha256};

use crate::block::Window;
use crate::durable::Existing;
use crate::error::{Error, Result};
use crate::payload::{Cause, Entry, Payload, Problem, Sha256Sum, read_entry};
use crate::progress::Progress;

use super::mismatch;

/// Files up to this size, in bytes, are compared whole.
pub(super) const SMALL_MAX: usize = 64 * 1024;

/// What came of it.
pub(super) enum Comparison {
    /// The same content.
    Same,
    /// The same content, and not that of the checksum.
    SameAndWrong(Problem),
    /// Another content.
    Different,
}

/// Compares a file that is there with the payload's.
pub(super) fn compare(
    payload: &Payload,
    entry: &Entry,
    file: &Existing,
    sum: Option<Sha256Sum>,
    window: &mut Window<'_>,
    scratch: &mut [u8],
    progress: &dyn Progress,
) -> Result<Comparison> {
    if file.len() != entry.size {
        return Ok(Comparison::Different);
    }
    if entry.size <= SMALL_MAX as u64 {
        // Many of them share a read; a file that cannot be read is replaced.
        window.hop_to(entry.data_offset);
        let bytes = window
            .at(entry.data_offset, entry.size as usize)
            .map_err(|e| {
                entry
                    .problem(entry.data_offset, Cause::Io(e))
                    .into_error(&**payload.source())
            })?;
        if bytes.len() as u64 != entry.size || !file.holds(bytes, 0, scratch).unwrap_or(false) {
            return Ok(Comparison::Different);
        }
        return Ok(judge(entry, sum, sum.map(|_| Sha256Sum::of(bytes))));
    }
    let mut hasher = sum.is_some().then(Sha256::new);
    let mut at = 0;
    let mut same = true;
    let read = read_entry(payload, entry, &mut |bytes| {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        // A file that is there and cannot be read is replaced.
        same = file.holds(bytes, at, scratch).unwrap_or(false);
        if !same {
            // Only to stop reading; the comparison is over.
            return Err(Error::interrupted());
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
        at += bytes.len() as u64;
        Ok(())
    });
    if !same {
        return Ok(Comparison::Different);
    }
    read?;
    Ok(judge(entry, sum, hasher.map(Sha256Sum::from_hasher)))
}

fn judge(entry: &Entry, expected: Option<Sha256Sum>, found: Option<Sha256Sum>) -> Comparison {
    match (expected, found) {
        (Some(expected), Some(found)) if expected != found => {
            Comparison::SameAndWrong(mismatch(entry, expected, found))
        }
        _ => Comparison::Same,
    }
}
