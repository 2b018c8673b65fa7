//! A single file that replaces another one only when it is complete and synced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use crate::block::{file_type_name, refuse_new_in_dev};
use crate::error::{Error, Kind, Result};
use crate::sys::{drop_cached, names_hold_sizes};

use super::directory::sync_parent;

/// The file is written back to the disk and dropped from the page cache in steps of this
/// many bytes.
const STEP: u64 = 64 << 20;

/// The start of a temporary name. A random part and a suffix follow.
const PREFIX: &str = ".lbpayload-";
pub(super) const SUFFIX: &str = ".part";
/// The start of the name of a file that is downloaded.
pub(super) const DOWNLOAD: &str = ".lbpayload-fetch-";

/// A file that is written in the directory of its final name. Dropping it removes it.
#[derive(Debug)]
pub struct AtomicFile {
    temp: NamedTempFile,
    path: PathBuf,
    written: u64,
    dropped: u64,
    keeps_cache: bool,
}

impl AtomicFile {
    /// Creates a file that will replace `path`. If `path` is a symlink, the file that it
    /// points to is replaced.
    ///
    /// # Errors
    /// Something other than a regular file has the name, the file would be in /dev, or the
    /// directory refuses the file.
    pub fn create(path: &Path) -> Result<Self> {
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(
                Error::new(Kind::Refused, "expected a file, found a directory")
                    .with_code("not-a-file")
                    .doing("write")
                    .with_path(path)
                    .advice("add the name of a file"),
            );
        }
        let path = match path.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => std::fs::canonicalize(path)
                .map_err(|e| Error::io("follow the symlink", e).with_path(path))?,
            _ => path.to_path_buf(),
        };
        if let Ok(meta) = path.metadata() {
            if !meta.is_file() {
                let found = file_type_name(meta.file_type());
                return Err(
                    Error::new(Kind::Refused, format!("expected a file, found {found}"))
                        .with_code("not-a-file")
                        .doing("write")
                        .with_path(&path)
                        .advice("name a file, a block device, or `-` for standard output"),
                );
            }
        }
        refuse_new_in_dev(&path)?;
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let check = "check that the directory exists and is writable";
        let failed = |e: io::Error| Error::io("make a file in", e).with_path(dir).advice(check);
        std::fs::metadata(dir).map_err(failed)?;
        let temp = loop {
            let temp = create_temporary(dir).map_err(failed)?;
            if is_ours(temp.as_file()).map_err(failed)? {
                break temp;
            }
        };
        Ok(Self {
            temp,
            path,
            written: 0,
            dropped: 0,
            keeps_cache: false,
        })
    }

    /// Removes the temporary files in `dir` that killed runs left behind. Each run holds a lock
    /// on its own, so those of runs that are still going on stay. What cannot be removed stays.
    pub fn remove_leftovers(dir: &Path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_leftover = entry.file_name().to_str().is_some_and(Self::is_leftover);
            if !is_leftover {
                continue;
            }
            let path = entry.path();
            match remove_unlocked(&path) {
                Ok(true) => log::info!("removed {}, left by a killed run", path.display()),
                Ok(false) => {}
                Err(e) => log::debug!("{}: not removed: {e}", path.display()),
            }
        }
    }

    /// Returns whether `name` is a temporary name, left behind by a run that was killed.
    pub fn is_leftover(name: &str) -> bool {
        name.starts_with(PREFIX) && name.ends_with(SUFFIX) && !Self::is_download(name)
    }

    /// Returns whether `name` is that of a file which a later run can complete: a download.
    pub fn is_download(name: &str) -> bool {
        name.starts_with(DOWNLOAD) && name.ends_with(SUFFIX)
    }

    /// Returns the path of the file before it has its final name.
    pub fn temporary_path(&self) -> &Path {
        self.temp.path()
    }

    /// Keeps what was written in the page cache, for a caller that reads it again.
    pub fn keeping_cache(mut self) -> Self {
        self.keeps_cache = true;
        self
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        self.temp.as_file()
    }

    /// Syncs the file, renames it to its final name, and syncs the directory.
    ///
    /// # Errors
    /// The error that the system reports. Before the rename, nothing has changed.
    pub fn commit(self) -> Result<()> {
        let Self { temp, path, .. } = self;
        temp.as_file()
            .sync_all()
            .map_err(|e| Error::io("sync", e).with_path(temp.path()))?;
        let file = temp
            .persist(&path)
            .map_err(|e| Error::io("rename to", e.error).with_path(&path))?;
        if names_hold_sizes(file.as_fd()) {
            file.sync_all()
                .map_err(|e| Error::io("sync", e).with_path(&path))?;
        }
        sync_parent(&path)
    }
}

fn create_temporary(dir: &Path) -> io::Result<NamedTempFile> {
    // Keep the system's error: tempfile adds the temporary name, which does not help the user.
    let mut errno = None;
    tempfile::Builder::new()
        .prefix(PREFIX)
        .suffix(SUFFIX)
        .make_in(dir, |path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o666);
            options.open(path).inspect_err(|e| errno = e.raw_os_error())
        })
        .map_err(|e| errno.map_or_else(|| e.kind().into(), io::Error::from_raw_os_error))
}

/// Locks a new temporary file, so that no other run takes it for a leftover. Returns false if
/// one has done so just before.
fn is_ours(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(Errno::WOULDBLOCK) => Ok(false),
        // Without locks, no run removes anything here.
        Err(_) => Ok(true),
    }
}

/// Removes a temporary file that no run has locked. Returns whether it did.
fn remove_unlocked(path: &Path) -> io::Result<bool> {
    let file = OpenOptions::new()
        .read(true)
        // NFS locks only files that are open for writing.
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => std::fs::remove_file(path).map(|()| true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.temp.as_file_mut().write(buf)?;
        self.written += n as u64;
        if self.written - self.dropped >= STEP {
            self.temp.as_file().sync_data()?;
            if !self.keeps_cache {
                drop_cached(
                    self.temp.as_file().as_fd(),
                    self.dropped,
                    self.written - self.dropped,
                );
            }
            self.dropped = self.written;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changes_before_the_commit_and_a_dropped_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_temporary_files_that_no_run_holds_are_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(dir.path().join(name), "x").unwrap();
        put(".lbpayload-abc.part");
        put(".lbpayload-abc");
        put("abc.part");
        let fifo = dir.path().join(".lbpayload-fifo.part");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("abc.part", dir.path().join(".lbpayload-link.part")).unwrap();
        let mut running = AtomicFile::create(&dir.path().join("out")).unwrap();
        running.write_all(b"new").unwrap();
        AtomicFile::remove_leftovers(dir.path());
        assert!(running.temporary_path().exists());
        assert!(!dir.path().join(".lbpayload-abc.part").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
        running.commit().unwrap();
        assert_eq!(std::fs::read(dir.path().join("out")).unwrap(), b"new");
    }

    #[test]
    fn a_new_file_that_another_run_has_removed_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let temp = create_temporary(dir.path()).unwrap();
        AtomicFile::remove_leftovers(dir.path());
        assert!(!is_ours(temp.as_file()).unwrap());
        // The other run is just about to remove it.
        let temp = create_temporary(dir.path()).unwrap();
        let other = File::open(temp.path()).unwrap();
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(!is_ours(temp.as_file()).unwrap());
    }

    #[test]
    fn a_device_a_directory_and_a_fifo_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for path in [Path::new("/dev/null"), dir.path()] {
            let error = AtomicFile::create(path).unwrap_err();
            assert_eq!(error.code(), "not-a-file");
        }
    }
}
