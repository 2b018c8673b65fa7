//! What a name in a directory is, without following a symlink.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

/// What a lookup found.
#[derive(Debug)]
pub enum Lookup {
    /// Nothing has the name.
    Nothing,
    /// A regular file, open for reading.
    File(File, Metadata),
    /// A regular file that cannot be opened for reading, and why.
    Unreadable(io::Error),
    /// A symlink, and where it points to.
    Symlink(PathBuf, Metadata),
    /// A directory.
    Directory,
    /// A device, a socket or a FIFO.
    Special,
}

/// Looks up `name`, of one component, in `dir`.
///
/// # Errors
/// What the system says, other than that nothing has the name.
pub(super) fn lookup(dir: impl AsFd, name: impl rustix::path::Arg + Copy) -> io::Result<Lookup> {
    // O_PATH first: opening a device or a FIFO would do something to it.
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
                // Somebody else has replaced it in between.
                Ok(Lookup::Special)
            }
        }
        Err(e) => Ok(Lookup::Unreadable(e.into())),
    }
}
