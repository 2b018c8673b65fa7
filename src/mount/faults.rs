//! The bytes of files that could not be read, for the attribute `problem`. A place that could be
//! read later is forgotten.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use crate::error::{Error, Kind};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

use super::lock::lock;

/// The number of places that are remembered for a file. The memory for all of them is thus in
/// proportion to that of the tree. Further places are added to the last one.
const PLACES: usize = 4;

/// The number of ranges that a place may consist of. Reads of its parts end in any order.
const RANGES: usize = 16;

/// The range of a fault that is not in the data of a file but in its header.
pub(super) const HEADER: Range<u64> = u64::MAX - 1..u64::MAX;

/// The reason for which bytes could not be read, without the texts that can be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FaultCause {
    /// The system's error.
    Errno(i32),
    /// The source has become shorter.
    Ended,
    /// The header differs from the saved index.
    Index,
    /// The content does not have the signed checksum.
    Signed,
    /// Another error.
    Other(Box<str>),
}

impl FaultCause {
    pub(super) fn of_io(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::Errno(errno),
            None => Self::Other(error.to_string().into()),
        }
    }

    pub(super) fn of(error: &Error) -> Self {
        match error.io_error() {
            Some(e) => Self::of_io(e),
            None if error.kind() == Kind::Changed => Self::Ended,
            None => Self::Other(error.cause().into()),
        }
    }

    pub(super) fn error(&self) -> Error {
        let changed = |message: &str| Error::new(Kind::Changed, message).doing("read");
        match self {
            Self::Errno(errno) => Error::io("read", io::Error::from_raw_os_error(*errno)),
            Self::Ended => changed("the source ends here, it was longer when it was mounted"),
            Self::Signed => Error::new(Kind::Refused, "it is not what was signed").doing("read"),
            Self::Index => changed("the index is of another image, remove it and mount again"),
            Self::Other(cause) => Error::new(Kind::Io, &**cause).doing("read"),
        }
    }
}

/// Bytes of a file that could not be read.
#[derive(Debug)]
struct Fault {
    ranges: Vec<Range<u64>>,
    /// The offset in the payload that the error names.
    at: u64,
    cause: FaultCause,
}

impl Fault {
    fn overlaps(&self, range: &Range<u64>) -> bool {
        let overlaps = |bad: &Range<u64>| bad.start < range.end && range.start < bad.end;
        self.ranges.iter().any(overlaps)
    }

    fn len(&self) -> u64 {
        self.ranges.iter().map(|bad| bad.end - bad.start).sum()
    }

    fn is_header(&self) -> bool {
        self.ranges == [HEADER]
    }

    /// Takes `range` out. Of more ranges than are allowed, none is split.
    fn take_out(&mut self, range: &Range<u64>) {
        let outside = |bad: &Range<u64>| {
            [
                bad.start..bad.end.min(range.start),
                bad.start.max(range.end)..bad.end,
            ]
        };
        let left = self.ranges.iter().flat_map(outside);
        let left: Vec<_> = left.filter(|left| !left.is_empty()).collect();
        if left.len() <= RANGES {
            self.ranges = left;
        }
    }
}

/// The faults of all files, by their inode numbers.
#[derive(Debug, Default)]
pub(super) struct Faults {
    any: AtomicBool,
    files: Mutex<HashMap<u64, Vec<Fault>>>,
}

impl Faults {
    /// Adds a fault. Returns whether it is a new one: one that overlaps a known one with the same
    /// cause replaces it, since the kernel tries parts of a failed read again.
    pub(super) fn add(&self, ino: u64, range: Range<u64>, at: u64, cause: FaultCause) -> bool {
        let mut files = lock(&self.files);
        if files.try_reserve(1).is_err() {
            return true;
        }
        self.any.store(true, Ordering::Relaxed);
        let faults = files.entry(ino).or_default();
        let known = faults
            .iter()
            .position(|fault| fault.cause == cause && fault.overlaps(&range));
        if let Some(known) = known {
            // The smaller range is closer to the bad place.
            let mut fault = faults.remove(known);
            if range.end - range.start <= fault.len() {
                (fault.ranges, fault.at) = (vec![range], at);
            }
            faults.push(fault);
            return false;
        }
        let mut ranges = Vec::new();
        if faults.len() == PLACES {
            let last = faults.remove(PLACES - 1);
            if !last.is_header() && range != HEADER {
                ranges = last.ranges;
            }
        }
        ranges.push(range);
        if ranges.len() > RANGES {
            let start = ranges.iter().map(|bad| bad.start).min().unwrap_or(0);
            let end = ranges.iter().map(|bad| bad.end).max().unwrap_or(0);
            ranges.clear();
            ranges.push(start..end);
        }
        faults.push(Fault { ranges, at, cause });
        true
    }

