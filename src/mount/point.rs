//! The mount point: made where it is missing, unmounted, removed again.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::getxattr;

use crate::block::refuse_new_in_dev;
use crate::error::{Error, Kind, Result};

use super::attributes::PID;

/// A directory to mount on.
#[derive(Debug, Clone)]
pub struct MountPoint {
    path: PathBuf,
    /// The directory that was made for it: device and inode number.
    made: Option<(u64, u64)>,
}

impl MountPoint {
    /// Looks at `dir`, and makes it where it is missing.
    ///
    /// # Errors
    /// It is no directory, cannot be made, or holds the mount of a server that is
    /// gone.
    pub fn prepare(dir: &Path) -> Result<Self> {
        let is_there = Self::is_there(dir)?;
        if !is_there {
            fs::create_dir(dir).map_err(|e| Error::io("making the mount point", e).path(dir))?;
        }
        // Absolute: the server leaves this working directory.
        let path = dir.canonicalize().map_err(|e| not_seen(dir, e))?;
        let made = match is_there {
            true => None,
            false => Some(identity(&path).map_err(|e| not_seen(dir, e))?),
        };
        Ok(Self { path, made })
    }

    /// Whether `dir` is there, as a directory to mount on; it could be made where not.
    ///
    /// # Errors
    /// It is no directory, or the root; holds the mount of a server that is gone; has
    /// no directory to be made in, or would be made in /dev.
    pub fn is_there(dir: &Path) -> Result<bool> {
        match fs::metadata(dir) {
            Ok(_) if is_dead(dir) => Err(not_seen(dir, Errno::ENOTCONN.into())),
            Ok(meta) if meta.is_dir() && !is_root(dir) => Ok(true),
            Ok(meta) if meta.is_dir() => Err(Error::new(
                Kind::Refused,
                "nobody would see a mount there: paths begin below it",
            )
            .doing("mounting on the root directory")
            .path(dir)
            .advice("name a directory in it")),
            Ok(_) => Err(not_seen(dir, Errno::ENOTDIR.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let above = match dir.parent() {
                    Some(above) if above != Path::new("") => above,
                    _ => Path::new("."),
                };
                // metadata, since a symbolic link that leads nowhere is in the way.
                let free = fs::symlink_metadata(dir).is_err() && above.is_dir();
                if free {
                    refuse_new_in_dev(dir)?;
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
        let Some(made) = self.made else {
            return;
        };
        match identity(&self.path) {
            Ok(found) if found != made => {}
            _ => {
                if let Err(e) = fs::remove_dir(&self.path) {
                    log::warn!("removing {}: {e}", self.path.display());
                }
            }
        }
    }

    /// Makes sure that its path leads to the mount with the number `device`, wherever
    /// that is by now: a directory above it may have got another name. Whether one does.
    pub(super) fn follow(&mut self, device: u64) -> bool {
        if self.device().is_ok_and(|found| found == device) {
            return true;
        }
        let found = paths_of(device)
            .into_iter()
            .map(|path| Self {
                path,
                made: self.made,
            })
            .find(|point| point.device().is_ok_and(|found| found == device));
        match found {
            Some(point) => {
                *self = point;
                true
            }
            None => false,
        }
    }

    /// The device number of what is mounted there.
    pub(super) fn device(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.dev())
    }
}

/// Whether paths begin at `dir`: they would not lead to what is mounted on it, and
/// unmounting by path would hit what lies below.
fn is_root(dir: &Path) -> bool {
    dir.canonicalize().is_ok_and(|path| path == Path::new("/"))
}

fn identity(dir: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(dir)?;
    Ok((meta.dev(), meta.ino()))
}

/// Where what has the number `device` is mounted, as /proc says; nowhere without it.
fn paths_of(device: u64) -> Vec<PathBuf> {
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    // Fields 3 and 5, see proc_pid_mountinfo(5).
    let lines = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let of = fields.next()?;
        (of == number.as_bytes()).then(|| fields.nth(1)).flatten()
    });
    lines.map(unescaped).collect()
}

/// A path of /proc's tables, in which a blank, a tab, a line feed and a backslash are a
/// backslash and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let code = behind
            .get(..3)
            .and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) if byte == b'\\' => {
                path.push(code);
                rest = &behind[3..];
            }
            _ => {
                path.push(byte);
                rest = behind;
            }
        }
    }
    OsString::from_vec(path).into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_mount_table_is_read_as_it_is_meant() {
        for (written, meant) in [
            (&br"/a\040b\011\012\134c"[..], "/a b\t\n\\c"),
            (br"/a\04", r"/a\04"),
            (br"/a\x40b", r"/a\x40b"),
            (br"/040", "/040"),
            (br"\134040", r"\040"),
        ] {
            assert_eq!(unescaped(written), Path::new(meant));
        }
    }
}
