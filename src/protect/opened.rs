//! A file or device that is opened for writing, and what its errors say.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::block::open_exclusive_for_writing;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// A file or device that is opened for writing.
pub(super) struct Opened {
    pub file: File,
    /// Its length in bytes.
    pub len: u64,
    pub device: bool,
}

impl Opened {
    /// Opens `path` for writing. A device must not be in use.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |e: io::Error| Error::io("open for writing", e).with_path(path);
        let meta = std::fs::metadata(path).map_err(failed)?;
        if meta.file_type().is_block_device() {
            let (file, len, _) = open_exclusive_for_writing(path)?;
            return Ok(Self {
                file,
                len,
                device: true,
            });
        }
        let file = OpenOptions::new().read(true).write(true).open(path);
        Ok(Self {
            file: file.map_err(failed)?,
            len: meta.size(),
            device: false,
        })
    }
}

/// Reports progress. An interruption is an error.
pub(super) fn advance(progress: &dyn Progress, bytes: u64) -> io::Result<()> {
    progress.advance(bytes);
    match progress.cancelled() {
        true => Err(io::ErrorKind::Interrupted.into()),
        false => Ok(()),
    }
}

/// Returns the error of a failed call, or that the user asked to stop.
pub(super) fn failed_at(doing: &str, e: io::Error, path: &Path) -> Error {
    match e.kind() {
        io::ErrorKind::Interrupted => Error::interrupted(),
        _ => Error::io(doing, e).with_path(path),
    }
}
