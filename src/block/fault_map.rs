//! What is known of a source's bad places, so that none is read more often than necessary. A bad
//! disk may take seconds for each.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::SourceFailure;

use super::ranges::Ranges;

/// After this many sectors that could not be read one after the other, a sector that was read
/// before is read again, to find out whether the whole device is gone.
const STREAK: u32 = 64;

/// The number of ranges that are remembered. Each of them took a failed read.
const MAX_RANGES: usize = 100_000;

/// The bad places of a source. Offsets are in bytes from the start of the source.
#[derive(Debug)]
pub struct FaultMap {
    /// The size of a sector, and where the source starts in its file or device, in bytes.
    sector: u64,
    base: u64,
    known: Mutex<Known>,
}

/// The words of an error that is not the system's.
#[derive(Debug)]
enum Words {
    Plain(String),
    Failure(SourceFailure),
}

#[derive(Debug, Default)]
struct Known {
    /// Reads of these ranges failed as a whole. Single sectors of them may be readable.
    suspect: Ranges,
    /// Sectors that could not be read.
    bad: Ranges,
    /// The error of the last read that failed.
    errno: Option<i32>,
    /// The same for an error that is not the system's.
    words: Option<(io::ErrorKind, Words)>,
    /// Nothing can be read any more.
    gone: bool,
    /// The source ends here now.
    end: Option<u64>,
    /// The number of sectors that could not be read since the last one that could.
    streak: u32,
    /// The offset of a sector that could be read.
    good: Option<u64>,
}

