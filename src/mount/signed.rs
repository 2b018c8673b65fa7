//! The files of a signed payload: what each of them must contain, and which have been checked.

use crate::error::{Error, Result};
use crate::payload::{Entry, Payload, Sha256Sum, TrustedKeys, signed_checksums_of};

use super::marks::Marks;
use super::tree::{Node, Tree};

/// The signed checksums of all files of a tree, and the result of each comparison.
#[derive(Debug)]
pub(super) struct SignedFiles {
    /// By the index of the file.
    sums: Vec<Sha256Sum>,
    right: Marks,
    wrong: Marks,
}

impl SignedFiles {
    /// Reads the signed checksums of a payload. The names and sizes of the tree need not be
    /// right: what is shown under a name must have the signed checksum of this name.
    ///
    /// # Errors
    /// The payload is not signed by one of `keys`, or a file is not in the checksums, or an empty
    /// file must not be empty.
    pub(super) fn read(payload: &Payload, tree: &Tree, keys: &TrustedKeys) -> Result<Self> {
        let entries = || Ok(tree.from(0).map(|node| Ok(entry_of(&node))));
        let signed = signed_checksums_of(payload, keys, entries)?;
        let mut sums = Vec::new();
        sums.try_reserve_exact(tree.files() as usize)
            .map_err(|_| Error::no_memory("hold the signed checksums"))?;
        for node in tree.from(0) {
            let entry = entry_of(&node);
            let Some(expected) = signed.get(&entry.shown_name()) else {
                return Err(Error::bug("a file without a signed checksum"));
            };
            // The kernel never reads an empty file, so nothing would check it later.
            let found = Sha256Sum::of(b"");
            if node.size == 0 && expected != found {
                let problem = entry.mismatch(expected, found);
                return Err(problem.into_error(&**payload.source()));
            }
            sums.push(expected);
        }
        Ok(Self {
            right: Marks::none(tree.files()),
            wrong: Marks::none(tree.files()),
            sums,
        })
    }

    /// Returns the checksum of a file that has been checked and is right.
    pub(super) fn checked(&self, node: &Node<'_>) -> Option<Sha256Sum> {
        let sum = self.sums.get(node.index as usize)?;
        (self.right.has(node) && !self.wrong.has(node)).then_some(*sum)
    }

    /// Returns whether a file was checked and is wrong. It is refused from then on: a disk that
    /// returns the right bytes the next time is not to be trusted.
    pub(super) fn is_refused(&self, node: &Node<'_>) -> bool {
        self.wrong.has(node)
    }

    /// Compares the checksum of a whole file, and remembers the result.
    pub(super) fn is_right(&self, node: &Node<'_>, found: Sha256Sum) -> bool {
        let right = self.sums.get(node.index as usize) == Some(&found) && !self.is_refused(node);
        let marks = if right { &self.right } else { &self.wrong };
        marks.add(node);
        right
    }
}

/// Returns the entry that a file of the tree shows.
pub(super) fn entry_of(node: &Node<'_>) -> Entry {
    Entry {
        index: node.index,
        raw_name: node.name.to_vec(),
        header_offset: node.data_offset,
        data_offset: node.data_offset,
        size: node.size,
    }
}
