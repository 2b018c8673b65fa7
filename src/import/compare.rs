//! Compares an existing file with the payload's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::block::ReadAhead;
use crate::error::{Error, Result};
use crate::payload::{Cause, Entry, EntryReader, Payload, Problem, Sha256Sum};
use crate::progress::Progress;
use crate::sys::drop_cached;

/// Files up to this size, in bytes, are compared in one piece.
pub(super) const SMALL_MAX: usize = 64 * 1024;

/// The result of a comparison.
pub(super) enum Comparison {
    /// The content is the same.
    Same,
    /// The content is the same, but the checksum does not match it.
    SameAndWrong(Problem),
    /// The content is different.
    Different,
}

/// Compares an existing file of `len` bytes with the payload's.
#[allow(clippy::too_many_arguments)] // each is another thing
pub(super) fn compare(
    payload: &Payload,
    entry: &Entry,
    file: &File,
    len: u64,
    sum: Option<Sha256Sum>,
    window: &mut ReadAhead<'_>,
    scratch: &mut [u8],
    progress: &dyn Progress,
) -> Result<Comparison> {
    if len != entry.size {
        progress.skip(entry.size);
        return Ok(Comparison::Different);
    }
    if entry.size <= SMALL_MAX as u64 {
        // Many small files share a read. An existing file that cannot be read is replaced.
        window.hop_to(entry.data_offset);
        let bytes = window
            .at(entry.data_offset, entry.size as usize)
            .map_err(|e| {
                entry
                    .problem(entry.data_offset, Cause::Io(e))
                    .into_error(&**payload.source())
            })?;
        progress.advance(entry.size);
        if bytes.len() as u64 != entry.size || !holds(file, bytes, 0, scratch).unwrap_or(false) {
            return Ok(Comparison::Different);
        }
        return Ok(judge(entry, sum, sum.map(|_| Sha256Sum::of(bytes))));
    }
    let mut hasher = sum.is_some().then(Sha256::new);
    let mut at = 0;
    let mut reader = EntryReader::new(payload, entry)?;
    while let Some(bytes) = reader.next_block()? {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        progress.advance(bytes.len() as u64);
        // An existing file that cannot be read is replaced.
        if !holds(file, bytes, at, scratch).unwrap_or(false) {
            progress.skip(entry.size - at - bytes.len() as u64);
            return Ok(Comparison::Different);
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
        at += bytes.len() as u64;
    }
    Ok(judge(entry, sum, hasher.map(Sha256Sum::from_hasher)))
}

fn judge(entry: &Entry, expected: Option<Sha256Sum>, found: Option<Sha256Sum>) -> Comparison {
    match (expected, found) {
        (Some(expected), Some(found)) if expected != found => {
            Comparison::SameAndWrong(entry.mismatch(expected, found))
        }
        _ => Comparison::Same,
    }
}

/// Returns whether the bytes of `file` at `offset` equal `bytes`. The bytes read are dropped
/// from the page cache again. `scratch` is overwritten.
fn holds(file: &File, bytes: &[u8], offset: u64, scratch: &mut [u8]) -> io::Result<bool> {
    let mut done = 0;
    while done < bytes.len() {
        let want = scratch.len().min(bytes.len() - done);
        let n = file.read_at(&mut scratch[..want], offset + done as u64)?;
        if n == 0 || scratch[..n] != bytes[done..done + n] {
            return Ok(false);
        }
        done += n;
    }
    drop_cached(file.as_fd(), offset, done as u64);
    Ok(true)
}
