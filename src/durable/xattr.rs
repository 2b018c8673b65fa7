//! The extended attributes that go with a file of an image.

use std::fs::File;
use std::io;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;

/// Linux allows no longer value, and no longer list (`XATTR_SIZE_MAX`).
const MAX: usize = 64 * 1024;

/// Capabilities, ACLs and what users set. Labels of the host's own security modules
/// are not the image's, and `trusted.*` is nothing that an image's tools use.
fn belongs_to_the_image(name: &str) -> bool {
    matches!(name, "security.capability" | "system.posix_acl_access") || name.starts_with("user.")
}

/// Reads them.
///
/// # Errors
/// What the system says, other than that the file system has none.
pub(super) fn read(file: &File) -> io::Result<Vec<(String, Vec<u8>)>> {
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
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

/// Sets them.
///
/// # Errors
/// What the system says; an attribute that cannot be stored is not left away.
pub(super) fn write(file: &File, xattrs: &[(String, Vec<u8>)]) -> io::Result<()> {
    for (name, value) in xattrs {
        if !belongs_to_the_image(name) {
            return Err(Errno::PERM.into());
        }
        fsetxattr(file, name.as_str(), value, XattrFlags::empty())?;
    }
    Ok(())
}
