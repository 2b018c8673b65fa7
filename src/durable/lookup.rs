//! What is in a tree, without changing it.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::stamp::Stamp;
use super::tree::{Tree, lock, parent};
use super::walk::{self, Last};

/// What is at a place, without following a symlink.
#[derive(Debug)]
pub enum Seen {
    /// Nothing.
    Nothing,
    /// A regular file, open for reading.
    File(File, Metadata),
    /// A symlink, and where it points to.
    Symlink(PathBuf, Metadata),
    /// A directory.
    Directory,
    /// A device, a socket or a FIFO.
    Special(Metadata),
}

impl Tree {
    /// The place that `path` means; see [`Bounds`].
    ///
    /// # Errors
    /// EXDEV where it leaves the tree, ELOOP, ENOTDIR, and what else the system says.
    pub fn resolve(&self, path: &Path, last: Last) -> io::Result<PathBuf> {
        let expected = lock(&self.expected);
        walk::resolve(self.root.as_fd(), path, self.bounds, last, &expected)
    }

    /// Lets a symlink to `target` count in [`Tree::resolve`] as if it were at `place`.
    pub fn expect(&self, place: PathBuf, target: PathBuf) {
        lock(&self.expected).insert(place, target);
    }

    /// Lets only count what is there.
    pub fn expect_nothing(&self) {
        lock(&self.expected).clear();
    }

    /// Whether a symlink is at `place`, or expected there.
    ///
    /// # Errors
    /// What the system says, other than that nothing is there: ENOTDIR where something
    /// above it is no directory.
    pub fn is_symlink(&self, place: &Path) -> io::Result<bool> {
        if lock(&self.expected).contains_key(place) {
            return Ok(true);
        }
        match readlinkat(&self.root, place, Vec::new()) {
            Ok(_) => Ok(true),
            Err(Errno::INVAL | Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// What is at `place`, which [`Tree::resolve`] gave.
    ///
    /// # Errors
    /// What the system says, other than that nothing is there.
    pub fn look(&self, place: &Path) -> io::Result<Seen> {
        let dir = match self.dir(parent(place)) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Seen::Nothing),
            Err(e) => return Err(e),
        };
        let Some(name) = place.file_name() else {
            return Ok(Seen::Directory);
        };
        // O_PATH first: opening a device or a FIFO would do something to it.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = match openat(&dir, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Seen::Nothing),
            Err(e) => return Err(e.into()),
        };
        let meta = there.metadata()?;
        if meta.is_dir() {
            return Ok(Seen::Directory);
        }
        if meta.is_symlink() {
            let target = readlinkat(&there, "", Vec::new())?;
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            return Ok(Seen::Symlink(target, meta));
        }
        if !meta.is_file() {
            return Ok(Seen::Special(meta));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&dir, name, flags, Mode::empty())?);
        let meta = file.metadata()?;
        Ok(Seen::File(file, meta))
    }

    /// Whether `directory` is the one at `place`, a path without symlinks.
    ///
    /// # Errors
    /// What the system says: ELOOP where a symlink is in it.
    pub fn is_directory_at(&self, place: &Path, directory: &impl AsFd) -> io::Result<bool> {
        let there = rustix::fs::fstat(&*self.dir(place)?)?;
        let given = rustix::fs::fstat(directory)?;
        Ok((there.st_dev, there.st_ino) == (given.st_dev, given.st_ino))
    }

    /// What tells that the regular file at `place` was touched.
    ///
    /// # Errors
    /// What the system says; InvalidInput for what is no regular file.
    pub fn stamp(&self, place: &Path) -> io::Result<Stamp> {
        let name = place.file_name().ok_or(Errno::ISDIR)?;
        let dir = self.dir(parent(place))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = File::from(openat(&dir, name, flags, Mode::empty())?);
        Stamp::of(&there.metadata()?).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}
