//! A set of numbers, kept as ranges: offsets in bytes, or the numbers of blocks.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that neither overlap nor touch each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// The start of each range, and its end.
    ranges: BTreeMap<u64, u64>,
    /// The number of ranges that are kept at most.
    limit: usize,
    /// The number of numbers in ranges that were not kept.
    beyond: u64,
}

impl Default for Ranges {
    fn default() -> Self {
        Self::with_limit(usize::MAX)
    }
}

impl Ranges {
    /// Returns an empty set that keeps at most `limit` ranges. What is added in further ranges is
    /// only counted, and counted again if it is added again.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            ranges: BTreeMap::new(),
            limit,
            beyond: 0,
        }
    }

    /// Adds a range, and joins it with those that it overlaps or touches.
    pub fn add(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let len = range.end - range.start;
        let mut joins = false;
        if let Some((&start, &end)) = self.ranges.range(..=range.start).next_back() {
            if end >= range.start {
                range = start..range.end.max(end);
                joins = true;
            }
        }
        while let Some((&start, &end)) = self.ranges.range(range.start..=range.end).next() {
            range.end = range.end.max(end);
            joins = true;
            self.ranges.remove(&start);
        }
        if joins || self.ranges.len() < self.limit {
            self.ranges.insert(range.start, range.end);
        } else {
            self.beyond += len;
        }
    }

    /// Removes a range.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let hit: Vec<Range<u64>> = self.overlapping(&range).collect();
        for old in hit {
            self.ranges.remove(&old.start);
            if old.start < range.start {
                self.ranges.insert(old.start, range.start);
            }
            if old.end > range.end {
                self.ranges.insert(range.end, old.end);
            }
        }
    }

    /// Returns the whole ranges that overlap `range`, in order.
    fn overlapping<'a>(&'a self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + 'a {
        let (from, to) = (range.start, range.end);
        let before = self.ranges.range(..from).next_back();
        let before = before.filter(move |(_, end)| **end > from);
        let rest = self.ranges.range(from..to.max(from));
        before
            .into_iter()
            .chain(rest)
            .map(|(start, end)| *start..*end)
    }

    /// Returns the parts of `range` that are in the set, in order.
    pub fn within(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.overlapping(&range)
            .map(|r| r.start.max(range.start)..r.end.min(range.end))
            .collect()
    }

    /// Returns a set of the parts of `range` that are in this set.
    pub fn clone_within(&self, range: Range<u64>) -> Self {
        let parts = self.within(range).into_iter();
        Self {
            ranges: parts.map(|part| (part.start, part.end)).collect(),
            ..Self::default()
        }
    }

    /// Returns the first part of `range` that is in the set.
    pub fn first_within(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let first = self.overlapping(range).next()?;
        Some(first.start.max(range.start)..first.end.min(range.end))
    }

    /// Returns what is in both sets.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let mut common = Self::default();
        for range in self.iter().flat_map(|range| other.within(range)) {
            common.add(range);
        }
        common
    }

    /// Returns the number of numbers in the set.
    pub fn count(&self) -> u64 {
        let kept = self.iter().map(|range| range.end - range.start);
        kept.sum::<u64>() + self.beyond
    }

    /// Returns whether a number is in one of the ranges.
    pub fn contains(&self, number: u64) -> bool {
        let before = self.ranges.range(..=number).next_back();
        before.is_some_and(|(_, end)| number < *end)
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.beyond == 0
    }

    /// Returns the number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Returns the ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }
}

impl From<Range<u64>> for Ranges {
    fn from(range: Range<u64>) -> Self {
        let mut ranges = Self::default();
        ranges.add(range);
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_agree_with_a_plain_set_of_numbers() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut ranges = Ranges::default();
        let mut plain = [false; 64];
        for _ in 0..20_000 {
            let start = random(64);
            let range = start..(start + random(12)).min(64);
            let adds = random(2) == 0;
            for n in range.clone() {
                plain[n as usize] = adds;
            }
            match adds {
                true => ranges.add(range),
                false => ranges.remove(range),
            }
            let mut found = [false; 64];
            let mut last = None;
            for range in ranges.iter() {
                assert!(last.is_none_or(|end| end < range.start), "{ranges:?}");
                last = Some(range.end);
                range.for_each(|n| found[n as usize] = true);
            }
            let count = plain.iter().filter(|there| **there).count();
            assert_eq!(ranges.count(), count as u64);
            let contains = |n: &u64| ranges.contains(*n);
            assert_eq!((0..64).filter(contains).count(), count);
            assert_eq!(found, plain);
            let start = random(64);
            let asked = start..(start + random(20)).min(64);
            let within: Vec<u64> = ranges.within(asked.clone()).into_iter().flatten().collect();
            let expected: Vec<u64> = asked.clone().filter(|n| plain[*n as usize]).collect();
            assert_eq!(within, expected, "{asked:?} of {ranges:?}");
            if !asked.is_empty() {
                let first = ranges.first_within(&asked).map(|range| range.start);
                assert_eq!(first, expected.first().copied());
            }
        }
    }

    #[test]
    fn ranges_beyond_the_limit_are_only_counted() {
        let mut ranges = Ranges::with_limit(2);
        for number in [5, 7, 6, 0, u64::MAX - 1, 8] {
            ranges.add(number..number + 1);
        }
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [0..1, 5..9]);
        assert_eq!(ranges.count(), 6);
        assert!(ranges.contains(8) && !ranges.contains(9) && !ranges.contains(2));
        assert!(!ranges.is_empty() && Ranges::with_limit(0).is_empty());
    }
}
