//! Checks everything that a trailer protects, and the trailer itself.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::block::{AlignedBuf, PAGE, Ranges, Source, read_exact_at};
use crate::error::SourceFailure;
use crate::progress::Progress;

use super::find::header_at;
use super::geometry::{BLOCK, GROUP, HASHES};
use super::heal::{Healer, MAX_RANGES};
use super::source::ProtectedSource;
use super::stripe::{in_threads, lock, read_blocks};

/// The number of blocks that are read at a time.
const STEP: u64 = 256;
/// The number of threads that read and check.
const CHECKERS: usize = 4;

/// The damage of a trailer.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TrailerDamage {
    /// The damaged recovery blocks, counted from the first.
    pub recovery: Ranges,
    /// The number of damaged blocks of the metadata, in both copies together.
    pub metadata: u64,
    /// The offsets of the copies of the header that are damaged or missing.
    pub headers: Vec<u64>,
}

impl TrailerDamage {
    /// Returns whether nothing is damaged.
    pub fn is_empty(&self) -> bool {
        self.recovery.is_empty() && self.metadata == 0 && self.headers.is_empty()
    }

    /// Returns the number of damaged blocks.
    pub fn blocks(&self) -> u64 {
        self.recovery.count() + self.metadata + self.headers.len() as u64
    }
}

fn interrupted() -> io::Error {
    io::ErrorKind::Interrupted.into()
}

/// Divides `len` bytes into steps, and takes each in one of several threads. Each has a buffer for
/// a step.
fn in_steps(
    len: u64,
    progress: &dyn Progress,
    take: &(dyn Fn(Range<u64>, &mut AlignedBuf) -> io::Result<()> + Sync),
) -> io::Result<()> {
    let next = AtomicU64::new(0);
    in_threads(CHECKERS, || {
        let mut buf = AlignedBuf::new(STEP as usize * PAGE)?;
        loop {
            let start = next.fetch_add(STEP * BLOCK, Ordering::Relaxed);
            if start >= len {
                return Ok(());
            }
            if progress.cancelled() {
                return Err(interrupted());
            }
            let end = (start + STEP * BLOCK).min(len);
            take(start..end, &mut buf)?;
            progress.advance(end - start);
        }
    })
}

impl ProtectedSource {
    /// Reads the whole payload and heals it, so that all damage is found.
    ///
    /// # Errors
    /// An interruption, too little memory, or a server that does not answer.
    pub fn check_all(&self, progress: &dyn Progress) -> io::Result<()> {
        let len = self.len();
        progress.begin("checking", len);
        in_steps(len, progress, &|step, buf| {
            let mut at = step.start;
            while at < step.end {
                let part = (step.end - at).next_multiple_of(BLOCK) as usize;
                // A group that is lost is noted by the healer.
                at += match self.read_at(&mut buf[..part], at) {
                    Ok(0) => break,
                    Ok(read) => read as u64,
                    Err(e) if SourceFailure::is_in(&e) => return Err(e),
                    Err(_) => (GROUP - at % GROUP).min(step.end - at),
                };
            }
            Ok(())
        })?;
        progress.end();
        Ok(())
    }
}

