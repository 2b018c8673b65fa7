//! The mount point. It is created if missing, and removed again after the unmount.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::getxattr;
use rustix::process::{Pid, getpid};

use crate::block::{file_type_name, refuse_new_in_dev};
use crate::error::{Error, Kind, Result};

use super::attributes::PID;
use super::mount_table::{KIND, own_mounts};

/// A directory to mount on.
#[derive(Debug, Clone)]
pub struct MountPoint {
    path: PathBuf,
    /// The device and inode number of the directory, if it was created for this mount.
    made: Option<(u64, u64)>,
}

impl MountPoint {
    /// Checks `dir`, and creates it if it is missing.
    ///
    /// # Errors
    /// `dir` is not a directory, cannot be created, or holds the mount of a server that has died.
    pub fn prepare(dir: &Path) -> Result<Self> {
        let exists = Self::exists(dir)?;
        if !exists {
            fs::create_dir(dir)
                .map_err(|e| Error::io("create the mount point", e).with_path(dir))?;
        }
        // The path must be absolute, since the server changes its working directory.
        let path = dir.canonicalize().map_err(|e| unusable(dir, e))?;
        let made = match exists {
            true => None,
            false => Some(identity(&path).map_err(|e| unusable(dir, e))?),
        };
        Ok(Self { path, made })
    }

    /// Returns whether `dir` exists and can be mounted on. `false` means that it can be created.
    ///
    /// # Errors
    /// `dir` is the root or not a directory, holds the mount of a server that has died, has no
    /// parent directory, or would be created in /dev.
    pub fn exists(dir: &Path) -> Result<bool> {
        match fs::metadata(dir) {
            Ok(_) if is_dead(dir) => Err(unusable(dir, Errno::ENOTCONN.into())),
            Ok(meta) if meta.is_dir() && !is_root(dir) => Ok(true),
            Ok(meta) if meta.is_dir() => Err(Error::new(
                Kind::Refused,
                "it is the root directory, a mount there would be hidden",
            )
            .with_code("mount-on-root")
            .doing("mount on")
            .with_path(dir)
            .advice("choose another directory as the mount point")),
            Ok(meta) => {
                let found = file_type_name(meta.file_type());
                let what = format!("expected a directory, found {found}");
                Err(Error::new(Kind::Refused, what)
                    .with_code("not-a-directory")
                    .doing("use the mount point")
                    .with_path(dir)
                    .advice("choose a directory as the mount point"))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let above = match dir.parent() {
                    Some(above) if above != Path::new("") => above,
                    _ => Path::new("."),
                };
                // A symbolic link with a missing target prevents creation.
                let free = fs::symlink_metadata(dir).is_err() && above.is_dir();
                if free {
                    refuse_new_in_dev(dir)?;
                    Ok(false)
                } else {
                    Err(unusable(dir, e))
                }
            }
            Err(e) => Err(unusable(dir, e)),
        }
    }

    /// Returns the absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory if it was created for this mount. Errors are ignored.
    pub(super) fn remove_if_made(&self) {
        let Some(made) = self.made else {
            return;
        };
        match identity(&self.path) {
            Ok(found) if found != made => {}
            _ => {
                if let Err(e) = fs::remove_dir(&self.path) {
                    let error = Error::io("remove the mount point", e);
                    log::warn!("{}", error.with_path(&self.path));
                }
            }
        }
    }

