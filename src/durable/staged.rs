//! One file that is being written under a name nobody looks for.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use crate::block::Sink;
use crate::sys;

use super::store::WriteMode;

/// A staged file, written in one of the modes.
#[derive(Debug)]
pub(super) struct StagedFile {
    file: File,
    mode: WriteMode,
    /// Whether finishing it must sync it, because flushing the file system would
    /// not report its failure.
    sync: bool,
    /// Whether the page cache is to be left as it was found.
    forget: bool,
}

impl StagedFile {
    pub(super) fn new(file: File, mode: WriteMode, sync: bool, forget: bool) -> Self {
        Self {
            file,
            mode,
            sync,
            forget,
        }
    }
}

impl Sink for StagedFile {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        match self.mode {
            WriteMode::Direct | WriteMode::Buffered => self.file.write_all_at(buf, offset),
            WriteMode::Uncached => {
                let mut done = 0;
                while done < buf.len() {
                    let at = offset + done as u64;
                    match sys::write_uncached(self.file.as_fd(), &buf[done..], at) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(n) => done += n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(())
            }
        }
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        if self.file.metadata()?.len() != len {
            self.file.set_len(len)?;
        }
        if self.sync || self.forget {
            self.file.sync_data()?;
        }
        if self.forget {
            sys::drop_cached(self.file.as_fd(), 0, 0);
        }
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (self.mode == WriteMode::Direct).then(|| self.file.as_fd())
    }
}
