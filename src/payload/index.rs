//! The index of a payload. Its memory use does not depend on what the image claims.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::hash::{BuildHasher, RandomState};

use crate::error::{Error, Result};
use crate::format::{Dialect, Fault};
use crate::progress::Progress;

use super::packed::{Packed, take};
use super::problem::{Cause, Problem};
use super::walk::{Entry, Payload, Walker};

/// The bytes that each name takes in one pass. The names may take half of the index's
/// memory; with more names, more passes are made.
const NAME_BYTES: usize = 8;

/// The number of possible duplicates that one pass compares in full.
const SUSPECTS_A_PASS: usize = 65_536;

/// The number of names that a pass handles at least, however small the memory limit is.
const LEAST_A_PASS: usize = 65_536;

/// A payload whose headers have been read and checked once.
pub struct Index {
    payload: Payload,
    files: u64,
    payload_bytes: u64,
    data_bytes: u64,
    longest_name: usize,
    whole: bool,
    /// The entries in packed form (about 40 bytes each), in up to half of the index's memory.
    /// If they need more, none are kept, and the headers are read again when needed.
    kept: Option<Packed>,
}

impl Index {
    /// Reads all headers of `payload`, checks every name, and looks for duplicate names.
    ///
    /// Each problem is passed to `report`, which can end the scan by returning an error.
    ///
    /// # Errors
    /// The error that `report` returns, an interruption, or too little memory.
    pub fn scan(
        payload: &Payload,
        progress: &dyn Progress,
        report: &mut dyn FnMut(Problem) -> Result<()>,
    ) -> Result<Self> {
        let mut index = Self {
            payload: payload.clone(),
            files: 0,
            payload_bytes: payload.dialect().header_len(),
            data_bytes: 0,
            longest_name: 0,
            whole: true,
            kept: Some(Packed::new(payload.index_memory() / 2)),
        };
        let mut names = Names::new(payload.index_memory() / 2);
        for step in payload.walk_all()? {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let entry = match step {
                Ok(entry) => entry,
                Err(problem) => {
                    index.whole = false;
                    report(problem)?;
                    break;
                }
            };
            if let Err(fault) = entry.name() {
                report(entry.problem(entry.header_offset, Cause::Fault(fault.into())))?;
            }
            names.note_first(&entry.raw_name)?;
            index.files += 1;
            index.payload_bytes = entry.end();
            index.data_bytes += entry.size;
            index.longest_name = index.longest_name.max(entry.raw_name.len());
            let kept = index.kept.take();
            index.kept =
                kept.and_then(|mut kept| kept.put(&entry.raw_name, entry.size).then_some(kept));
        }
        index.report_repeats(names, progress, report)?;
        Ok(index)
    }

    /// Does the same as [`Index::scan`], and returns the first problem as an error.
    ///
    /// # Errors
    /// The first problem, an interruption, or too little memory.
    pub fn strict(payload: &Payload, progress: &dyn Progress) -> Result<Self> {
        Self::scan(payload, progress, &mut |problem| {
            Err(problem.into_error(&**payload.source()))
        })
    }

    /// Returns the payload.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Returns the dialect, which is the width of the integers.
    pub fn dialect(&self) -> Dialect {
        self.payload.dialect()
    }

    /// Returns the number of entries found.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// Returns the length of the payload in bytes: headers, names and data of all entries
    /// found.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Returns the number of bytes of data of all entries found.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Returns the length of the longest name in bytes.
    pub fn longest_name(&self) -> usize {
        self.longest_name
    }