    /// Updates the path so that it leads to the mount with the device number `device`, since a
    /// parent directory may have been renamed. Returns whether there is such a path.
    pub(super) fn update_path(&mut self, device: u64) -> bool {
        if self.device().is_ok_and(|found| found == device) {
            return true;
        }
        let found = own_mounts()
            .into_iter()
            .filter(|mount| mount.device == device)
            .map(|mount| Self {
                path: mount.point,
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

    /// Returns the device number of the mount that this process serves, even if another mount
    /// covers it already, or 0 if it cannot be determined.
    pub(super) fn own_device(&self) -> io::Result<u64> {
        let device = self.device()?;
        if server_of(&self.path).is_ok_and(|server| server == getpid()) {
            return Ok(device);
        }
        let mut mounts = own_mounts().into_iter().rev();
        let own = mounts.find(|mount| mount.point == self.path && mount.kind == KIND.as_bytes());
        Ok(own.map_or(0, |mount| mount.device))
    }

    /// Returns the device number of the topmost mount on the directory.
    pub(super) fn device(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.dev())
    }
}

/// Returns whether `dir` is the root directory. No path leads to a mount on it, and unmounting by
/// path would unmount the file system below.
fn is_root(dir: &Path) -> bool {
    dir.canonicalize().is_ok_and(|path| path == Path::new("/"))
}

fn identity(dir: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(dir)?;
    Ok((meta.dev(), meta.ino()))
}

fn unusable(dir: &Path, e: io::Error) -> Error {
    let errno = e.raw_os_error();
    let kind = e.kind();
    let error = Error::io("use the mount point", e).with_path(dir);
    if errno.is_some_and(means_dead) {
        return error.with_code("dead-mount");
    }
    match kind {
        io::ErrorKind::NotADirectory => error
            .with_code("not-a-directory")
            .advice("choose a directory as the mount point"),
        io::ErrorKind::NotFound if fs::symlink_metadata(dir).is_err() => {
            error.advice(format!("create it with `mkdir -p {}`", dir.display()))
        }
        io::ErrorKind::NotFound => error.advice("it is a symbolic link, create what it leads to"),
        _ => error,
    }
}

/// What an unmount does if the mount is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfBusy {
    /// Fails with [`Kind::Busy`].
    Fail,
    /// Removes the mount from the directory tree at once. The server ends when the last user
    /// closes its files.
    Detach,
}

/// Returns whether `dir` holds the mount of a server that has died. The kernel answers stat(2)
/// from its cache, so this reads an attribute that only the server knows.
pub(super) fn is_dead(dir: &Path) -> bool {
    server_of(dir).is_err_and(|e| e.raw_os_error().is_some_and(means_dead))
}

/// Returns the process that serves the mount on `dir`, as the server reports it.
pub(super) fn server_of(dir: &Path) -> io::Result<Pid> {
    let mut value = [0; 20];
    let len = getxattr(dir, PID, &mut value)?;
    std::str::from_utf8(&value[..len])
        .ok()
        .and_then(|text| text.parse().ok())
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns whether the kernel reports `errno` for a server that is dead, or that dies during the
/// request.
pub(super) fn means_dead(errno: i32) -> bool {
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED)
}

/// Unmounts the topmost mount on `dir` with umount2(2), or with fusermount3 if umount2 needs more
/// privilege.
///
/// # Errors
/// The mount is in use, nothing is mounted on `dir`, or permission is missing.
pub(super) fn unmount_path(dir: &Path, if_busy: IfBusy) -> Result<()> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    if if_busy == IfBusy::Detach {
        flags |= MntFlags::MNT_DETACH;
    }
    match umount2(dir, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => by_fusermount(dir, if_busy),
        Err(e) => Err(not_unmounted(dir, e.into())),
    }
}

fn by_fusermount(dir: &Path, if_busy: IfBusy) -> Result<()> {
    let how = match if_busy {
        IfBusy::Fail => "-u",
        IfBusy::Detach => "-uz",
    };
    let out = Command::new("fusermount3")
        .args([OsStr::new(how), OsStr::new("--"), dir.as_os_str()])
        .output()
        .map_err(|e| {
            Error::io("start fusermount3", e)
                .with_code("no-fusermount")
                .advice("install the package fuse3, or unmount as root")
        })?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    if said.contains("busy") {
        return Err(not_unmounted(dir, Errno::EBUSY.into()));
    }
    Err(Error::new(Kind::Refused, one_line(&said))
        .doing("unmount")
        .with_path(dir))
}

/// Returns what fusermount3 printed, as one line.
pub(super) fn one_line(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    lines.join(", ")
}

fn not_unmounted(dir: &Path, e: io::Error) -> Error {
    let busy = e.raw_os_error() == Some(libc::EBUSY);
    let error = Error::io("unmount", e).with_path(dir);
    if busy {
        let advice = format!("end what uses it (see `fuser -vm {}`)", dir.display());
        error.with_kind(Kind::Busy).advice(advice)
    } else {
        error
    }
}
