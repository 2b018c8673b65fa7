//! The mount point: made where it is missing, unmounted, removed again.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::getxattr;

use crate::error::{Error, Kind, Result};

use super::attributes::PID;

/// A directory to mount on.
#[derive(Debug, Clone)]
pub struct MountPoint {
    path: PathBuf,
    made: bool,
}

impl MountPoint {
    /// Looks at `dir`, and makes it where it is missing.
    ///
    /// # Errors
    /// It is no directory, cannot be made, or holds the mount of a server that is
    /// gone.
    pub fn prepare(dir: &Path) -> Result<Self> {
        let made = !Self::is_there(dir)?;
        if made {
            fs::create_dir(dir).map_err(|e| Error::io("making the mount point", e).path(dir))?;
        }
        // Absolute: the server leaves this working directory.
        let path = dir.canonicalize().map_err(|e| not_seen(dir, e))?;
        Ok(Self { path, made })
    }

    /// Whether `dir` is there, as a directory to mount on; it could be made where not.
    ///
    /// # Errors
    /// It is no directory, holds the mount of a server that is gone, or has no
    /// directory to be made in.
    pub fn is_there(dir: &Path) -> Result<bool> {
        match fs::metadata(dir) {
            Ok(_) if is_dead(dir) => Err(not_seen(dir, Errno::ENOTCONN.into())),
            Ok(meta) if meta.is_dir() => Ok(true),
            Ok(_) => Err(not_seen(dir, Errno::ENOTDIR.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let above = match dir.parent() {
                    Some(above) if above != Path::new("") => above,
                    _ => Path::new("."),
                };
                // metadata, since a symbolic link that leads nowhere is in the way.
                let free = fs::symlink_metadata(dir).is_err() && above.is_dir();
                if free {
                    Ok(false)
                } else {
                    Err(not_seen(dir, e))
                }
            }
            Err(e) => Err(not_seen(dir, e)),
        }
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, if it was made for this mount. Nothing depends on that.
    pub(super) fn forsake(&self) {
        if self.made {
            if let Err(e) = fs::remove_dir(&self.path) {
                log::warn!("removing {}: {e}", self.path.display());
            }
        }
    }

    /// The device number of what is mounted there.
    pub(super) fn device(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.dev())
    }
}

fn not_seen(dir: &Path, e: io::Error) -> Error {
    let gone = e.raw_os_error().is_some_and(means_dead);
    let error = Error::io("looking at the mount point", e).path(dir);
    if gone {
        error.advice(format!(
            "a server that died has left its mount there: lbpayload unmount {}",
            dir.display()
        ))
    } else {
        error
    }
}

/// Whether an unmount waits for those who still use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// It fails while somebody does.
    Refuse,
    /// The mount is out of sight at once, and ends with the last of them.
    Leave,
}

/// Whether a server that is gone has left its mount there. The kernel keeps what
/// stat(2) says for good, so it is asked for something that only the server knows.
pub(super) fn is_dead(dir: &Path) -> bool {
    getxattr(dir, PID, &mut [0; 20]).is_err_and(|e| means_dead(e.raw_os_error()))
}

/// Whether that is what the kernel says of a server that is gone, or was when it
/// should have answered.
pub(super) fn means_dead(errno: i32) -> bool {
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED)
}

/// Unmounts what is on `dir`: by ourselves, or by fusermount3 where only that may.
///
/// # Errors
/// Somebody uses it, nothing is mounted there, or we may not.
pub(super) fn unmount_path(dir: &Path, users: Users) -> Result<()> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    if users == Users::Leave {
        flags |= MntFlags::MNT_DETACH;
    }
    match umount2(dir, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => by_fusermount(dir, users),
        Err(e) => Err(not_unmounted(dir, e.into())),
    }
}

fn by_fusermount(dir: &Path, users: Users) -> Result<()> {
    let how = match users {
        Users::Refuse => "-u",
        Users::Leave => "-uz",
    };
    let out = Command::new("fusermount3")
        .args([OsStr::new(how), OsStr::new("--"), dir.as_os_str()])
        .output()
        .map_err(|e| {
            Error::io("starting fusermount3", e)
                .advice("who is not root unmounts with it: install fuse3, or unmount as root")
        })?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    if said.contains("busy") {
        return Err(not_unmounted(dir, Errno::EBUSY.into()));
    }
    Err(Error::new(Kind::Refused, said.trim().to_owned())
        .doing("unmounting with fusermount3")
        .path(dir))
}

fn not_unmounted(dir: &Path, e: io::Error) -> Error {
    let busy = e.raw_os_error() == Some(libc::EBUSY);
    let error = Error::io("unmounting", e).path(dir);
    if busy {
        error.kind_is(Kind::Busy).advice(
            "somebody has a file open or works there (fuser -vm DIR shows who); --lazy takes it \
             out of sight and ends it with the last of them",
        )
    } else {
        error
    }
}
