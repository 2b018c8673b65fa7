//! A set of byte ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of bytes that neither overlap nor touch each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range, and joins it with those that it overlaps or touches.
    pub fn add(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some((&start, &end)) = self.0.range(..=range.start).next_back() {
            if end >= range.start {
                range = start..range.end.max(end);
            }
        }
        while let Some((&start, &end)) = self.0.range(range.start..=range.end).next() {
            range.end = range.end.max(end);
            self.0.remove(&start);
        }
        self.0.insert(range.start, range.end);
    }

    /// Removes a range.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let hit: Vec<Range<u64>> = self.overlapping(&range).collect();
        for old in hit {
            self.0.remove(&old.start);
            if old.start < range.start {
                self.0.insert(old.start, range.start);
            }
            if old.end > range.end {
                self.0.insert(range.end, old.end);
            }
        }
    }

    /// Returns the whole ranges that overlap `range`, in order.
    fn overlapping<'a>(&'a self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + 'a {
        let (from, to) = (range.start, range.end);
        let before = self.0.range(..from).next_back();
        let before = before.filter(move |(_, end)| **end > from);
        let rest = self.0.range(from..to.max(from));
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
        Self(
            self.within(range)
                .into_iter()
                .map(|r| (r.start, r.end))
                .collect(),
        )
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

    /// Returns the number of bytes in all ranges.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Returns whether there are no ranges.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of ranges.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
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
}
