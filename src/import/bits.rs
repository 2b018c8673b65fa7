//! A set of entries.

use crate::error::{Error, Result};

/// One bit for each entry: 100 million entries take 12 MiB.
#[derive(Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn set(&mut self, at: u64) -> Result<()> {
        let word = (at / 64) as usize;
        if self.0.len() <= word {
            let reserved = self.0.try_reserve(word + 1 - self.0.len());
            reserved.map_err(|_| Error::no_memory("plan the import"))?;
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (at % 64);
        Ok(())
    }

    pub(super) fn add_all(&mut self, other: &Self) -> Result<()> {
        for (n, word) in other.0.iter().enumerate().filter(|(_, word)| **word != 0) {
            let at = n as u64 * 64;
            let had = self.get(at);
            self.set(at)?;
            self.0[n] |= word;
            if !had && word & 1 == 0 {
                self.0[n] &= !1;
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, at: u64) -> bool {
        self.0
            .get((at / 64) as usize)
            .is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}
