//! Finds the right bytes of damaged groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::block::{AlignedBuf, FailureRecorder, PAGE, Ranges, Source};

use super::geometry::{FANOUT, GROUP, GROUP_BLOCKS, Geometry, Region};
use super::header::Header;
use super::metadata::{Check, Metadata};
use super::stripe::{Block, Stripes, lock};
use super::tree::{ChainingValue, chaining_value, join};

/// The number of ranges of blocks that are kept. Further blocks are only counted.
pub(super) const MAX_RANGES: usize = 65_536;

/// The number of blocks that could not be healed and are not tried again.
const MAX_LOST: usize = 65_536;

/// Finds the right bytes of damaged groups: by another read, from other copies of the payload, or
/// from the recovery blocks. Uses one thread at a time, while others read what is healthy.
pub struct Healer {
    pub(super) meta: Metadata,
    /// What a server did not send: such bytes are neither damaged nor lost.
    pub(super) failures: Arc<FailureRecorder>,
    copies: Vec<Arc<dyn Source>>,
    memory: usize,
    /// Held while something is healed, so that the memory limit holds.
    state: Mutex<State>,
    found: Mutex<Found>,
    /// The number of healed blocks in `found`, which can be read without a lock.
    healed: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Blocks that were computed. They are likely to be needed soon.
    computed: BTreeMap<u64, Box<Block>>,
    /// Blocks that could not be computed.
    lost: BTreeSet<u64>,
    /// Pages of the tree that could not be computed, with their level.
    lost_pages: BTreeSet<(usize, u64)>,
    /// The number of blocks that the last stripes had lost, as a first guess for the next ones.
    few: u64,
}

impl State {
    /// Keeps a block that was computed, while blocks up to `at` are healed. At most `room` blocks
    /// are kept.
    fn keep(&mut self, block: u64, bytes: Box<Block>, at: u64, room: usize) {
        self.computed.insert(block, bytes);
        while self.computed.len() > room {
            let ends = (
                self.computed.first_key_value(),
                self.computed.last_key_value(),
            );
            let (Some((first, _)), Some((last, _))) = ends else {
                return;
            };
            // Most readers go on from here. They need the nearest blocks next, and seldom go back.
            match at.saturating_sub(*first).saturating_mul(8) > last.saturating_sub(at) {
                true => self.computed.pop_first(),
                false => self.computed.pop_last(),
            };
        }
    }
}

/// The damage that was found so far, in blocks of the payload.
#[derive(Debug, Clone)]
pub struct Found {
    /// The damaged blocks, which are the healed and the lost ones.
    pub damaged: Ranges,
    /// The blocks whose right bytes were found.
    pub healed: Ranges,
    /// The blocks whose right bytes were not found.
    pub lost: Ranges,
}

impl Default for Found {
    fn default() -> Self {
        let none = Ranges::with_limit(MAX_RANGES);
        Self {
            damaged: none.clone(),
            healed: none.clone(),
            lost: none,
        }
    }
}

/// Takes a group and its right bytes, or `None` if it is lost.
pub type EachGroup<'a> = dyn FnMut(u64, Option<&[u8]>) -> io::Result<()> + 'a;

/// The bytes of groups that were asked for. `None` if a group is lost.
pub(super) type Groups = HashMap<u64, Option<Vec<u8>>>;

impl Healer {
    /// Creates a healer for the payload in `source`, with the header that was found. `memory` is
    /// the number of bytes for buffers and pages of hashes; the codec's tables need 9 MiB more.
    pub fn new(source: Arc<dyn Source>, header: Header, memory: usize) -> Self {
        let copies = source.copies().to_vec();
        let failures = Arc::new(FailureRecorder::new(source));
        let recorded: Arc<dyn Source> = failures.clone();
        let mut meta = Metadata::new(recorded, header, memory / 4);
        meta.others.clone_from(&copies);
        Self {
            meta,
            failures,
            copies,
            memory: memory / 2,
            state: Mutex::default(),
            found: Mutex::default(),
            healed: AtomicU64::new(0),
        }
    }

