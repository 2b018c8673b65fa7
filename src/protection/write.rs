//! Writes a trailer.

use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::{AlignedBuf, PAGE};

use super::code::Encoder;
use super::first_pass::FirstPass;
use super::geometry::{BLOCK, GROUP, Geometry, Region};
use super::header::Header;
use super::stripe::{in_threads, lock};
use super::tree::{ChainingValue, TreeBuilder, hash_group, short};

/// A file or device that holds a payload, and that a trailer is written to. Offsets count from
/// the start of the payload. All of them, and all lengths, are multiples of 4096, and all memory
/// is aligned to pages.
pub trait Target: Sync {
    /// Fills `buf` from `offset`, or up to the end. Returns the number of bytes read.
    ///
    /// # Errors
    /// The error that the system reports.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// The error that the system reports.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Brings everything written to stable storage.
    ///
    /// # Errors
    /// The error that the system reports.
    fn sync(&self) -> io::Result<()>;
}

/// The default memory limit of a writer, in bytes.
pub const DEFAULT_MEMORY: usize = 192 << 20;
/// What a writer needs besides the encoders, at most.
const BUFFERS: usize = 8 << 20;

/// Writes the trailer of a payload. The payload's bytes are passed to it once, in order. Stripes
/// for which there is not enough memory meanwhile are read again from the target.
pub struct TrailerWriter<'a> {
    target: &'a dyn Target,
    geometry: Geometry,
    tree: TreeBuilder,
    /// A writer for each level of the tree, level 0 first.
    levels: Vec<PartWriter<'a>>,
    hashes: PartWriter<'a>,
    headers: PartWriter<'a>,
    headers_hash: blake3::Hasher,
    first_pass: Option<FirstPass>,
    /// The start of a group that is not complete yet.
    pending: Vec<u8>,
    /// The number of bytes that came before.
    hashed: u64,
    /// The length of the file before the trailer was added.
    former_len: u64,
    root: Option<[u8; 32]>,
    /// The header that the result must have.
    expected: Option<Header>,
}

impl<'a> TrailerWriter<'a> {
    /// Starts the trailer: writes a header that is marked as incomplete, and syncs it. `memory`
    /// limits the memory in bytes. `former_len` is the length of the file before the trailer was
    /// added, or 0.
    ///
    /// # Errors
    /// The target cannot be written, or there is not enough memory.
    pub fn begin(
        target: &'a dyn Target,
        geometry: Geometry,
        memory: usize,
        former_len: u64,
    ) -> io::Result<Self> {
        let mark = Header {
            geometry: geometry.clone(),
            root: [0; 32],
            headers_hash: [0; 32],
            former_len,
            incomplete: true,
        };
        write_header(target, &mark, geometry.start)?;
        target.sync()?;
        Self::new(target, geometry, memory, former_len, None)
    }

