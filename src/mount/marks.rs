//! One bit for each file, which threads set without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use super::tree::Node;

/// A set of files.
#[derive(Debug)]
pub(super) struct Marks(Vec<AtomicU64>);

impl Marks {
    /// Returns an empty set for `files` files.
    pub(super) fn none(files: u64) -> Self {
        let words = files.div_ceil(64) as usize;
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// Returns whether a file is in the set.
    pub(super) fn has(&self, node: &Node<'_>) -> bool {
        self.word(node)
            .is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Adds a file.
    pub(super) fn add(&self, node: &Node<'_>) {
        if let Some((word, bit)) = self.word(node) {
            word.fetch_or(bit, Ordering::AcqRel);
        }
    }

    fn word(&self, node: &Node<'_>) -> Option<(&AtomicU64, u64)> {
        let word = self.0.get((node.index / 64) as usize)?;
        Some((word, 1 << (node.index % 64)))
    }
}
