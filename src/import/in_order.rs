//! Reports the names of files in the order of the payload, whatever order they are
//! finished in.

use std::collections::BTreeSet;
use std::iter::Peekable;

use crate::error::Result;
use crate::payload::{Entries, Index};

use super::plan::Plan;

/// Holds names back until all earlier files are finished.
pub(super) struct InOrder<'a> {
    plan: &'a Plan,
    entries: Peekable<Entries<'a>>,
    finished: BTreeSet<u64>,
    tell: &'a mut dyn FnMut(&str),
}

impl<'a> InOrder<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        index: &'a Index,
        tell: &'a mut dyn FnMut(&str),
    ) -> Result<Self> {
        let entries = index.entries()?.peekable();
        Ok(Self {
            plan,
            entries,
            finished: BTreeSet::new(),
            tell,
        })
    }

    /// Marks the file of entry `slot` as finished.
    pub(super) fn finished(&mut self, slot: u64) {
        self.finished.insert(slot);
        self.go_on(false);
    }

    /// Reports the names that were held back for a file that was never finished.
    pub(super) fn end(mut self) {
        self.go_on(true);
    }

    fn go_on(&mut self, to_the_end: bool) {
        while let Some(Ok(entry)) = self.entries.peek() {
            let slot = entry.index;
            if self.plan.keeps(slot) || self.finished.remove(&slot) {
                (self.tell)(&entry.shown_name());
            } else if (self.plan.writes(slot) || self.plan.compares(slot)) && !to_the_end {
                return;
            }
            self.entries.next();
        }
    }
}
