//! A set of entries.

use crate::error::{Error, Result};

/// One bit for each entry: 100 million entries take 12 MiB.
#[derive(Debug, Default)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Adds an entry.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn set(&mut self, at: u64) -> Result<()> {
        let word = (at / 64) as usize;
        if self.0.len() <= word {
            let reserved = self.0.try_reserve(word + 1 - self.0.len());
            reserved.map_err(|_| Error::no_memory("hold the state of each file"))?;
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (at % 64);
        Ok(())
    }

    /// Adds the entries of another set.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn add_all(&mut self, other: &Self) -> Result<()> {
        if let Some(last) = other.0.len().checked_sub(1) {
            // Makes the list long enough, and leaves the bit as it was.
            let had = self.get(last as u64 * 64);
            self.set(last as u64 * 64)?;
            if !had {
                self.0[last] &= !1;
            }
        }
        for (own, word) in self.0.iter_mut().zip(&other.0) {
            *own |= word;
        }
        Ok(())
    }

    /// Returns whether no entry was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether an entry is in the set.
    pub fn get(&self, at: u64) -> bool {
        self.0
            .get((at / 64) as usize)
            .is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}