impl Healer {
    /// Reads the whole payload and returns the damaged blocks. Nothing is healed.
    ///
    /// # Errors
    /// An interruption, too little memory, or a server that does not answer.
    pub fn damaged_blocks(&self, progress: &dyn Progress) -> io::Result<Ranges> {
        let g = self.geometry();
        let damaged = Mutex::new(Ranges::with_limit(MAX_RANGES));
        let alone = self.stripes_of_source();
        let failures = self.failures.count();
        in_steps(g.payload_len(), progress, &|step, buf| {
            let len = (step.end - step.start) as usize;
            let padded = len.next_multiple_of(PAGE);
            let source = &*self.meta.source;
            let whole =
                matches!(read_exact_at(source, &mut buf[..padded], step.start), Ok(n) if n >= len);
            let groups = buf[..padded].chunks_mut(GROUP as usize);
            for (group, bytes) in (step.start / GROUP..).zip(groups) {
                let len = g.group_len(group);
                let read = whole
                    || matches!(read_exact_at(source, bytes, group * GROUP), Ok(n) if n >= len);
                if read && self.check(group, &bytes[..len]) {
                    continue;
                }
                let mut one = AlignedBuf::new(PAGE)?;
                let mut bad: Vec<u64> = self
                    .blocks_of(group)
                    .filter(|block| alone.read_block(*block, &mut one).is_none())
                    .collect();
                if bad.is_empty() && !self.check_again(group, &mut one) {
                    // Every block has the right hash, and the group has not.
                    bad.extend(self.blocks_of(group));
                }
                let mut damaged = lock(&damaged);
                bad.into_iter()
                    .for_each(|block| damaged.add(block..block + 1));
            }
            self.failures.check(failures)
        })?;
        Ok(damaged.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a group again, block by block, and checks it.
    fn check_again(&self, group: u64, one: &mut AlignedBuf) -> bool {
        let mut bytes = Vec::with_capacity(GROUP as usize);
        for block in self.blocks_of(group) {
            if read_blocks(&*self.meta.source, block * BLOCK, one, 1).is_err() {
                return false;
            }
            bytes.extend_from_slice(&one[..self.geometry().block_len(block)]);
        }
        self.check(group, &bytes)
    }

    /// Reads the whole trailer and returns what is damaged. `third` is where its third header
    /// must be, if there must be one.
    ///
    /// # Errors
    /// An interruption, too little memory, or a server that does not answer.
    pub fn damaged_trailer(
        &self,
        third: Option<u64>,
        progress: &dyn Progress,
    ) -> io::Result<TrailerDamage> {
        let g = self.geometry();
        let failures = self.failures.count();
        let mut damage = TrailerDamage {
            recovery: self.damaged_recovery(progress)?,
            ..TrailerDamage::default()
        };
        for at in [g.start, g.header2].into_iter().chain(third) {
            if header_at(&*self.meta.source, at).as_ref() != Ok(self.header()) {
                damage.headers.push(at);
            }
        }
        for copy in 0..2 {
            for (level, shape) in g.levels.iter().enumerate() {
                let bad = (0..shape.pages())
                    .filter(|page| self.meta.tree_page(copy, level, *page).is_none());
                damage.metadata += bad.count() as u64;
            }
            if self.meta.headers_of(copy, u64::from(u32::MAX)).is_none() {
                damage.metadata += g.shape.headers_len.div_ceil(BLOCK);
            }
        }
        for page in (0..g.hashes_len / BLOCK).step_by(HASHES as usize) {
            if progress.cancelled() {
                return Err(interrupted());
            }
            for page in page..(page + HASHES).min(g.hashes_len / BLOCK) {
                let at = g.tree_len + page * BLOCK;
                let read = |copy: usize| self.meta.read(g.meta[copy] + at, 1).ok();
                let same = match (read(0), read(1)) {
                    (Some(one), Some(other)) => one[..PAGE] == other[..PAGE],
                    _ => false,
                };
                damage.metadata += u64::from(!same);
            }
        }
        self.failures.check(failures)?;
        Ok(damage)
    }

    fn damaged_recovery(&self, progress: &dyn Progress) -> io::Result<Ranges> {
        let g = self.geometry();
        let mut damaged = Ranges::with_limit(MAX_RANGES);
        let mut buf = AlignedBuf::new(STEP as usize * PAGE)?;
        let mut one = AlignedBuf::new(PAGE)?;
        let source: &dyn Source = &*self.meta.source;
        for first in (0..g.recovery_blocks).step_by(STEP as usize) {
            if progress.cancelled() {
                return Err(interrupted());
            }
            let count = STEP.min(g.recovery_blocks - first) as usize;
            let whole = read_blocks(source, g.recovery_offset(first), &mut buf, count).is_ok();
            for (number, bytes) in (first..).zip(buf.chunks(PAGE).take(count)) {
                let good = if whole {
                    self.stripes().recovery_is_good(number, bytes)
                } else {
                    read_blocks(source, g.recovery_offset(number), &mut one, 1).is_ok()
                        && self.stripes().recovery_is_good(number, &one[..PAGE])
                };
                if !good {
                    damaged.add(number..number + 1);
                }
            }
            progress.advance(count as u64 * BLOCK);
        }
        Ok(damaged)
    }

    /// Returns how many of these damaged blocks of the payload cannot be computed, with these
    /// recovery blocks damaged too, and the length in bytes of a run of further damage that
    /// could still be healed, wherever it is.
    pub fn outlook(&self, payload: &Ranges, recovery: &Ranges) -> (u64, u64) {
        let g = self.geometry();
        let mut missing: HashMap<(u64, u64), (u64, u64)> = HashMap::new();
        for block in payload.iter().flatten() {
            let region = g.region_of(block);
            let stripe = (block - region.first) % region.stripes;
            missing.entry((region.first, stripe)).or_default().0 += 1;
        }
        for number in recovery.iter().flatten() {
            let region = g.region_of_recovery(number);
            let stripe = (number - region.first_recovery) % region.stripes;
            missing.entry((region.first, stripe)).or_default().1 += 1;
        }
        let run = |region: super::geometry::Region, margin: u64| {
            (margin * region.stripes).saturating_sub(1) * BLOCK
        };
        let mut least = [0, g.regions - 1]
            .into_iter()
            .map(|number| run(g.region(number), g.region(number).recovery))
            .min()
            .unwrap_or(0);
        let mut lost = 0;
        for ((first, _), (data, of_recovery)) in missing {
            let region = g.region_of(first);
            let left = (region.recovery - of_recovery).checked_sub(data);
            if left.is_none() {
                lost += data;
            }
            least = least.min(run(region, left.unwrap_or(0)));
        }
        (lost, least)
    }
}
