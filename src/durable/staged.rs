//! A file that is being written in the staging directory.

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
    /// Whether to sync the file when it is finished, because flushing the file system would
    /// not report its failure.
    sync: bool,
    /// Whether to drop the file from the page cache when it is finished.
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
            WriteMode::Uncached => in_pieces(buf, offset, |piece, at| {
                sys::write_uncached(self.file.as_fd(), piece, at)
            }),
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

/// Writes all of `buf` at `offset`, in as many calls of `write` as necessary.
fn in_pieces(
    buf: &[u8],
    offset: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match write(&buf[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_write_continues_where_it_stopped() {
        let mut file = [b'-'; 12];
        let mut calls = 0;
        in_pieces(b"12345678", 2, |piece, at| {
            calls += 1;
            if calls == 2 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let n = piece.len().min(3);
            file[at as usize..at as usize + n].copy_from_slice(&piece[..n]);
            Ok(n)
        })
        .unwrap();
        assert_eq!(&file, b"--12345678--");
        assert_eq!(calls, 4);
        let zero = in_pieces(b"1", 0, |_, _| Ok(0)).unwrap_err();
        assert_eq!(zero.kind(), io::ErrorKind::WriteZero);
    }
}