    /// Forgets what is known of `range`, because it could be read.
    pub(super) fn clear(&self, ino: u64, range: Range<u64>) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut files = lock(&self.files);
        let Some(faults) = files.get_mut(&ino) else {
            return;
        };
        faults.retain_mut(|fault| {
            fault.take_out(&range);
            !fault.ranges.is_empty()
        });
        if faults.is_empty() {
            files.remove(&ino);
        }
        self.any.store(!files.is_empty(), Ordering::Relaxed);
    }

    /// Forgets what is known of the header.
    pub(super) fn clear_header(&self, ino: u64) {
        self.clear(ino, HEADER);
    }

    /// Returns the latest fault of a file: the offset in the payload, and the cause.
    pub(super) fn latest(&self, ino: u64) -> Option<(u64, FaultCause)> {
        let files = lock(&self.files);
        let fault = files.get(&ino)?.last()?;
        Some((fault.at, fault.cause.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIO: FaultCause = FaultCause::Errno(libc::EIO);

    #[test]
    fn a_part_of_a_failed_read_is_the_same_fault() {
        let faults = Faults::default();
        assert!(faults.add(2, 0..131_072, 100, EIO));
        assert!(!faults.add(2, 8192..12_288, 8292, EIO));
        assert!(!faults.add(2, 0..131_072, 100, EIO));
        assert_eq!(faults.latest(2), Some((8292, EIO)));
        assert!(faults.add(2, 0..4096, 100, FaultCause::Ended));
        assert!(faults.add(3, 0..4096, 900, EIO));
    }

    #[test]
    fn what_could_be_read_is_forgotten() {
        let faults = Faults::default();
        faults.add(2, 4096..16_384, 4096, EIO);
        faults.clear(2, 0..8192);
        faults.clear(3, 0..1 << 20);
        assert!(faults.latest(2).is_some());
        faults.clear(2, 12_288..20_000);
        assert!(faults.latest(2).is_some());
        faults.clear(2, 8192..12_288);
        assert_eq!(faults.latest(2), None);
    }

    #[test]
    fn parts_that_are_read_in_any_order_are_forgotten() {
        let parts = [0..4096, 4096..8192, 8192..12_288, 12_288..16_384];
        for first in 0..4 {
            for second in (0..4).filter(|n| *n != first) {
                for third in (0..4).filter(|n| ![first, second].contains(n)) {
                    let faults = Faults::default();
                    faults.add(2, 100..16_000, 100, EIO);
                    for n in [first, second, third] {
                        faults.clear(2, parts[n].clone());
                        assert_eq!(faults.latest(2), Some((100, EIO)));
                    }
                    faults.clear(2, parts[6 - first - second - third].clone());
                    assert_eq!(faults.latest(2), None, "{first}, {second}, {third}");
                }
            }
        }
    }

    #[test]
    fn more_places_than_are_remembered_become_one() {
        let faults = Faults::default();
        for n in 0..20 {
            assert!(faults.add(2, n * 100..n * 100 + 10, n, EIO));
        }
        assert_eq!(lock(&faults.files)[&2].len(), PLACES);
        assert_eq!(faults.latest(2), Some((19, EIO)));
        faults.clear(2, 0..1910);
        assert_eq!(faults.latest(2), None);
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod every_order {
    use std::sync::Arc;

    use super::*;
    use crate::sync::thread;

    #[test]
    fn no_fault_is_hidden_and_none_stays() {
        crate::sync::orders(|| {
            let faults = Arc::new(Faults::default());
            let threads: Vec<_> = (2..4)
                .map(|ino| {
                    let faults = Arc::clone(&faults);
                    thread::spawn(move || {
                        faults.add(ino, 0..10, 0, FaultCause::Ended);
                        assert!(faults.latest(ino).is_some());
                        faults.clear(ino, 0..10);
                        assert!(faults.latest(ino).is_none());
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert!(!faults.any.load(Ordering::Relaxed));
        });
    }
}