impl FaultMap {
    /// Creates a map without bad places, for sectors of this size and a source that starts at
    /// `base`, both in bytes.
    pub(super) fn new(sector: u64, base: u64) -> Self {
        Self {
            sector,
            base,
            known: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the sectors of `range` that could not be read.
    pub fn bad_in(&self, range: Range<u64>) -> Ranges {
        self.lock().bad.clone_within(range)
    }

    /// Returns the parts of `range` that no large read has reached, and whose sectors have to be
    /// read one by one.
    pub fn holes_in(&self, range: Range<u64>) -> Ranges {
        let known = self.lock();
        let mut holes = known.suspect.clone_within(range.clone());
        for bad in known.bad.within(range.clone()) {
            holes.add(bad);
        }
        if let Some(end) = known.end {
            holes.add(end.max(range.start)..range.end.max(end));
        }
        holes
    }

    /// Returns how far to read in `range`, from its start: a sector where a larger read has
    /// failed, and otherwise up to the next such place.
    ///
    /// # Errors
    /// The end of the bad sectors that `range` starts with.
    pub fn next_piece(&self, range: Range<u64>) -> Result<u64, u64> {
        let known = self.lock();
        let bad = known
            .bad
            .first_within(&range)
            .unwrap_or(range.end..range.end);
        if bad.start == range.start {
            return Err(bad.end);
        }
        let suspect = known.suspect.first_within(&range).unwrap_or(bad.clone());
        let sector = self.sector_at(range.start).end;
        let end = match suspect.start == range.start {
            true => sector.min(range.end),
            false => suspect.start,
        };
        Ok(end.min(bad.start))
    }

    /// Records that `range` cannot be read, and need not be tried.
    pub fn add_bad(&self, range: Range<u64>) {
        self.lock().bad.add(range);
    }

    /// Records that the blocks of `range` were not read because a part of them is suspect.
    pub fn add_suspect(&self, range: Range<u64>) {
        self.lock().suspect.add(range);
    }

    /// Records that a read of `range` failed. If it is more than a sector, some of its sectors may
    /// be readable. Returns whether so many sectors have failed in a row that the device may be
    /// gone.
    pub fn add_failed(&self, range: Range<u64>, error: &io::Error) -> bool {
        let sectors = self.whole_sectors(range);
        let mut known = self.lock();
        known.note(error);
        if sectors.end - sectors.start > self.sector {
            known.suspect.add(sectors);
            return false;
        }
        known.bad.add(sectors);
        known.streak += 1;
        known.streak % STREAK == 0
    }

    /// Records that bytes at `offset` were read.
    pub(super) fn add_read(&self, offset: u64) {
        let mut known = self.lock();
        known.streak = 0;
        known.good = Some(offset);
    }

    /// Records that the source ends at `offset` now.
    pub fn add_end(&self, offset: u64) {
        // Reads behind the end report it too, and may be completed later.
        let mut known = self.lock();
        known.end = Some(known.end.map_or(offset, |end| end.min(offset)));
    }

    /// Records that the device is gone.
    pub(super) fn add_gone(&self) {
        self.lock().gone = true;
    }

    /// Returns the offset of bytes that could be read before.
    pub(super) fn last_read(&self) -> Option<u64> {
        self.lock().good
    }

    /// Allows one more read of each bad sector, and returns the bad sectors.
    pub fn retry_bad(&self) -> Ranges {
        let mut known = self.lock();
        let bad = std::mem::take(&mut known.bad);
        bad.iter().for_each(|range| known.suspect.add(range));
        known.streak = 0;
        bad
    }

    /// Returns the error for a read that would only repeat what failed before.
    pub fn refusal(&self, range: &Range<u64>) -> Option<io::Error> {
        let sectors = self.whole_sectors(range.clone());
        let is_sector = sectors.end - sectors.start <= self.sector;
        let known = self.lock();
        let refused = known.gone
            || known.bad.first_within(range).is_some()
            || (!is_sector && known.suspect.first_within(range).is_some());
        refused.then(|| known.error())
    }

    /// Returns the sector that holds the byte at `offset`.
    pub fn sector_at(&self, offset: u64) -> Range<u64> {
        self.whole_sectors(offset..offset + 1)
    }

    /// Returns `range`, rounded to whole sectors. They are counted from the start of the file or
    /// device.
    fn whole_sectors(&self, range: Range<u64>) -> Range<u64> {
        let start = (self.base + range.start) / self.sector * self.sector;
        let end = (self.base + range.end).next_multiple_of(self.sector);
        start.saturating_sub(self.base)..end - self.base
    }

    /// Returns whether nothing can be read any more at `offset`: the device is gone, or ends
    /// before.
    pub fn is_lost(&self, offset: u64) -> bool {
        let known = self.lock();
        known.gone || known.end.is_some_and(|end| offset >= end)
    }

    /// Returns whether the source cannot be read at all any more.
    pub fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Returns whether the source ends before `offset` now.
    pub fn has_ended_before(&self, offset: u64) -> bool {
        self.lock().end.is_some_and(|end| offset >= end)
    }

    /// Returns the last error of the system.
    pub fn error(&self) -> io::Error {
        self.lock().error()
    }
}

impl Known {
    fn error(&self) -> io::Error {
        if let Some((kind, words)) = &self.words {
            return match words {
                Words::Plain(words) => io::Error::new(*kind, words.clone()),
                Words::Failure(failure) => failure.clone().into_io(*kind),
            };
        }
        if self.errno.is_none() && self.end.is_some() {
            return io::ErrorKind::UnexpectedEof.into();
        }
        io::Error::from_raw_os_error(self.errno.unwrap_or(libc::EIO))
    }

    fn note(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(errno) => (self.errno, self.words) = (Some(errno), None),
            None => {
                let words = match SourceFailure::of(error) {
                    Some(failure) => Words::Failure(failure.clone()),
                    None => Words::Plain(error.to_string()),
                };
                self.words = Some((error.kind(), words));
            }
        }
        // A source behind a URL has tried again itself. Damage that cannot be healed has another
        // kind, and the rest can be read.
        match error.kind() {
            io::ErrorKind::Other | io::ErrorKind::StaleNetworkFileHandle => {
                self.gone |= error.raw_os_error().is_none();
            }
            _ => {}
        }
        // The kernel reports with these that a device was removed.
        let gone = [libc::ENODEV, libc::ENXIO, libc::ENOMEDIUM];
        self.gone |= error.raw_os_error().is_some_and(|n| gone.contains(&n));
        // So many bad places are not worth the memory: the disk is treated as gone.
        self.gone |= self.bad.len() + self.suspect.len() > MAX_RANGES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_behind_the_end_that_are_completed_later_do_not_move_it() {
        let map = FaultMap::new(512, 0);
        for offset in [1000, 4096] {
            map.add_end(offset);
        }
        assert!(map.is_lost(1000) && !map.is_lost(999));
        assert_eq!(map.holes_in(0..8192).iter().next(), Some(1000..8192));
    }
}
