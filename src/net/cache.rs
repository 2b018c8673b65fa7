//! The pieces of a source that have been read, up to a limit.

use std::collections::HashMap;
use std::sync::Arc;

/// Pieces by number.
#[derive(Debug)]
pub(super) struct Cache {
    max: usize,
    slots: HashMap<u64, Slot>,
    clock: u64,
}

#[derive(Debug)]
enum Slot {
    Coming,
    Here { bytes: Arc<Vec<u8>>, used: u64 },
}

/// What is known of a piece.
#[derive(Debug)]
pub(super) enum Found {
    /// It is here.
    Here(Arc<Vec<u8>>),
    /// Another thread reads it.
    Coming,
    /// Nobody reads it.
    Nothing,
}

impl Cache {
    /// Creates an empty cache of at most `max` pieces, and those that are being read.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            slots: HashMap::new(),
            clock: 0,
        }
    }

    /// Returns the number of pieces that it can hold.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn get(&mut self, number: u64) -> Found {
        self.clock += 1;
        match self.slots.get_mut(&number) {
            Some(Slot::Here { bytes, used }) => {
                *used = self.clock;
                Found::Here(Arc::clone(bytes))
            }
            Some(Slot::Coming) => Found::Coming,
            None => Found::Nothing,
        }
    }

    /// Returns whether the piece is here or coming.
    pub(super) fn has(&self, number: u64) -> bool {
        self.slots.contains_key(&number)
    }

    /// Takes note that somebody reads the piece.
    pub(super) fn expect(&mut self, number: u64) {
        self.slots.insert(number, Slot::Coming);
    }

    /// Takes note that nobody reads the piece any more.
    pub(super) fn forget(&mut self, number: u64) {
        self.slots.remove(&number);
    }

    /// Stores a piece, and drops the one that has not been used for the longest time if there
    /// are too many.
    pub(super) fn put(&mut self, number: u64, bytes: Arc<Vec<u8>>) {
        self.clock += 1;
        let used = self.clock;
        self.slots.insert(number, Slot::Here { bytes, used });
        let here = self.slots.iter().filter_map(|(number, slot)| match slot {
            Slot::Here { used, .. } => Some((*used, *number)),
            Slot::Coming => None,
        });
        let here: Vec<_> = here.collect();
        if here.len() > self.max {
            if let Some((_, oldest)) = here.into_iter().min() {
                self.slots.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_piece_makes_room() {
        let mut cache = Cache::new(2);
        for number in [1, 2] {
            cache.put(number, Arc::default());
        }
        cache.expect(9);
        assert!(matches!(cache.get(1), Found::Here(_)));
        cache.put(3, Arc::default());
        assert!(matches!(cache.get(2), Found::Nothing));
        assert!(matches!(cache.get(1), Found::Here(_)));
        assert!(matches!(cache.get(9), Found::Coming));
        cache.forget(9);
        assert!(!cache.has(9));
    }
}
