//! A set of block numbers, kept as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// The number of ranges that are kept. Further numbers are only counted.
const MAX: usize = 65_536;

/// A set of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// The start of each range, and its end.
    ranges: BTreeMap<u64, u64>,
    count: u64,
}

impl Ranges {
    /// Returns the number of numbers in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the ranges in order. There are at most 65,536.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// Returns whether a number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.around(number).is_some()
    }

    fn around(&self, number: u64) -> Option<Range<u64>> {
        let (start, end) = self.ranges.range(..=number).next_back()?;
        (number < *end).then_some(*start..*end)
    }

    /// Adds a number.
    pub fn add(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let before = number.checked_sub(1).and_then(|n| self.around(n));
        let after = self.around(number + 1);
        if before.is_none() && after.is_none() && self.ranges.len() >= MAX {
            // Counted twice if it is added again. The number is an estimate then.
            self.count += 1;
            return;
        }
        self.count += 1;
        let end = match after {
            Some(after) => {
                self.ranges.remove(&after.start);
                after.end
            }
            None => number + 1,
        };
        let start = before.map_or(number, |before| before.start);
        self.ranges.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join() {
        let mut set = Ranges::default();
        for number in [5, 7, 6, 6, 0, 1, 9, 8, u64::MAX - 1] {
            set.add(number);
        }
        let ranges: Vec<_> = set.iter().collect();
        assert_eq!(ranges, [0..2, 5..10, u64::MAX - 1..u64::MAX]);
        assert_eq!(set.count(), 8);
        assert!(set.contains(9) && !set.contains(10) && !set.contains(2));
    }
}