    /// Adds copies of the payload, which are read where the source or its trailer is damaged.
    #[must_use]
    pub fn with_copies(mut self, copies: impl IntoIterator<Item = Arc<dyn Source>>) -> Self {
        self.copies.extend(copies);
        self.meta.others.clone_from(&self.copies);
        self
    }

    /// Returns the layout of the trailer.
    pub fn geometry(&self) -> &Geometry {
        self.meta.geometry()
    }

    /// Returns the header of the trailer.
    pub fn header(&self) -> &Header {
        &self.meta.header
    }

    /// Returns the damage that was found so far.
    pub fn found(&self) -> Found {
        lock(&self.found).clone()
    }

    /// Returns the number of blocks that were healed so far.
    pub fn healed_blocks(&self) -> u64 {
        self.healed.load(Ordering::Relaxed)
    }

    pub(super) fn stripes(&self) -> Stripes<'_> {
        Stripes {
            meta: &self.meta,
            copies: &self.copies,
            memory: self.memory,
        }
    }

    /// Returns whether these are the right bytes of a group.
    pub fn is_right(&self, group: u64, bytes: &[u8]) -> bool {
        self.check(group, bytes)
    }

    /// Compares the bytes of a group with the tree. If the page of the tree is lost in both
    /// copies, it is computed from the payload.
    pub(super) fn check(&self, group: u64, bytes: &[u8]) -> bool {
        match self.meta.check(group, bytes) {
            Check::Right => true,
            Check::Wrong => false,
            Check::Unknown => {
                let mut state = lock(&self.state);
                self.rebuild(&mut state, 0, group / FANOUT)
                    && self.meta.check(group, bytes) == Check::Right
            }
        }
    }

    /// Finds the right bytes of groups that are damaged.
    ///
    /// # Errors
    /// There is not enough memory, no thread can be started, or a server does not answer.
    pub(super) fn heal(&self, groups: &[u64]) -> io::Result<Groups> {
        let mut state = lock(&self.state);
        let failures = self.failures.count();
        // Another thread may have computed the page of the tree, or there is none.
        for group in groups {
            if !self.meta.knows(*group) {
                self.rebuild(&mut state, 0, group / FANOUT);
            }
        }
        self.failures.check(failures)?;
        self.heal_checked(&mut state, groups, true)
    }

    /// Finds the bytes of groups. If `by_tree`, they are given out only if the tree confirms them.
    fn heal_checked(&self, state: &mut State, groups: &[u64], by_tree: bool) -> io::Result<Groups> {
        let failures = self.failures.count();
        let mut needed = BTreeSet::new();
        let mut buf = AlignedBuf::new(PAGE)?;
        let mut read: HashMap<u64, Box<Block>> = HashMap::new();
        let mut damaged = BTreeSet::new();
        for block in groups.iter().flat_map(|group| self.blocks_of(*group)) {
            match self.stripes().read_block(block, &mut buf) {
                Some(from_copy) => {
                    let mut bytes = Box::new([0; PAGE]);
                    bytes.copy_from_slice(&buf[..PAGE]);
                    read.insert(block, bytes);
                    if from_copy {
                        damaged.insert(block);
                    }
                }
                None => {
                    damaged.insert(block);
                    if let Some(bytes) = state.computed.get(&block) {
                        read.insert(block, bytes.clone());
                    } else if !state.lost.contains(&block) {
                        needed.insert(block);
                    }
                }
            }
        }
        self.failures.check(failures)?;
        read.extend(self.compute(state, &needed)?);
        let mut out = Groups::new();
        let mut found = lock(&self.found);
        for group in groups {
            let bytes = self.assemble(*group, &read);
            let bytes =
                bytes.filter(|bytes| !by_tree || self.meta.check(*group, bytes) == Check::Right);
            let damaged = self
                .blocks_of(*group)
                .filter(|block| damaged.contains(block));
            for block in damaged {
                // What is only a step towards a page of the tree is not reported.
                if by_tree {
                    found.damaged.add(block..block + 1);
                    match bytes {
                        Some(_) => found.healed.add(block..block + 1),
                        None => found.lost.add(block..block + 1),
                    }
                }
            }
            out.insert(*group, bytes);
        }
        self.healed.store(found.healed.count(), Ordering::Relaxed);
        Ok(out)
    }

    /// Reads from the source alone, and from no other copy.
    pub(super) fn stripes_of_source(&self) -> Stripes<'_> {
        Stripes {
            copies: &[],
            ..self.stripes()
        }
    }

    /// Finds the right bytes of blocks, given in groups of which at least one block is damaged.
    /// Passes each group on, with its bytes, or `None` if it is lost.
    ///
    /// The groups are taken in the order of their stripes, so that no stripe is computed twice.
    ///
    /// # Errors
    /// There is not enough memory, or `each` returns an error.
    pub fn heal_all(&self, damaged: &Ranges, each: &mut EachGroup<'_>) -> io::Result<()> {
        let mut quads: BTreeMap<(u64, u64), BTreeSet<u64>> = BTreeMap::new();
        for block in damaged.iter().flatten() {
            let region = self.geometry().region_of(block);
            let quad = (block - region.first) % region.stripes / GROUP_BLOCKS;
            let groups = quads.entry((region.first, quad)).or_default();
            groups.insert(block / GROUP_BLOCKS);
        }
        let mut quads = quads.into_iter().peekable();
        while let Some(((first, quad), groups)) = quads.next() {
            let region = self.geometry().region_of(first);
            let most = self.stripes().at_once(&region, 1) / GROUP_BLOCKS;
            let most_groups = self.memory / 4 / GROUP as usize;
            let mut groups = groups;
            let mut count = 1;
            while let Some((key, more)) = quads.peek() {
                let fits = count < most && groups.len() + more.len() <= most_groups;
                if *key != (first, quad + count) || !fits {
                    break;
                }
                groups.extend(quads.next().into_iter().flat_map(|(_, groups)| groups));
                count += 1;
            }
            let groups: Vec<u64> = groups.into_iter().collect();
            let healed = self.heal(&groups)?;
            for group in groups {
                each(group, healed.get(&group).and_then(|bytes| bytes.as_deref()))?;
            }
        }
        Ok(())
    }

    pub(super) fn blocks_of(&self, group: u64) -> Range<u64> {
        self.geometry().blocks_of(group)
    }

    fn assemble(&self, group: u64, blocks: &HashMap<u64, Box<Block>>) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(GROUP as usize);
        for block in self.blocks_of(group) {
            bytes.extend_from_slice(&blocks.get(&block)?[..]);
        }
        bytes.truncate(self.geometry().group_len(group));
        Some(bytes)
    }

    /// Computes blocks from their stripes. Other damaged blocks of these stripes are computed too,
    /// and kept as far as there is room.
    fn compute(
        &self,
        state: &mut State,
        needed: &BTreeSet<u64>,
    ) -> io::Result<HashMap<u64, Box<Block>>> {
        let mut out = HashMap::new();
        // The stripes that are needed, by region, and how many blocks of each.
        let mut wanted: BTreeMap<u64, (Region, BTreeMap<u64, u64>)> = BTreeMap::new();
        for block in needed {
            let region = self.geometry().region_of(*block);
            let stripe = (block - region.first) % region.stripes;
            let (_, stripes) = wanted
                .entry(region.first)
                .or_insert((region, BTreeMap::new()));
            *stripes.entry(stripe).or_default() += 1;
        }
        let Some(last) = needed.last() else {
            return Ok(out);
        };
        let room = (self.memory / 2 / PAGE).max(64);
        for (region, stripes) in wanted.into_values() {
            let few = stripes.values().copied().max().unwrap_or(1).max(state.few);
            let batch = self.stripes().at_once(&region, few);
            let failures = self.failures.count();
            for range in runs(stripes.keys(), batch) {
                state.few = self.stripes().heal(&region, range, few, &mut |healed| {
                    // Bytes that a server did not send are not lost.
                    if self.failures.check(failures).is_err() {
                        return;
                    }
                    if state.lost.len() + healed.lost.len() <= MAX_LOST {
                        state.lost.extend(&healed.lost);
                    }
                    for (block, bytes) in healed.blocks {
                        // The next read may need a part of the same group.
                        if needed.contains(&block) {
                            out.insert(block, bytes.clone());
                        }
                        state.keep(block, bytes, *last, room);
                    }
                })?;
                self.failures.check(failures)?;
            }
        }
        Ok(out)
    }

    /// Computes a page of the tree from the payload, where both copies of it are damaged. Returns
    /// whether it is the right one.
    fn rebuild(&self, state: &mut State, level: usize, page: u64) -> bool {
        let levels = &self.geometry().levels;
        let failures = self.failures.count();
        if self.meta.stored_page(level, page).is_some() {
            return true;
        }
        let did_not_come = self.failures.count() > failures;
        if did_not_come || state.lost_pages.contains(&(level, page)) {
            return false;
        }
        let above = level + 1;
        let right = (above >= levels.len() || self.rebuild(state, above, page / FANOUT))
            && [true, false].into_iter().any(|as_read| {
                let values = self.values_of(state, level, page, as_read);
                values.is_some_and(|values| self.meta.offer(level, page, &values))
            });
        let is_lost = !right && self.failures.count() == failures;
        if is_lost && state.lost_pages.len() < MAX_LOST {
            state.lost_pages.insert((level, page));
        }
        right
    }

    /// Computes the chaining values of a page from the payload: as it is read, or healed with the
    /// block hashes, which may be lost too.
    fn values_of(
        &self,
        state: &mut State,
        level: usize,
        page: u64,
        as_read: bool,
    ) -> Option<Vec<ChainingValue>> {
        let first = page * FANOUT;
        let count = self.geometry().levels[level].in_page(page) as u64;
        if level > 0 {
            let below = (first..first + count)
                .map(|page| Some(join(&self.values_of(state, level - 1, page, as_read)?)));
            return below.collect();
        }
        // A few groups at a time, to save memory.
        let mut values = Vec::new();
        for start in (first..first + count).step_by(16) {
            let groups: Vec<u64> = (start..(start + 16).min(first + count)).collect();
            let mut healed = match as_read {
                true => Groups::new(),
                false => self.heal_checked(state, &groups, false).ok()?,
            };
            for group in groups {
                let bytes = match as_read {
                    true => self.meta.read_group(group).ok()?,
                    false => healed.remove(&group)??,
                };
                values.push(chaining_value(&bytes, group * GROUP));
            }
        }
        Some(values)
    }
}

/// Returns runs of neighbouring stripes, each of at most `most`.
fn runs<'a>(stripes: impl Iterator<Item = &'a u64>, most: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for stripe in stripes {
        match runs.last_mut() {
            Some(run) if run.end == *stripe && run.end - run.start < most => run.end += 1,
            _ => runs.push(*stripe..stripe + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_blocks_that_are_needed_next_are_kept() {
        let mut state = State::default();
        // Two stripes of a region with 100 stripes, while block 1000 is read.
        for block in (900..2000)
            .step_by(100)
            .flat_map(|first| [first, first + 1])
        {
            state.keep(block, Box::new([0; PAGE]), 1000, 6);
        }
        let kept: Vec<u64> = state.computed.keys().copied().collect();
        assert_eq!(kept, [1000, 1001, 1100, 1101, 1200, 1201]);
    }
}
