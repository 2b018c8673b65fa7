//! Whether what is planned can be written, as far as looking tells.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable::{STAGING_NAME, Tree};
use crate::error::{Error, Kind, Result};

use super::hands::{Found, Request};
use super::path::{SIDECAR, Zone};
use super::plan::Item;
use super::trees::Trees;

/// Looks at each place that is to be written, and at those of the journal where there is
/// to be one. Says which places under `rootfs/` only the helper can tell of.
///
/// # Errors
/// One cannot be written.
pub(super) fn probe(trees: &Trees, items: &[Item], journal: bool) -> Result<Vec<PathBuf>> {
    let elsewhere = trees.tree(Zone::Elsewhere)?;
    for place in places(items, Zone::Elsewhere) {
        check(elsewhere, place)?;
    }
    if journal {
        let folders = ["", "journal", "journal/x", "backups", "backups/x"];
        for folder in folders {
            check(elsewhere, &Path::new(SIDECAR).join(folder))?;
        }
    }
    let mut unknown = Vec::new();
    for place in places(items, Zone::Rootfs) {
        let rootfs = trees.tree(Zone::Rootfs)?;
        match rootfs.check_writable(place) {
            Err(e) if e.raw_os_error() == Some(libc::EACCES) && !trees.as_root() => {
                unknown.push(place.to_path_buf());
            }
            other => other.map_err(|e| explain(e, &rootfs.path().join(place)))?,
        }
    }
    Ok(unknown)
}

/// Asks the helper, which has been started, of what [`probe`] could not tell.
///
/// # Errors
/// One cannot be written.
pub(super) fn ask(trees: &mut Trees, unknown: Vec<PathBuf>) -> Result<()> {
    for place in unknown {
        let hands = trees.hands(Zone::Rootfs)?;
        hands.ask(&Request::CheckWritable(place), None)?;
    }
    Ok(())
}

fn check(tree: &Tree, place: &Path) -> Result<()> {
    tree.check_writable(place)
        .map_err(|e| explain(e, &tree.path().join(place)))
}

/// What to look at: of new files one for each directory, and where they are staged.
fn places(items: &[Item], zone: Zone) -> Vec<&Path> {
    let mut seen = BTreeSet::new();
    let mut places = Vec::new();
    for item in items.iter().filter(|item| item.is_to_be_written()) {
        let place = item.place.path.as_path();
        if item.place.zone != zone {
            continue;
        }
        if seen.is_empty() {
            places.push(Path::new(STAGING_NAME));
        }
        let dir = place.parent().unwrap_or(Path::new(""));
        if seen.insert(dir) || item.found != Found::Missing {
            places.push(place);
        }
    }
    places
}

/// Why `path` cannot be written, and what to do about it.
pub(super) fn explain(e: io::Error, path: &Path) -> Error {
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
            return Error::io("writing to", e)
                .path(folder.unwrap_or(path))
                .advice("make it yours (chown), or promote as root");
        }
    };
    Error::new(Kind::Refused, message)
        .doing("writing to")
        .path(path)
        .advice(advice)
}
