//! Computes damaged blocks from the other blocks of their stripes.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::{AlignedBuf, PAGE, Source, read_exact_at};

use super::code::{Decoder, STACK_BYTES, Sums, add};
use super::geometry::{BLOCK, GROUP, GROUP_BLOCKS, Region};
use super::metadata::{Check, Metadata};
use super::tree::{chaining_value, short};

/// A block that was computed or read, filled up with zeros.
pub(super) type Block = [u8; PAGE];

/// Reads blocks, and computes damaged ones.
pub(super) struct Stripes<'a> {
    pub meta: &'a Metadata,
    /// Other copies of the payload. They have the same offsets.
    pub copies: &'a [Arc<dyn Source>],
    /// The memory for one batch of stripes, in bytes.
    pub memory: usize,
}

/// The result for some stripes.
#[derive(Default)]
pub(super) struct Healed {
    /// The damaged blocks of the payload, with their bytes.
    pub blocks: HashMap<u64, Box<Block>>,
    /// The damaged blocks that could not be computed.
    pub lost: Vec<u64>,
}

/// The largest number of missing blocks of a stripe that are computed from sums. The decoder takes
/// always the same time, and is faster from here on.
const FEW: u64 = 8;
/// The same where there is too little memory to decode several stripes at once, which would read
/// single blocks.
const FEW_WITHOUT_MEMORY: u64 = 64;

/// The number of threads that add up. Some of them read meanwhile.
const ADDERS: usize = 4;

/// What the adders have found.
struct Added {
    /// For each recovery block that is used, the sums of all stripes.
    sums: Vec<Vec<u8>>,
    /// The positions of the missing blocks of each stripe.
    missing: Vec<Vec<u64>>,
}

/// The number of stripes that are computed one by one before their results are passed on. Each of
/// them may have as many blocks as a stripe has recovery blocks.
const ONE_BY_ONE: u64 = 8;

/// How much of a batch is in memory at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// The number of stripes.
    pub stripes: u64,
    /// The number of bytes of each block.
    pub width: usize,
    /// If the memory suffices for decoders but not for the blocks of some stripes too, this number
    /// of threads computes one stripe after the other. Otherwise 0.
    alone: usize,
}

impl Batch {
    /// Chooses a batch for a region and a memory limit.
    pub(super) fn fit(region: &Region, memory: usize) -> Self {
        let blocks = (region.rows() + region.recovery) as usize;
        let mut width = PAGE;
        let decoder = |width| Decoder::memory(region.rows(), region.recovery, width);
        let together = memory.saturating_sub(decoder(PAGE)) / (blocks * PAGE);
        if together < ONE_BY_ONE as usize / 2 && memory >= decoder(PAGE) {
            return Self {
                stripes: ONE_BY_ONE,
                width: PAGE,
                alone: (memory / decoder(PAGE)).min(2),
            };
        }
        while width > 64 && decoder(width) + blocks * width > memory {
            width /= 2;
        }
        let stripes = match width {
            PAGE => ((memory - decoder(width).min(memory)) / (blocks * width)).clamp(1, 256),
            _ => 1,
        };
        Self {
            stripes: stripes as u64,
            width,
            alone: 0,
        }
    }
}

/// The blocks at one position of the stripes of a batch.
struct Row {
    bytes: Vec<u8>,
    good: Vec<bool>,
}