    /// Returns whether as many entries were found as the header claims.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Returns an iterator over the entries found.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn entries(&self) -> Result<Entries<'_>> {
        Ok(Entries {
            left: self.files,
            next: 0,
            offset: self.dialect().header_len(),
            dialect: self.dialect(),
            payload: &self.payload,
            from: match &self.kept {
                Some(kept) => From::Memory(kept.bytes()),
                None => From::Source(self.payload.walk()?),
            },
        })
    }

    fn report_repeats(
        &self,
        mut names: Names,
        progress: &dyn Progress,
        report: &mut dyn FnMut(Problem) -> Result<()>,
    ) -> Result<()> {
        for pass in 0..names.passes {
            if pass > 0 {
                for entry in self.entries()? {
                    if progress.cancelled() {
                        return Err(Error::interrupted());
                    }
                    names.note(&entry?.raw_name, pass)?;
                }
            }
            let suspects = names.take_suspects();
            for some in suspects.chunks(SUSPECTS_A_PASS) {
                self.report_suspects(&names.hasher, some, progress, report)?;
            }
        }
        Ok(())
    }

    /// Reports the entries with one of these name hashes that repeat an earlier name.
    /// Two names are taken as equal if two keyed hashes of 64 bits each are equal.
    fn report_suspects(
        &self,
        hasher: &RandomState,
        suspects: &[u64],
        progress: &dyn Progress,
        report: &mut dyn FnMut(Problem) -> Result<()>,
    ) -> Result<()> {
        let again = RandomState::new();
        let mut first: HashMap<(u64, u64), u64> = HashMap::new();
        for entry in self.entries()? {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let entry = entry?;
            let hash = hasher.hash_one(&entry.raw_name);
            if suspects.binary_search(&hash).is_err() {
                continue;
            }
            match first.entry((hash, again.hash_one(&entry.raw_name))) {
                Occupied(place) => {
                    let cause = Cause::Fault(Fault::Repeated {
                        first: *place.get(),
                    });
                    report(entry.problem(entry.header_offset, cause))?;
                }
                Vacant(place) => {
                    place.insert(entry.index);
                }
            }
        }
        Ok(())
    }
}

/// Hashes of names, used to find duplicates. They are keyed, so that an image cannot
/// be made to cause collisions.
struct Names {
    hasher: RandomState,
    hashes: Vec<u64>,
    a_pass: usize,
    /// The number of passes, a power of two. A pass handles the hashes with one remainder.
    passes: u64,
}

impl Names {
    fn new(memory: usize) -> Self {
        let a_pass = (memory / NAME_BYTES).max(LEAST_A_PASS);
        Self {
            hasher: RandomState::new(),
            hashes: Vec::new(),
            a_pass,
            passes: 1,
        }
    }

    /// Notes a name in the first pass. This pass also determines the number of passes: from
    /// the names found, not from the number that the header claims.
    fn note_first(&mut self, name: &[u8]) -> Result<()> {
        self.note(name, 0)?;
        while self.hashes.len() > self.a_pass {
            self.passes *= 2;
            let passes = self.passes;
            self.hashes.retain(|hash| hash % passes == 0);
        }
        Ok(())
    }

    fn note(&mut self, name: &[u8], pass: u64) -> Result<()> {
        let hash = self.hasher.hash_one(name);
        if hash % self.passes == pass {
            let reserved = self.hashes.try_reserve(1);
            reserved.map_err(|_| Error::no_memory("compare the names"))?;
            self.hashes.push(hash);
        }
        Ok(())
    }

    /// Returns the hashes that occur more than once, sorted.
    fn take_suspects(&mut self) -> Vec<u64> {
        self.hashes.sort_unstable();
        let mut suspects: Vec<u64> = self
            .hashes
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .map(|pair| pair[0])
            .collect();
        suspects.dedup();
        self.hashes.clear();
        suspects
    }
}

/// An iterator over the entries of an index, from memory or read again.
pub struct Entries<'a> {
    left: u64,
    next: u64,
    offset: u64,
    dialect: Dialect,
    payload: &'a Payload,
    from: From<'a>,
}

#[allow(clippy::large_enum_variant)] // one exists at a time
enum From<'a> {
    Memory(&'a [u8]),
    Source(Walker<'a>),
}

impl<'a> Entries<'a> {
    /// Returns a new iterator over the entries that are left.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn fork(&self) -> Result<Entries<'a>> {
        let from = match &self.from {
            From::Memory(kept) => From::Memory(kept),
            From::Source(walker) => From::Source(walker.fork(self.payload)?),
        };
        Ok(Entries { from, ..*self })
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let kept = match &mut self.from {
            From::Source(walker) => {
                let step = walker.next()?;
                return Some(step.map_err(|p| p.into_error(&**self.payload.source())));
            }
            From::Memory(kept) => kept,
        };
        let entry = Entry::after(&self.dialect, self.next, self.offset, take(kept));
        self.offset = entry.end();
        self.next += 1;
        Some(Ok(entry))
    }
}