    /// Writes a trailer again that is damaged. It must become the one with this header.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn again(target: &'a dyn Target, header: &Header, memory: usize) -> io::Result<Self> {
        let geometry = header.geometry.clone();
        Self::new(
            target,
            geometry,
            memory,
            header.former_len,
            Some(header.clone()),
        )
    }

    fn new(
        target: &'a dyn Target,
        geometry: Geometry,
        memory: usize,
        former_len: u64,
        expected: Option<Header>,
    ) -> io::Result<Self> {
        let large = (memory / 32).clamp(PAGE, 1 << 20) / PAGE * PAGE;
        let metas = geometry.meta;
        let part = |at: u64, size| PartWriter::new(target, metas.map(|meta| meta + at), size);
        let mut levels = Vec::new();
        for (n, level) in geometry.levels.iter().enumerate() {
            levels.push(part(level.at, if n == 0 { large } else { PAGE })?);
        }
        Ok(Self {
            tree: TreeBuilder::new(levels.len()),
            levels,
            hashes: part(geometry.tree_len, large)?,
            headers: part(geometry.headers_in_meta(), 16 * PAGE)?,
            headers_hash: blake3::Hasher::new(),
            first_pass: FirstPass::new(&geometry, memory.saturating_sub(BUFFERS)),
            pending: Vec::with_capacity(GROUP as usize),
            hashed: 0,
            former_len,
            root: None,
            expected,
            target,
            geometry,
        })
    }

    /// Returns whether a part of the payload will be read again.
    pub fn reads_again(&self) -> bool {
        self.first_pass.as_ref().is_none_or(|pass| !pass.is_all())
    }

    /// Adds bytes to the copy of the payload's headers.
    ///
    /// # Errors
    /// The target cannot be written.
    pub fn headers(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.headers_hash.update(bytes);
        self.headers.put(bytes)
    }

    /// Adds the next bytes of the payload, headers included.
    ///
    /// # Errors
    /// The target cannot be written.
    pub fn payload(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.pending.is_empty() && bytes.len() >= GROUP as usize {
                let (group, rest) = bytes.split_at(GROUP as usize);
                self.group(group)?;
                bytes = rest;
                continue;
            }
            let room = GROUP as usize - self.pending.len();
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(part);
            bytes = rest;
            if self.pending.len() == GROUP as usize {
                let group = std::mem::take(&mut self.pending);
                self.group(&group)?;
                self.pending = group;
                self.pending.clear();
            }
        }
        Ok(())
    }

    fn group(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut hashes = Vec::with_capacity(4);
        let value = hash_group(bytes, self.hashed, &mut hashes);
        if let Some(first_pass) = &mut self.first_pass {
            first_pass.add(bytes)?;
        }
        self.hashed += bytes.len() as u64;
        if self.geometry.groups == 1 {
            self.root = Some(*blake3::hash(bytes).as_bytes());
        }
        self.hashes.put(hashes.as_flattened())?;
        let levels = &mut self.levels;
        self.tree.add(value, &mut |level, values| {
            write_page(levels, level, values)
        })
    }

    /// Reads the payload again, as far as necessary, and writes the rest of the trailer. The headers
    /// come last, after everything else is on stable storage. `third` is the offset of a third
    /// header.
    ///
    /// `memory` limits the memory in bytes. `advance` is called with the number of bytes that
    /// were encoded since the last call, and may return an error to stop.
    ///
    /// # Errors
    /// The target cannot be read or written, or not all bytes of the payload were added.
    pub fn finish(
        mut self,
        third: Option<u64>,
        memory: usize,
        advance: &(dyn Fn(u64) -> io::Result<()> + Sync),
    ) -> io::Result<Header> {
        if !self.pending.is_empty() {
            let group = std::mem::take(&mut self.pending);
            self.group(&group)?;
        }
        if self.hashed != self.geometry.payload_len()
            || self.headers.put_so_far() != self.geometry.shape.headers_len
        {
            return Err(io::Error::other(
                "the payload has another length than planned",
            ));
        }
        let levels = &mut self.levels;
        let root = self
            .tree
            .finish(&mut |level, values| write_page(levels, level, values))?
            .or(self.root)
            .ok_or_else(|| io::Error::other("there is no payload"))?;
        for number in 0..self.geometry.regions {
            let region = self.geometry.region(number);
            let memory = memory.saturating_sub(BUFFERS);
            let mut hashes = vec![[0; 8]; (region.stripes * region.recovery) as usize];
            let mut rest = 0..region.stripes;
            if let Some(first_pass) = self.first_pass.take() {
                rest.start = first_pass.stripes;
                let left = rest
                    .clone()
                    .map(|stripe| region.data_of(stripe))
                    .sum::<u64>();
                let len = self.geometry.payload_len();
                advance(len.saturating_sub(left * BLOCK))?;
                let target = self.target;
                let write = |bytes: &[u8], at| target.write_all_at(bytes, at);
                first_pass.finish(&self.geometry, &mut hashes, &write)?;
            }
            let left = (&region, rest);
            encode(
                self.target,
                &self.geometry,
                left,
                memory,
                advance,
                &mut hashes,
            )?;
            self.hashes.put(hashes.as_flattened())?;
        }
        self.levels.iter_mut().try_for_each(PartWriter::flush)?;
        self.hashes.flush()?;
        self.headers.flush()?;
        let header = Header {
            geometry: self.geometry.clone(),
            root,
            headers_hash: *self.headers_hash.finalize().as_bytes(),
            former_len: self.former_len,
            incomplete: false,
        };
        if self.expected.is_some_and(|expected| expected != header) {
            return Err(io::Error::other("the trailer would not match the payload"));
        }
        // After a power failure, a header is there only if all the rest is.
        self.target.sync()?;
        let places = [
            Some(self.geometry.header2),
            third,
            Some(self.geometry.start),
        ];
        for at in places.into_iter().flatten() {
            write_header(self.target, &header, at)?;
        }
        self.target.sync()?;
        Ok(header)
    }
}

