//! Opens the files of an image for reading. A symlink never leads out of the image.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::durable::{Last, Lookup, Tree};
use crate::error::Result;
use crate::promote::path::{ROOTFS, Zone};
use crate::promote::trees::Trees;

/// The number of bytes that are compared at a time.
const PIECE: usize = 64 * 1024;

/// A staged image.
pub(super) struct StagedImage(Trees);

impl StagedImage {
    pub(super) fn open(image: &Path) -> Result<Self> {
        Ok(Self(Trees::open(image, false)?))
    }

    /// Returns the tree below `rootfs/`.
    pub(super) fn rootfs(&self) -> io::Result<&Tree> {
        self.tree(Zone::Rootfs)
    }

    /// Opens the regular file at `path` below `Linux_for_Tegra/`, after following symlinks.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        if let Ok(path) = path.strip_prefix(ROOTFS) {
            return open(self.rootfs()?, path);
        }
        open(self.tree(Zone::Elsewhere)?, path)
    }

    fn tree(&self, zone: Zone) -> io::Result<&Tree> {
        let missing = |_| io::Error::from(io::ErrorKind::NotFound);
        self.0.tree(zone).map_err(missing)
    }
}

/// Opens the regular file that `path` leads to.
pub(super) fn open(tree: &Tree, path: &Path) -> io::Result<File> {
    open_place(tree, &tree.resolve(path, Last::Follow)?)
}

/// Opens the regular file at `place`, a path without symlinks.
pub(super) fn open_place(tree: &Tree, place: &Path) -> io::Result<File> {
    match tree.lookup(place)? {
        Lookup::File(file, _) => Ok(file),
        Lookup::Nothing => Err(io::ErrorKind::NotFound.into()),
        Lookup::Unreadable(e) => Err(e),
        Lookup::Symlink(..) | Lookup::Directory | Lookup::Special => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not a regular file",
        )),
    }
}

/// Returns whether two readers return the same bytes. The error names the reader that failed:
/// the first or the second one.
pub(super) fn same(
    one: &mut dyn Read,
    other: &mut dyn Read,
) -> std::result::Result<bool, (Side, io::Error)> {
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let n = read_full(one, &mut a).map_err(|e| (Side::One, e))?;
        let m = read_full(other, &mut b).map_err(|e| (Side::Other, e))?;
        if a[..n] != b[..m] {
            return Ok(false);
        }
        if n < PIECE {
            return Ok(true);
        }
    }
}

/// The reader that failed in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    One,
    Other,
}

fn read_full(reader: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match reader.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_compared_to_their_ends() {
        let long = vec![7; PIECE * 2];
        let same = |a: &[u8], b: &[u8]| same(&mut &a[..], &mut &b[..]).unwrap();
        assert!(same(b"", b"") && same(&long, &long) && same(b"ab", b"ab"));
        assert!(!same(&long, &long[1..]) && !same(b"a", b"b") && !same(b"", b"a"));
        assert!(!same(&long, &[&long[..], b"x"].concat()));
    }
}
