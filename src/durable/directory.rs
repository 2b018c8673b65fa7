//! A destination directory. It is kept open, so that its path cannot come to mean another.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FlockOperation, flock, syncfs, unlinkat};
use rustix::io::Errno;

use crate::block::{file_type_name, refuse_new_in_dev};
use crate::error::{Error, Kind, Result};
use crate::sys::{self, Room};

use super::lookup::{Lookup, lookup};
use super::staging_dir::syncfs_reports;

/// A destination directory for files. Every access uses its file descriptor and names of one
/// component.
#[derive(Debug)]
pub struct Directory {
    file: File,
    path: PathBuf,
}

impl Directory {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// The directory does not exist, is not a directory, or cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)
            .map_err(|e| {
                not_a_directory(path)
                    .unwrap_or_else(|| Error::io("open the directory", e).with_path(path))
            })?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Refuses a directory at `path`, existing or not, if it is in /dev.
    ///
    /// # Errors
    /// The directory is in /dev.
    pub fn refuse_in_dev(path: &Path) -> Result<()> {
        refuse_new_in_dev(&path.join("file")).map_err(|e| e.with_path(path))
    }

    /// Opens the directory at `path`, and creates it with mode 0755 if it is missing. With
    /// `parents`, missing parent directories are created too. Each new directory is synced
    /// into its parent.
    ///
    /// # Errors
    /// The directory cannot be created or opened, or is in /dev.
    pub fn open_or_make(path: &Path, parents: bool) -> Result<Self> {
        Self::refuse_in_dev(path)?;
        make(path, parents)?;
        Self::open(path)
    }

    /// Returns the path that the directory was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tries to lock the directory with flock(2). Returns false if another process holds the
    /// lock.
    ///
    /// The lock ends with the open directory, however the process ends. On a file system
    /// without locks this always succeeds.
    ///
    /// # Errors
    /// The error that the system reports.
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

    /// Flushes its file system, so that all files in it and their names are on stable storage.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn flush(&self) -> Result<()> {
        let flush = || -> io::Result<()> {
            if syncfs_reports() {
                syncfs(&self.file)?;
            }
            self.file.sync_all()
        };
        flush().map_err(|e| Error::io("sync", e).with_path(&self.path))
    }

    /// Returns how much room its file system has.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn room(&self) -> Result<Room> {
        sys::room(self.file.as_fd())
            .map_err(|e| Error::io("get the free space of", e).with_path(&self.path))
    }

    /// Returns whether it is empty. Then no name has to be looked up.
    ///
    /// # Errors
    /// The error that the system reports.
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

    /// Returns up to `max` of the names in it that end in `suffix` and are UTF-8.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn names_ending_in(&self, suffix: &str, max: usize) -> Result<Vec<String>> {
        let names = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&self.file)? {
                let entry = entry?;
                match entry.file_name().to_str() {
                    Ok(name) if name.ends_with(suffix) && names.len() < max => {
                        names.push(name.to_owned());
                    }
                    _ => {}
                }
            }
            Ok(names)
        };
        names().map_err(|e| Error::io("list", e).with_path(&self.path))
    }

    /// Removes the file `name`.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn remove(&self, name: &str) -> Result<()> {
        single_component(name)
            .and_then(|()| Ok(unlinkat(&self.file, name, AtFlags::empty())?))
            .map_err(|e| Error::io("remove", e).with_path(self.path.join(name)))
    }

    /// Looks up `name` in it.
    ///
    /// # Errors
    /// The error that the system reports, except that the name does not exist.
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

/// Syncs `file` if flushing its file system would not report a failure.
///
/// # Errors
/// The error that the system reports.
pub fn settle(file: &File) -> io::Result<()> {
    if syncfs_reports() {
        Ok(())
    } else {
        file.sync_all()
    }
}

/// Refuses names that could refer to anything but an entry of the directory itself.
pub(super) fn single_component(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not the name of a file",
        ));
    }
    Ok(())
}

/// Returns the error for a destination that exists and is not a directory. It names what was found.
fn not_a_directory(path: &Path) -> Option<Error> {
    let found = match path.metadata() {
        Ok(meta) if meta.is_dir() => return None,
        Ok(meta) => file_type_name(meta.file_type()),
        Err(_) if path.is_symlink() => "a symlink to a missing file",
        Err(_) => return None,
    };
    let what = format!("expected a directory, found {found}");
    Some(
        Error::new(Kind::Refused, what)
            .with_code("not-a-directory")
            .doing("use the destination")
            .with_path(path)
            .advice("name another destination"),
    )
}

fn make(path: &Path, parents: bool) -> Result<()> {
    let failed = |e: io::Error| Error::io("make the directory", e).with_path(path);
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if path.is_dir() {
                return Ok(());
            }
            return Err(not_a_directory(path).unwrap_or_else(|| failed(e)));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && parents => {
            let parent = path
                .parent()
                .filter(|p| !p.as_os_str().is_empty())
                .ok_or_else(|| failed(e))?;
            make(parent, parents)?;
            // Another import may be creating the same directories.
            return make(path, false);
        }
        Err(e) => return Err(failed(e)),
    }
    log::info!("made the directory {}", path.display());
    sync_parent(path)
}

/// Syncs the directory that contains `path`, so that the name is on stable storage.
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
    fn two_imports_can_create_the_same_directories_at_once() {
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
