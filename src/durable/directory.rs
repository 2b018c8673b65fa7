//! A destination directory, held open so that no path leads elsewhere meanwhile.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FlockOperation, flock, syncfs};
use rustix::io::Errno;

use crate::block::refuse_new_in_dev;
use crate::error::{Error, Kind, Result};
use crate::sys::{self, Room};

use super::lookup::{Lookup, lookup};
use super::staging_dir::syncfs_reports;

/// A directory that files are put into. Everything goes through its descriptor,
/// by names of one component.
#[derive(Debug)]
pub struct Directory {
    file: File,
    path: PathBuf,
}

impl Directory {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// It is not there, no directory, or may not be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)
            .map_err(|e| Error::io("open the directory", e).with_path(path))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Refuses a directory at `path`, existing or not, where files in it would be in
    /// /dev.
    ///
    /// # Errors
    /// They would be.
    pub fn refuse_in_dev(path: &Path) -> Result<()> {
        refuse_new_in_dev(&path.join("file")).map_err(|e| e.with_path(path))
    }

    /// Opens the directory at `path`, and makes it (mode 0755) where it is
    /// missing; with `parents` those above it too. Each new one is synced into
    /// the one above.
    ///
    /// # Errors
    /// It cannot be made or opened, or is in /dev.
    pub fn open_or_make(path: &Path, parents: bool) -> Result<Self> {
        Self::refuse_in_dev(path)?;
        make(path, parents)?;
        Self::open(path)
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tries to become the only one that works in this directory, as flock(2) has
    /// it: the lock goes with the open directory, however the process ends. False when
    /// another has it. On a file system without locks nobody is kept out.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_lock(&self) -> Result<bool> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                log::warn!(
                    "{}: the file system has no locks, run only one import at a time",
                    self.path.display()
                );
                Ok(true)
            }
            Err(e) => Err(Error::io("lock", e.into()).with_path(&self.path)),
        }
    }

    /// Brings everything in it onto stable storage, and its names.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&self) -> Result<()> {
        let flush = || -> io::Result<()> {
            if syncfs_reports() {
                syncfs(&self.file)?;
            }
            self.file.sync_all()
        };
        flush().map_err(|e| Error::io("sync", e).with_path(&self.path))
    }

    /// How much room its file system has.
    ///
    /// # Errors
    /// What the system says.
    pub fn room(&self) -> Result<Room> {
        sys::room(self.file.as_fd())
            .map_err(|e| Error::io("get the free space of", e).with_path(&self.path))
    }

    /// Whether nothing is in it, so that no name needs to be looked for.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_empty(&self) -> Result<bool> {
        let empty = || -> io::Result<bool> {
            for entry in Dir::read_from(&self.file)? {
                let entry = entry?;
                if entry.file_name() != c"." && entry.file_name() != c".." {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        empty().map_err(|e| Error::io("list", e).with_path(&self.path))
    }

    /// Looks up `name` in it.
    ///
    /// # Errors
    /// What the system says, other than that nothing has the name.
    pub fn lookup(&self, name: &str) -> Result<Lookup> {
        single_component(name)
            .and_then(|()| lookup(&self.file, name))
            .map_err(|e| Error::io("read the attributes of", e).with_path(self.path.join(name)))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Syncs `file` where flushing the file system that it is in would not tell of a
/// failure.
///
/// # Errors
/// What the system says.
pub fn settle(file: &File) -> io::Result<()> {
    if syncfs_reports() {
        Ok(())
    } else {
        file.sync_all()
    }
}

/// Refuses what could name anything but an entry of the directory itself.
pub(super) fn single_component(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not the name of a file",
        ));
    }
    Ok(())
}

fn make(path: &Path, parents: bool) -> Result<()> {
    let failed = |e: io::Error| Error::io("make the directory", e).with_path(path);
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if path.is_dir() {
                return Ok(());
            }
            return Err(Error::new(Kind::Refused, "destination is not a directory")
                .with_code("not-a-directory")
                .with_path(path)
                .advice("name another destination"));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && parents => {
            let parent = path
                .parent()
                .filter(|p| !p.as_os_str().is_empty())
                .ok_or_else(|| failed(e))?;
            make(parent, parents)?;
            // Another import may make the same ones now.
            return make(path, false);
        }
        Err(e) => return Err(failed(e)),
    }
    log::info!("made the directory {}", path.display());
    sync_parent(path)
}

/// Syncs the directory that holds `path`, so that a name in it lasts.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io("sync the directory", e).with_path(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_may_make_the_same_directories_at_once() {
        let temp = tempfile::tempdir().unwrap();
        for n in 0..200 {
            let path = temp.path().join(format!("{n}/b/c/d"));
            let both = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        both.wait();
                        make(&path, true).unwrap();
                    });
                }
            });
        }
    }
}
