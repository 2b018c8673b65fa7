//! The attributes of a file in an image.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use rustix::fs::{
    AtFlags, FileType, Timespec, Timestamps, XattrFlags, fgetxattr, flistxattr, fremovexattr,
    fsetxattr, statat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The attributes of a staged file, which are everything besides its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits, including setuid, setgid and the sticky bit.
    #[serde(default)]
    pub mode: u32,
    /// Modification time: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// User and group. `None` keeps those of the running process.
    pub owner: Option<(u32, u32)>,
    /// The extended attributes that a file in an image needs to work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute: its name and its value. In JSON the value is hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr(pub String, #[serde(with = "hex::serde")] pub Vec<u8>);

impl Attributes {
    /// Reads the attributes of `file`.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn of(file: &File, meta: &Metadata) -> io::Result<Self> {
        Ok(Self {
            xattrs: read_xattrs(file)?,
            ..Self::without_xattrs(meta)
        })
    }

    /// Returns the attributes in `meta`, without extended attributes.
    pub fn without_xattrs(meta: &Metadata) -> Self {
        Self {
            mode: meta.mode() & 0o7777,
            mtime: (meta.mtime(), meta.mtime_nsec().try_into().unwrap_or(0)),
            owner: Some((meta.uid(), meta.gid())),
            xattrs: Vec::new(),
        }
    }
}

/// Gives `file` the owner and mode of the regular file `name` in `dir`, as far as the
/// system allows. A user may not give files away, some file systems have no modes, and the
/// owner may be one that has no number in this container (EINVAL).
/// setuid and setgid are left out because the content is new; write(2) clears them too.
///
/// # Errors
/// Any other error that the system reports.
pub(super) fn inherit(dir: impl AsFd, name: &str, file: &File) -> io::Result<()> {
    let old = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(old) if FileType::from_raw_mode(old.st_mode) == FileType::RegularFile => old,
        Ok(_) | Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    for result in [
        // Set the mode first, because after chown the file may belong to another user.
        file.set_permissions(Permissions::from_mode(old.st_mode & 0o777)),
        fchown(file, None, Some(old.st_gid)),
        fchown(file, Some(old.st_uid), None),
    ] {
        match result {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Converts a time for the calls that set both times of a file.
pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// The longest value and the longest list that Linux allows (`XATTR_SIZE_MAX`).
const MAX: usize = 64 * 1024;

/// Returns whether an attribute belongs to the image: capabilities, ACLs and `user.*`. The
/// labels of the host's security modules do not, and no tool in an image uses `trusted.*`.
fn belongs_to_the_image(name: &str) -> bool {
    matches!(name, "security.capability" | "system.posix_acl_access") || name.starts_with("user.")
}

/// Reads the extended attributes of `file`.
///
/// # Errors
/// The error that the system reports, unless the file system does not support them.
fn read_xattrs(file: &File) -> io::Result<Vec<Xattr>> {
    let mut list = vec![0; MAX];
    let len = match flistxattr(file, &mut list[..]) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in list[..len].split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if !belongs_to_the_image(name) {
            continue;
        }
        let mut value = vec![0; MAX];
        match fgetxattr(file, name, &mut value[..]) {
            Ok(len) => value.truncate(len),
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e.into()),
        }
        found.push(Xattr(name.to_owned(), value));
    }
    Ok(found)
}

/// Removes the default ACL that a directory would pass on to new files in it.
///
/// # Errors
/// The error that the system reports, unless there is no default ACL.
pub(super) fn remove_default_acl(dir: impl AsFd) -> io::Result<()> {
    match fremovexattr(dir, "system.posix_acl_default") {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Sets the extended attributes of `file`.
///
/// # Errors
/// The error that the system reports, also if an attribute cannot be stored.
pub(super) fn write_xattrs(file: &File, xattrs: &[Xattr]) -> io::Result<()> {
    for Xattr(name, value) in xattrs {
        if !belongs_to_the_image(name) {
            return Err(Errno::PERM.into());
        }
        fsetxattr(file, name.as_str(), value, XattrFlags::empty())?;
    }
    Ok(())
}
