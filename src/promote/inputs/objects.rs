//! The files of a commit, which are read from git's objects when they are needed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout};
use std::sync::{Mutex, PoisonError};

use super::git::Git;
use crate::error::{Error, Kind, Result, printable};
use crate::promote::refused::shell_word;

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The git object ID of its bytes.
    pub(crate) oid: String,
    /// Its size in bytes.
    pub(crate) bytes: u64,
}

/// Opens blobs as files.
#[derive(Debug)]
pub(crate) struct Blobs {
    git: Git,
    batch: Mutex<Option<Batch>>,
}

impl Blobs {
    /// Creates the reader for the commits of `git`.
    pub(crate) fn new(git: &Git) -> Self {
        Self {
            git: git.clone(),
            batch: Mutex::default(),
        }
    }

    /// Returns an unnamed file that holds the bytes of `blob`. It takes space only while it is
    /// open, so the overlay may be larger than the free space.
    pub(crate) fn open(&self, blob: &Blob) -> Result<File> {
        let failed = |e: io::Error| {
            Error::io("copy a file of the overlay to", e)
                .with_path(std::env::temp_dir())
                .advice("free some space there, or set TMPDIR to another directory")
        };
        let mut out = BufWriter::new(tempfile::tempfile().map_err(failed)?);
        let mut kept = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = match kept.take() {
            Some(batch) => batch,
            None => Batch::start(&self.git)?,
        };
        batch
            .copy(&blob.oid, &mut out)
            .map_err(|e| match e.kind() {
                Kind::Space => failed(io::ErrorKind::StorageFull.into()),
                _ => e,
            })?;
        // After a failure, the process is in the middle of its answer and cannot be used again.
        *kept = Some(batch);
        out.into_inner().map_err(|e| failed(e.into_error()))
    }
}

/// A running `git cat-file --batch`.
#[derive(Debug)]
pub(crate) struct Batch {
    dir: PathBuf,
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Batch {
    /// Starts the command.
    pub(crate) fn start(git: &Git) -> Result<Self> {
        let mut child = git.spawn(&["cat-file", "--batch"])?;
        Ok(Self {
            dir: git.dir().to_path_buf(),
            output: child.stdout.take().map(BufReader::new),
            child,
        })
    }

    /// Writes the bytes of the blob `oid` to `out`.
    pub(crate) fn copy(&mut self, oid: &str, out: &mut dyn Write) -> Result<()> {
        self.try_copy(oid, out).map_err(|e| {
            Error::io(format!("read the git object {oid} of"), e)
                .with_path(&self.dir)
                .with_code("git")
                .advice(format!("git -C {} fsck", shell_word(&self.dir)))
        })
    }

    fn try_copy(&mut self, oid: &str, out: &mut dyn Write) -> io::Result<()> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let input = self.child.stdin.as_mut().ok_or_else(broken)?;
        // The error must not have the kind of a closed pipe, which would count as success.
        let ended = |e: io::Error| match e.kind() {
            io::ErrorKind::BrokenPipe => io::ErrorKind::UnexpectedEof.into(),
            _ => e,
        };
        let asked = writeln!(input, "{oid}").and_then(|()| input.flush());
        asked.map_err(ended)?;
        let output = self.output.as_mut().ok_or_else(broken)?;
        let mut head = String::new();
        output.read_line(&mut head)?;
        let words: Vec<&str> = head.split_whitespace().collect();
        let [_, "blob", size] = words[..] else {
            let what = format!("git says \"{}\"", printable(head.trim()));
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        };
        let size: u64 = size.parse().map_err(|_| broken())?;
        if io::copy(&mut output.by_ref().take(size), out)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        output.read_exact(&mut [0])
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // The command ends when its input is closed.
        drop(self.child.stdin.take());
        drop(self.output.take());
        let _ = self.child.wait();
    }
}