/// Writes a copy of a header.
pub(super) fn write_header(target: &dyn Target, header: &Header, at: u64) -> io::Result<()> {
    let mut buf = AlignedBuf::new(PAGE)?;
    buf[..PAGE].copy_from_slice(&header.encode());
    target.write_all_at(&buf[..PAGE], at)
}

fn write_page(
    levels: &mut [PartWriter<'_>],
    level: usize,
    values: &[ChainingValue],
) -> io::Result<()> {
    levels[level].put(values.as_flattened())?;
    levels[level].pad()
}

/// Writes one part of the metadata in order, to both copies.
struct PartWriter<'a> {
    target: &'a dyn Target,
    at: [u64; 2],
    buf: AlignedBuf,
    size: usize,
    filled: usize,
    flushed: u64,
}

impl<'a> PartWriter<'a> {
    fn new(target: &'a dyn Target, at: [u64; 2], size: usize) -> io::Result<Self> {
        Ok(Self {
            target,
            at,
            buf: AlignedBuf::new(size)?,
            size,
            filled: 0,
            flushed: 0,
        })
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = bytes.len().min(self.size - self.filled);
            self.buf[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == self.size {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Returns the number of bytes that were put.
    fn put_so_far(&self) -> u64 {
        self.flushed + self.filled as u64
    }

    /// Fills the current page up with zeros.
    fn pad(&mut self) -> io::Result<()> {
        let end = self.filled.next_multiple_of(PAGE);
        self.buf[self.filled..end].fill(0);
        self.filled = end;
        if self.filled == self.size {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let len = self.filled.next_multiple_of(PAGE);
        if len == 0 {
            return Ok(());
        }
        self.buf[self.filled..len].fill(0);
        for at in &mut self.at {
            self.target.write_all_at(&self.buf[..len], *at)?;
            *at += len as u64;
        }
        self.flushed += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

/// Writes the recovery blocks of some stripes of a region, and sets their hashes.
fn encode(
    target: &dyn Target,
    geometry: &Geometry,
    (region, all): (&Region, Range<u64>),
    memory: usize,
    advance: &(dyn Fn(u64) -> io::Result<()> + Sync),
    hashes: &mut [[u8; 8]],
) -> io::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let hashes = Mutex::new(hashes);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (rows, recovery) = (region.rows(), region.recovery as usize);
    let of_a_stripe =
        |width| Encoder::memory(rows, region.recovery, width) + recovery * PAGE + PAGE;
    let threads = cores.min(4).min((memory / of_a_stripe(PAGE)).max(1));
    let memory = memory / threads;
    let mut width = PAGE;
    while width > 64 && of_a_stripe(width) > memory {
        width /= 2;
    }
    let most = (all.end - all.start).div_ceil(threads as u64);
    let batch = match width {
        PAGE => ((memory / of_a_stripe(PAGE)) as u64).clamp(1, most),
        _ => 1,
    };
    let next = AtomicU64::new(all.start);
    in_threads(threads, || {
        let mut encoders = Vec::new();
        let mut read = AlignedBuf::new(batch as usize * PAGE)?;
        let mut out = AlignedBuf::new(batch as usize * recovery * PAGE)?;
        loop {
            let start = next.fetch_add(batch, Ordering::Relaxed);
            if start >= all.end {
                return Ok(());
            }
            let stripes = start..(start + batch).min(all.end);
            let count = (stripes.end - stripes.start) as usize;
            for at in (0..PAGE).step_by(width) {
                for (n, stripe) in stripes.clone().enumerate() {
                    let data = region.data_of(stripe);
                    match encoders.get_mut(n) {
                        None => encoders.push(Encoder::new(data, region.recovery, width)?),
                        Some(encoder) => encoder.reset(data, region.recovery, width)?,
                    }
                }
                for row in 0..rows {
                    let blocks = region.row(row, &stripes);
                    let len = (blocks.end - blocks.start) as usize * PAGE;
                    if len == 0 {
                        continue;
                    }
                    let offset = blocks.start * BLOCK;
                    let n = target.read_at(&mut read[..len], offset)?;
                    let there = (geometry.payload_len() - offset).min(len as u64) as usize;
                    if n < there {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    read[there..len].fill(0);
                    for (block, encoder) in read[..len].chunks(PAGE).zip(&mut encoders) {
                        encoder.add(&block[at..at + width])?;
                    }
                    if at == 0 {
                        advance(there as u64)?;
                    }
                }
                for (n, encoder) in encoders.iter_mut().enumerate().take(count) {
                    encoder.encode(|j, bytes| {
                        let to = (j * count + n) * PAGE + at;
                        out[to..to + width].copy_from_slice(bytes);
                    })?;
                }
            }
            for j in 0..region.recovery {
                let numbers = region.recovery_row(j, &stripes);
                let from = j as usize * count * PAGE;
                let bytes = &out[from..from + count * PAGE];
                target.write_all_at(bytes, geometry.recovery_offset(numbers.start))?;
                let first = (numbers.start - region.first_recovery) as usize;
                let mut hashes = lock(&hashes);
                for (n, block) in bytes.chunks(PAGE).enumerate() {
                    hashes[first + n] = short(blake3::hash(block).as_bytes());
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Memory(Mutex<Vec<u8>>);

    impl Target for Memory {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let bytes = lock(&self.0);
            let there = bytes.get(offset as usize..).unwrap_or_default();
            let n = there.len().min(buf.len());
            buf[..n].copy_from_slice(&there[..n]);
            Ok(n)
        }

        fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
            let mut bytes = lock(&self.0);
            let end = offset as usize + buf.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset as usize..end].copy_from_slice(buf);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_trailer_does_not_depend_on_how_much_is_encoded_in_the_first_pass() {
        // One stripe, two, many with more than one chunk of rows, and one with a short last row.
        for (len, percent, stripe) in [
            (5000, 5, 1024),
            (60_000, 50, 8),
            (400_000, 5, 13),
            (700_001, 20, 16),
        ] {
            let payload: Vec<u8> = (0..len)
                .map(|n: u32| (n.wrapping_mul(n) >> 7) as u8)
                .collect();
            let plan = Geometry::plan_with(len.into(), 16, percent, (1 << 20, stripe));
            let geometry = plan.unwrap();
            let region = geometry.region(0);
            let of_a_quad = 8 * PAGE * region.recovery.next_power_of_two() as usize;
            let trailers = [0, 1, 2, 3, 1000].map(|quads| {
                let memory = BUFFERS + quads * of_a_quad;
                let target = Memory(Mutex::new(payload.clone()));
                let mut writer =
                    TrailerWriter::begin(&target, geometry.clone(), memory, 0).unwrap();
                let stripes = writer.first_pass.as_ref().map_or(0, |pass| pass.stripes);
                assert!(stripes == region.stripes || stripes == 4 * quads as u64);
                writer.headers(&[7; 16]).unwrap();
                for part in payload.chunks(33_333) {
                    writer.payload(part).unwrap();
                }
                let advanced = AtomicU64::new(0);
                let advance = |bytes| {
                    advanced.fetch_add(bytes, Ordering::Relaxed);
                    Ok(())
                };
                writer.finish(None, memory, &advance).unwrap();
                let advanced = advanced.into_inner();
                assert!(advanced <= len.into() && advanced + BLOCK > len.into());
                target.0.into_inner().unwrap()
            });
            for trailer in &trailers[1..] {
                assert!(*trailer == trailers[0], "{len} {percent} {stripe}");
            }
        }
    }
}
