//! Compares an existing file with the payload's, or with its checksum.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::block::ReadAhead;
use crate::error::{Error, Result};
use crate::payload::{Cause, Entry, EntryReader, Payload, Sha256Sum};
use crate::progress::Progress;
use crate::sys::drop_cached;

/// Files up to this size, in bytes, are compared in one piece.
const SMALL_MAX: usize = 64 * 1024;

/// Compares files with those of a payload, in the order of the payload.
pub(super) struct Comparer<'a> {
    payload: &'a Payload,
    window: ReadAhead<'a>,
    scratch: Vec<u8>,
}

impl<'a> Comparer<'a> {
    pub(super) fn new(payload: &'a Payload) -> Result<Self> {
        let window = ReadAhead::new(&**payload.source())
            .map_err(|e| Error::io("get memory to read", e).with_path(payload.source().path()))?;
        Ok(Self {
            payload,
            window,
            scratch: vec![0; SMALL_MAX],
        })
    }

    /// Returns whether a file of the entry's size has the entry's content. An existing file that
    /// cannot be read has not.
    pub(super) fn compare(
        &mut self,
        entry: &Entry,
        file: &File,
        progress: &dyn Progress,
    ) -> Result<bool> {
        if entry.size <= SMALL_MAX as u64 {
            // Many small files share a read.
            self.window.hop_to(entry.data_offset);
            let bytes = self
                .window
                .at(entry.data_offset, entry.size as usize)
                .map_err(|e| {
                    entry
                        .problem(entry.data_offset, Cause::Io(e))
                        .into_error(&**self.payload.source())
                })?;
            progress.advance(entry.size);
            let whole = bytes.len() as u64 == entry.size;
            return Ok(whole && holds(file, bytes, 0, &mut self.scratch).unwrap_or(false));
        }
        let mut at = 0;
        let mut reader = EntryReader::new(self.payload, entry)?;
        while let Some(bytes) = reader.next_block()? {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            progress.advance(bytes.len() as u64);
            if !holds(file, bytes, at, &mut self.scratch).unwrap_or(false) {
                progress.skip(entry.size - at - bytes.len() as u64);
                return Ok(false);
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }
}

/// Returns whether a file has this checksum. A file that cannot be read has not.
pub(super) fn has_sum(file: &File, sum: Sha256Sum, progress: &dyn Progress) -> Result<bool> {
    let mut hasher = Sha256::new();
    let mut buf = vec![0; 4 * SMALL_MAX];
    let mut at = 0;
    loop {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        let Ok(n) = file.read_at(&mut buf, at) else {
            return Ok(false);
        };
        if n == 0 {
            return Ok(Sha256Sum::from_hasher(hasher) == sum);
        }
        hasher.update(&buf[..n]);
        progress.advance(n as u64);
        drop_cached(file.as_fd(), at, n as u64);
        at += n as u64;
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
