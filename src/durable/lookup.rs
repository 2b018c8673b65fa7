//! Looks up a name in a directory without following a symlink.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

/// The result of a lookup.
#[derive(Debug)]
pub enum Lookup {
    /// The name does not exist.
    Nothing,
    /// A regular file, open for reading.
    File(File, Metadata),
    /// A regular file that cannot be opened for reading, and the error.
    Unreadable(io::Error),
    /// A symlink, and its target.
    Symlink(PathBuf, Metadata),
    /// A directory.
    Directory,
    /// A device, a socket or a FIFO.
    Special,
}

/// Looks up `name`, of one component, in `dir`.
///
/// # Errors
/// The error that the system reports, except that the name does not exist.
pub(super) fn lookup(dir: impl AsFd, name: impl rustix::path::Arg + Copy) -> io::Result<Lookup> {
    // O_PATH first, because opening a device or a FIFO can have side effects.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match openat(&dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(Lookup::Nothing),
        Err(e) => return Err(e.into()),
    };
    let meta = found.metadata()?;
    if meta.is_dir() {
        return Ok(Lookup::Directory);
    }
    if meta.is_symlink() {
        let target = readlinkat(&found, "", Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        return Ok(Lookup::Symlink(target, meta));
    }
    if !meta.is_file() {
        return Ok(Lookup::Special);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(&dir, name, flags, Mode::empty()) {
        Ok(fd) => {
            let file = File::from(fd);
            let meta = file.metadata()?;
            if meta.is_file() {
                Ok(Lookup::File(file, meta))
            } else {
                // Another process has replaced the file in between.
                Ok(Lookup::Special)
            }
        }
        Err(e) => Ok(Lookup::Unreadable(e.into())),
    }
}
