//! Computes damaged blocks from the other blocks of their stripes.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::{AlignedBuf, PAGE, Source, read_exact_at};

use super::code::{Decoder, STACK_BYTES};
use super::geometry::{BLOCK, GROUP_BLOCKS, Region};
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

/// The result for one stripe of a batch.
#[derive(Default)]
pub(super) struct Healed {
    /// The damaged blocks of the payload, with their bytes.
    pub blocks: HashMap<u64, Box<Block>>,
    /// The damaged blocks that could not be computed.
    pub lost: Vec<u64>,
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

    /// Computes the damaged blocks of the payload in some stripes of a region, which are at most
    /// as many as [`Batch::fit`] allows.
    pub(super) fn heal(&self, region: &Region, stripes: Range<u64>) -> io::Result<Healed> {
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
                let mut healed = healed.lock().unwrap_or_else(PoisonError::into_inner);
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
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
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
                done.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((row, read));
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
        let g = self.meta.geometry();
        let offset = match recovery {
            true => g.recovery_offset(numbers.start),
            false => numbers.start * BLOCK,
        };
        let mut buf = AlignedBuf::new(blocks * PAGE)?;
        let whole = read_blocks(&*self.meta.source, offset, &mut buf, blocks).is_ok();
        let mut one = AlignedBuf::new(PAGE)?;
        for (n, number) in numbers.enumerate() {
            let at = n * PAGE;
            let mut good = if recovery {
                let good = whole && self.recovery_is_good(number, &buf[at..at + PAGE]);
                let read = !good && self.read_recovery(number, &mut one);
                if read {
                    buf[at..at + PAGE].copy_from_slice(&one[..PAGE]);
                }
                good || read
            } else {
                let len = g.block_len(number);
                buf[at + len..at + PAGE].fill(0);
                whole && self.is_good(number, &buf[at..at + len])
            };
            if !good && !recovery && self.read_block(number, &mut one).is_some() {
                buf[at..at + PAGE].copy_from_slice(&one[..PAGE]);
                good = true;
            }
            row.good[n] = good;
            let from = at + slice.start;
            row.bytes[n * slice.len()..(n + 1) * slice.len()]
                .copy_from_slice(&buf[from..from + slice.len()]);
        }
        Ok(row)
    }
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
