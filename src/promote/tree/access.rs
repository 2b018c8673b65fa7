//! Whether a place can be written to, as far as looking tells.

use std::io;
use std::path::Path;

use crate::durable::Tree;
use crate::error::{Error, Kind, Result};

/// Whether a file can be put at `place`, or taken away.
pub(crate) fn check(tree: &Tree, place: &Path) -> Result<()> {
    tree.check_writable(place)
        .map_err(|e| explain(e, &tree.path().join(place)))
}

/// Why `path` cannot be written, and what to do about it.
pub(crate) fn explain(e: io::Error, path: &Path) -> Error {
    let (message, advice) = match e.raw_os_error() {
        Some(libc::EROFS) => (
            "it is on a read-only file system",
            "mount that read-write, and promote again",
        ),
        Some(libc::EPERM) => (
            "it or its folder is immutable or may only be added to",
            "find the attribute with lsattr, take it away with chattr -i or -a, and promote again",
        ),
        Some(libc::EXDEV) => (
            "another file system is mounted there",
            "unmount it, and promote again",
        ),
        Some(libc::ELOOP | libc::ENOTDIR) => (
            "something in its path is no directory, but a file or a symlink",
            "move that away, and promote again",
        ),
        _ => {
            let folder = path.ancestors().skip(1).find(|folder| folder.is_dir());
            return Error::io("write to", e)
                .with_path(folder.unwrap_or(path))
                .advice("make it yours (chown), or promote as root");
        }
    };
    Error::new(Kind::Refused, message)
        .doing("write to")
        .with_path(path)
        .advice(advice)
}
