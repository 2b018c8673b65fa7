//! Checks whether a place can be written to, without writing.

use std::io;
use std::path::Path;

use crate::durable::Tree;
use crate::error::{Error, Kind, Result};
use crate::promote::refused::shell_word;

/// Checks whether a file can be created at `place`, or removed from it.
pub(crate) fn check(tree: &Tree, place: &Path) -> Result<()> {
    tree.check_writable(place)
        .map_err(|e| explain(e, &tree.path().join(place)))
}

/// Creates the error for a `path` that cannot be written, with advice on what to do.
pub(crate) fn explain(e: io::Error, path: &Path) -> Error {
    let (message, advice) = match e.raw_os_error() {
        Some(libc::EROFS) => (
            "read-only filesystem",
            "remount it read-write (mount -o remount,rw), then promote again".to_owned(),
        ),
        Some(libc::EPERM) => (
            "immutable or append-only, or its directory is",
            format!(
                "lsattr -d {} {} shows which, chattr -i -a removes the attribute",
                shell_word(path),
                shell_word(path.parent().unwrap_or(path))
            ),
        ),
        Some(libc::EXDEV) => (
            "another filesystem is mounted there",
            "unmount it, then promote again".to_owned(),
        ),
        Some(libc::ELOOP | libc::ENOTDIR) => (
            "part of the path is a file or a symlink, expected a directory",
            "move it away, then promote again".to_owned(),
        ),
        _ => {
            let folder = path.ancestors().skip(1).find(|folder| folder.is_dir());
            let folder = folder.unwrap_or(path);
            return Error::io("write to", e).with_path(folder).advice(format!(
                "sudo chown \"$USER\" {}, or run promote as root",
                shell_word(folder)
            ));
        }
    };
    Error::new(Kind::Refused, message)
        .doing("write to")
        .with_path(path)
        .advice(advice)
}