impl Stripes<'_> {
    /// Reads one block of the payload and checks it. Returns `None` if it is damaged in the
    /// source and in all copies. The flag is true if a copy had it.
    pub(super) fn read_block(&self, block: u64, buf: &mut AlignedBuf) -> Option<bool> {
        let len = self.meta.geometry().block_len(block);
        let sources = std::iter::once(&self.meta.source).chain(self.copies);
        for (n, source) in sources.enumerate() {
            if read_blocks(&**source, block * BLOCK, buf, 1).is_ok() {
                buf[len..PAGE].fill(0);
                if self.is_good(block, &buf[..len]) {
                    return Some(n > 0);
                }
            }
        }
        None
    }

    /// Returns whether the bytes of a block have the right hash.
    pub(super) fn is_good(&self, block: u64, bytes: &[u8]) -> bool {
        let found = short(&chaining_value(bytes, block * BLOCK));
        let mut known = [None; 2];
        for (copy, known) in known.iter_mut().enumerate() {
            *known = self.meta.block_hash(copy, block);
            if *known == Some(found) {
                return true;
            }
        }
        if self.meta.others_have_hash(block, found) {
            return true;
        }
        // If the hashes themselves are damaged, the tree knows.
        (known[0].is_none() || known[0] != known[1]) && self.group_is_right(block / GROUP_BLOCKS)
    }

    fn group_is_right(&self, group: u64) -> bool {
        let g = self.meta.geometry();
        let len = g.group_len(group);
        let first = group * GROUP_BLOCKS;
        let Ok(mut buf) = AlignedBuf::new(GROUP_BLOCKS as usize * PAGE) else {
            return false;
        };
        let count = (len as u64).div_ceil(BLOCK) as usize;
        read_blocks(&*self.meta.source, first * BLOCK, &mut buf, count).is_ok()
            && self.meta.check(group, &buf[..len]) == Check::Right
    }

    pub(super) fn recovery_is_good(&self, number: u64, bytes: &[u8]) -> bool {
        let found = short(blake3::hash(bytes).as_bytes());
        let number = self.meta.geometry().blocks + number;
        (0..2).any(|copy| self.meta.block_hash(copy, number) == Some(found))
            || self.meta.others_have_hash(number, found)
    }

    /// Returns the largest number of missing blocks that are computed from sums.
    fn most_from_sums(&self, region: &Region) -> u64 {
        let batch = Batch::fit(region, self.memory);
        match batch.alone == 0 && batch.width == PAGE {
            true => FEW,
            false => FEW_WITHOUT_MEMORY,
        }
    }

    /// Returns how many stripes are computed at once if each has lost at most `few` blocks.
    pub(super) fn at_once(&self, region: &Region, few: u64) -> u64 {
        let few = few.clamp(1, self.most_from_sums(region));
        // The blocks that were read and the sums of each adder, the recovery blocks, the results.
        let blocks = (1 + few) * ADDERS as u64 + 2 * few;
        let stripes = self.memory as u64 / (blocks * BLOCK) / GROUP_BLOCKS * GROUP_BLOCKS;
        stripes.clamp(1, region.stripes)
    }

    /// Computes the damaged blocks of the payload in some stripes of a region, which are at most
    /// [`at_once`](Self::at_once()), and passes them on. It is assumed at first that no stripe has
    /// lost more than `few` blocks. Returns the largest number that were lost.
    pub(super) fn heal(
        &self,
        region: &Region,
        stripes: Range<u64>,
        few: u64,
        each: &mut dyn FnMut(Healed),
    ) -> io::Result<u64> {
        let few = few.max(1);
        let mut most = 0;
        if few > self.most_from_sums(region) {
            for range in parts(&stripes, Batch::fit(region, self.memory).stripes) {
                let healed = self.decode(region, range)?;
                let mut missing: HashMap<u64, u64> = HashMap::new();
                for block in healed.blocks.keys().chain(&healed.lost) {
                    let stripe = (block - region.first) % region.stripes;
                    *missing.entry(stripe).or_default() += 1;
                }
                most = most.max(missing.into_values().max().unwrap_or(0));
                each(healed);
            }
            return Ok(most);
        }
        for range in parts(&stripes, self.at_once(region, few)) {
            most = most.max(match self.heal_few(region, &range, few)? {
                (Some(healed), found) => {
                    each(healed);
                    found
                }
                (None, found) => self.heal(region, range, found.max(few + 1), each)?,
            });
        }
        Ok(most)
    }

    /// Computes missing blocks from sums. Returns `None` if a stripe has lost so many that more
    /// than the first `few` recovery blocks or so are needed, and the largest number that were lost.
    fn heal_few(
        &self,
        region: &Region,
        stripes: &Range<u64>,
        few: u64,
    ) -> io::Result<(Option<Healed>, u64)> {
        let count = (stripes.end - stripes.start) as usize;
        // One more than `few`, if it is needed because some of them are damaged.
        let mut recovery: Vec<Row> = Vec::new();
        while (recovery.len() as u64) < region.recovery.min(few + 1) {
            let good = |n: usize| recovery.iter().filter(|row| row.good[n]).count() as u64;
            if (0..count).all(|n| good(n) >= few) {
                break;
            }
            let numbers = region.recovery_row(recovery.len() as u64, stripes);
            recovery.push(self.read_row(numbers, true, count, &(0..PAGE))?);
        }
        let code = Sums::new(region.rows(), region.recovery, recovery.len())?;
        let Some(Added { sums, mut missing }) =
            self.add_up(region, stripes, &code, recovery.len())?
        else {
            return Ok((None, self.most_from_sums(region) + 1));
        };
        for (row, sums) in recovery.iter_mut().zip(&sums) {
            add(&mut row.bytes, sums);
        }
        let most = missing.iter().map(Vec::len).max().unwrap_or(0) as u64;
        let mut healed = Healed::default();
        for (n, missing) in missing.iter_mut().enumerate() {
            missing.sort_unstable();
            let block_at =
                |row: &u64| region.first + row * region.stripes + stripes.start + n as u64;
            let sums: Vec<(usize, &[u8])> = recovery
                .iter()
                .enumerate()
                .filter(|(_, row)| row.good[n])
                .map(|(j, row)| (j, &row.bytes[n * PAGE..(n + 1) * PAGE]))
                .take(missing.len())
                .collect();
            if sums.len() < missing.len() {
                if (recovery.len() as u64) < region.recovery {
                    return Ok((None, most));
                }
                healed.lost.extend(missing.iter().map(block_at));
                continue;
            }
            for (row, bytes) in missing.iter().zip(code.solve(missing, &sums)?) {
                if let Ok(bytes) = Box::try_from(bytes.into_boxed_slice()) {
                    healed.blocks.insert(block_at(row), bytes);
                }
            }
        }
        Ok((Some(healed), most))
    }

    /// Reads all data blocks of some stripes, row by row, and adds the intact ones to the sums for
    /// the first `used` recovery blocks. Returns `None` if a stripe has lost more than few blocks.
    fn add_up(
        &self,
        region: &Region,
        stripes: &Range<u64>,
        code: &Sums,
        used: usize,
    ) -> io::Result<Option<Added>> {
        let count = (stripes.end - stripes.start) as usize;
        let next = AtomicU64::new(0);
        let too_many = AtomicBool::new(false);
        let most = self.most_from_sums(region);
        let added = Mutex::new(Added {
            sums: vec![vec![0; count * PAGE]; used],
            missing: vec![Vec::new(); count],
        });
        in_threads(ADDERS, || {
            let mut sums = vec![vec![0; count * PAGE]; used];
            let mut buf = AlignedBuf::new(count * PAGE)?;
            let mut one = AlignedBuf::new(PAGE)?;
            let mut scratch = vec![[0; 64]; GROUP as usize / 64];
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                if row >= region.rows() || too_many.load(Ordering::Relaxed) {
                    break;
                }
                let numbers = region.row(row, stripes);
                let good = self.read_checked(numbers, false, &mut buf, &mut one);
                let blocks = &mut buf[..good.len() * PAGE];
                for n in (0..good.len()).filter(|n| !good[*n]) {
                    blocks[n * PAGE..(n + 1) * PAGE].fill(0);
                    let mut added = lock(&added);
                    added.missing[n].push(row);
                    if added.missing[n].len() as u64 > most {
                        too_many.store(true, Ordering::Relaxed);
                    }
                }
                // A piece at a time stays in the processor's cache.
                for (n, piece) in blocks.chunks(GROUP as usize).enumerate() {
                    let at = n * GROUP as usize;
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let sum = &mut sum[at..at + piece.len()];
                        code.add(sum, j, row, piece, &mut scratch);
                    }
                }
            }
            let mut added = lock(&added);
            for (all, own) in added.sums.iter_mut().zip(&sums) {
                add(all, own);
            }
            Ok(())
        })?;
        let added = added.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((!too_many.into_inner()).then_some(added))
    }

    /// Computes the damaged blocks of the payload in some stripes of a region with the decoder.
    /// They are at most as many as [`Batch::fit`] allows.
    fn decode(&self, region: &Region, stripes: Range<u64>) -> io::Result<Healed> {
        let batch = Batch::fit(region, self.memory);
        if batch.alone > 0 {
            return self.heal_alone(region, stripes, batch.alone);
        }
        let width = batch.width;
        let mut healed = Healed::default();
        let mut found: Vec<HashMap<u64, Box<Block>>> = Vec::new();
        let mut lost: Vec<Vec<u64>> = Vec::new();
        for at in (0..PAGE).step_by(width) {
            let slice = at..at + width;
            self.heal_slice(region, &stripes, slice, &mut found, &mut lost)?;
        }
        for (mut blocks, lost) in found.into_iter().zip(lost) {
            for block in lost {
                blocks.remove(&block);
                healed.lost.push(block);
            }
            healed.blocks.extend(blocks);
        }
        Ok(healed)
    }

    /// Computes one stripe after the other in each of some threads. A block goes to the decoder as
    /// soon as it is read, so nothing else takes memory.
    fn heal_alone(
        &self,
        region: &Region,
        stripes: Range<u64>,
        threads: usize,
    ) -> io::Result<Healed> {
        let next = AtomicU64::new(stripes.start);
        let healed = Mutex::new(Healed::default());
        in_threads(threads, || {
            let mut decoder = None;
            let mut buf = AlignedBuf::new(PAGE)?;
            loop {
                let stripe = next.fetch_add(1, Ordering::Relaxed);
                if stripe >= stripes.end {
                    return Ok(());
                }
                let decoded = self.heal_stripe(region, stripe, &mut decoder, &mut buf)?;
                let mut healed = lock(&healed);
                for (block, bytes) in decoded {
                    match bytes.and_then(|bytes| Box::try_from(bytes.into_boxed_slice()).ok()) {
                        Some(bytes) => drop(healed.blocks.insert(block, bytes)),
                        None => healed.lost.push(block),
                    }
                }
            }
        })?;
        Ok(healed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn heal_stripe(
        &self,
        region: &Region,
        stripe: u64,
        decoder: &mut Option<Decoder>,
        buf: &mut AlignedBuf,
    ) -> io::Result<Decoded> {
        let block_at = |row: u64| region.first + row * region.stripes + stripe;
        let rows = region.data_of(stripe);
        let decoder = reset(decoder, rows, region.recovery, PAGE)?;
        let mut missing = Vec::new();
        for row in 0..rows {
            match self.read_block(block_at(row), buf) {
                Some(_) => decoder.add_data(row, &buf[..PAGE])?,
                None => missing.push(row),
            }
        }
        let mut left = missing.len();
        if left as u64 <= region.recovery {
            for j in 0..region.recovery {
                if left == 0 {
                    break;
                }
                let number = region.recovery_row(j, &(stripe..stripe + 1)).start;
                if self.read_recovery(number, buf) {
                    decoder.add_recovery(j, &buf[..PAGE])?;
                    left -= 1;
                }
            }
        }
        let mut out = Vec::new();
        match left {
            _ if missing.is_empty() => {}
            0 => decoder.decode(|row, bytes| out.push((block_at(row), Some(bytes.to_vec()))))?,
            _ => out.extend(missing.iter().map(|row| (block_at(*row), None))),
        }
        Ok(out)
    }

    /// Reads a recovery block. Returns whether it is intact.
    fn read_recovery(&self, number: u64, buf: &mut AlignedBuf) -> bool {
        let offset = self.meta.geometry().recovery_offset(number);
        let mut sources = std::iter::once(&self.meta.source).chain(self.copies);
        sources.any(|source| {
            read_blocks(&**source, offset, buf, 1).is_ok()
                && self.recovery_is_good(number, &buf[..PAGE])
        })
    }

    fn heal_slice(
        &self,
        region: &Region,
        stripes: &Range<u64>,
        slice: Range<usize>,
        found: &mut Vec<HashMap<u64, Box<Block>>>,
        lost: &mut Vec<Vec<u64>>,
    ) -> io::Result<()> {
        let count = (stripes.end - stripes.start) as usize;
        found.resize_with(count, HashMap::new);
        lost.resize_with(count, Vec::new);
        let data = self.read_rows(region.rows(), |row| {
            self.read_row(region.row(row, stripes), false, count, &slice)
        })?;
        let missing: Vec<Vec<u64>> = (0..count)
            .map(|n| {
                let rows = region.data_of(stripes.start + n as u64);
                (0..rows)
                    .filter(|row| !data[*row as usize].good[n])
                    .collect()
            })
            .collect();
        // Recovery blocks are read until each stripe has enough of them.
        let mut recovery: Vec<Row> = Vec::new();
        while (recovery.len() as u64) < region.recovery {
            let short = missing.iter().enumerate().map(|(n, missing)| {
                let have = recovery.iter().filter(|row| row.good[n]).count();
                match missing.len() as u64 > region.recovery {
                    true => 0,
                    false => missing.len().saturating_sub(have),
                }
            });
            let Some(more @ 1..) = short.max() else {
                break;
            };
            let from = recovery.len() as u64;
            let more = (more as u64).min(region.recovery - from);
            recovery.extend(self.read_rows(more, |row| {
                let numbers = region.recovery_row(from + row, stripes);
                self.read_row(numbers, true, count, &slice)
            })?);
        }
        let next = AtomicU64::new(0);
        let results = Mutex::new(Vec::new());
        let work = || {
            let mut decoder = None;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed) as usize;
                if n >= count {
                    return Ok(());
                }
                if missing[n].is_empty() {
                    continue;
                }
                let stripe = (stripes.start + n as u64, n);
                let blocks = decode(region, stripe, &data, &recovery, &missing[n], &mut decoder)?;
                let mut results = lock(&results);
                results.push((n, blocks));
            }
        };
        let threads = if count > 1 { 2 } else { 1 };
        in_threads(threads, work)?;
        for (n, blocks) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            for (block, bytes) in blocks {
                match bytes {
                    None => lost[n].push(block),
                    Some(bytes) => {
                        let whole = found[n].entry(block).or_insert_with(|| Box::new([0; PAGE]));
                        whole[slice.clone()].copy_from_slice(&bytes);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads rows on several threads.
    fn read_rows(
        &self,
        count: u64,
        read: impl Fn(u64) -> io::Result<Row> + Sync,
    ) -> io::Result<Vec<Row>> {
        let next = AtomicU64::new(0);
        let done = Mutex::new(Vec::new());
        in_threads(if count > 64 { 4 } else { 1 }, || {
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                if row >= count {
                    return Ok(());
                }
                let read = read(row)?;
                lock(&done).push((row, read));
            }
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(row, _)| *row);
        Ok(done.into_iter().map(|(_, row)| row).collect())
    }

    /// Reads a row of data blocks or recovery blocks and checks each. Keeps a slice of each.
    fn read_row(
        &self,
        numbers: Range<u64>,
        recovery: bool,
        count: usize,
        slice: &Range<usize>,
    ) -> io::Result<Row> {
        let blocks = (numbers.end - numbers.start) as usize;
        let mut row = Row {
            bytes: vec![0; count * slice.len()],
            good: vec![false; count],
        };
        if blocks == 0 {
            return Ok(row);
        }
        let mut buf = AlignedBuf::new(blocks * PAGE)?;
        let mut one = AlignedBuf::new(PAGE)?;
        let good = self.read_checked(numbers, recovery, &mut buf, &mut one);
        row.good[..blocks].copy_from_slice(&good);
        for (block, out) in buf.chunks(PAGE).zip(row.bytes.chunks_mut(slice.len())) {
            out.copy_from_slice(&block[slice.clone()]);
        }
        Ok(row)
    }

    /// Reads a row of data blocks or recovery blocks into `buf`. Returns which of them are intact.
    /// `one` has room for a block.
    fn read_checked(
        &self,
        numbers: Range<u64>,
        recovery: bool,
        buf: &mut AlignedBuf,
        one: &mut AlignedBuf,
    ) -> Vec<bool> {
        let blocks = (numbers.end - numbers.start) as usize;
        let mut good = vec![false; blocks];
        let g = self.meta.geometry();
        let offset = match recovery {
            true => g.recovery_offset(numbers.start),
            false => numbers.start * BLOCK,
        };
        let whole = blocks > 0 && read_blocks(&*self.meta.source, offset, buf, blocks).is_ok();
        if whole && !recovery {
            if let Some(at) = g.payload_len().checked_sub(offset) {
                let end = at.min((blocks * PAGE) as u64) as usize;
                buf[end..blocks * PAGE].fill(0);
            }
            // Whole groups are checked at once, which is faster.
            let first = numbers.start.div_ceil(GROUP_BLOCKS);
            for group in first..g.groups {
                let within = g.blocks_of(group);
                if within.end > numbers.end {
                    break;
                }
                let at = (within.start - numbers.start) as usize;
                let bytes = &buf[at * PAGE..at * PAGE + g.group_len(group)];
                if self.meta.check(group, bytes) == Check::Right {
                    good[at..at + (within.end - within.start) as usize].fill(true);
                }
            }
        }
        for (n, number) in numbers.enumerate() {
            if good[n] {
                continue;
            }
            let block = &buf[n * PAGE..(n + 1) * PAGE];
            let right = whole
                && match recovery {
                    true => self.recovery_is_good(number, block),
                    false => self.is_good(number, &block[..g.block_len(number)]),
                };
            let read = !right
                && match recovery {
                    true => self.read_recovery(number, one),
                    false => self.read_block(number, one).is_some(),
                };
            if read {
                buf[n * PAGE..(n + 1) * PAGE].copy_from_slice(&one[..PAGE]);
            }
            good[n] = right || read;
        }
        good
    }
}

/// Divides a range into parts of at most this length.
fn parts(range: &Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = range.end;
    let starts = range.clone().step_by(most as usize);
    starts.map(move |start| start..(start + most).min(end))
}

/// The missing blocks of a stripe, with a slice of their bytes if they could be computed.
type Decoded = Vec<(u64, Option<Vec<u8>>)>;

/// Returns a decoder for a stripe, which keeps its memory.
fn reset(
    decoder: &mut Option<Decoder>,
    rows: u64,
    recovery: u64,
    width: usize,
) -> io::Result<&mut Decoder> {
    Ok(match decoder {
        Some(decoder) => {
            decoder.reset(rows, recovery, width)?;
            decoder
        }
        None => decoder.insert(Decoder::new(rows, recovery, width)?),
    })
}

/// Computes the missing blocks of one stripe: its number in the region, and in the batch.
fn decode(
    region: &Region,
    (stripe, n): (u64, usize),
    data: &[Row],
    recovery: &[Row],
    missing: &[u64],
    decoder: &mut Option<Decoder>,
) -> io::Result<Decoded> {
    let block_at = |row: u64| region.first + row * region.stripes + stripe;
    let good = recovery.iter().filter(|row| row.good[n]).count();
    if good < missing.len() {
        return Ok(missing.iter().map(|row| (block_at(*row), None)).collect());
    }
    let width = data[0].bytes.len() / data[0].good.len();
    let slice = n * width..(n + 1) * width;
    let rows = region.data_of(stripe);
    let decoder = reset(decoder, rows, region.recovery, width)?;
    for (row, bytes) in (0..rows).zip(data) {
        if bytes.good[n] {
            decoder.add_data(row, &bytes.bytes[slice.clone()])?;
        }
    }
    let useful = (0..).zip(recovery).filter(|(_, row)| row.good[n]);
    for (j, row) in useful.take(missing.len()) {
        decoder.add_recovery(j, &row.bytes[slice.clone()])?;
    }
    let mut out = Vec::new();
    decoder.decode(|row, bytes| out.push((block_at(row), Some(bytes.to_vec()))))?;
    Ok(out)
}

/// Reads whole blocks. The last block of the payload may end early at the end of the source.
pub(super) fn read_blocks(
    source: &dyn Source,
    offset: u64,
    buf: &mut AlignedBuf,
    blocks: usize,
) -> io::Result<()> {
    let len = blocks * PAGE;
    let there = source.len().saturating_sub(offset).min(len as u64) as usize;
    if there + PAGE <= len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let read = read_exact_at(source, &mut buf[..len], offset)?;
    if read < there {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buf[read..len].fill(0);
    Ok(())
}

/// Runs `work` on several threads with a stack that the decoder fits on. At least one thread
/// is needed, more are only faster.
pub(super) fn in_threads(
    threads: usize,
    work: impl Fn() -> io::Result<()> + Sync,
) -> io::Result<()> {
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for n in 0..threads {
            let thread = std::thread::Builder::new()
                .name(format!("heal-{n}"))
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, &work);
            match thread {
                Ok(thread) => running.push(thread),
                Err(e) if running.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        let mut result = Ok(());
        for thread in running {
            let ended = thread.join();
            let ended = ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            result = result.and(ended);
        }
        result
    })
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
