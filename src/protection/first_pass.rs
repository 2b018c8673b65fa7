//! Computes recovery blocks while the payload arrives, so that it need not be read again.

use std::io;
use std::sync::Mutex;

use crate::block::{AlignedBuf, PAGE};

use super::code::{Transform, add};
use super::geometry::{BLOCK, GROUP_BLOCKS, Geometry, Region};
use super::stripe::{in_threads, lock};
use super::tree::short;

/// The length of a tile in bytes, if it can be that short. It stays in the processor's cache.
const TILE: usize = 256 << 10;

/// The recovery blocks of the first stripes of a region: of as many as there is memory for.
///
/// The rows of these stripes are collected until there are enough for a transform of the code, and
/// are then added to what becomes the recovery blocks. Both are divided into tiles. A tile has the
/// same bytes of each block of a stripe.
pub(super) struct FirstPass {
    region: Region,
    /// The number of stripes.
    pub stripes: u64,
    /// The number of rows of a transform.
    height: usize,
    /// The number of bytes of a block in a tile.
    width: usize,
    rows: Vec<[u8; 64]>,
    sums: Vec<[u8; 64]>,
    /// The number of blocks that have arrived.
    blocks: u64,
}

impl FirstPass {
    /// Chooses the stripes for a memory limit in bytes. Returns `None` if it is too small, or if the
    /// payload has several regions.
    pub(super) fn new(geometry: &Geometry, memory: usize) -> Option<Self> {
        if geometry.regions > 1 {
            return None;
        }
        let region = geometry.region(0);
        let height = region.recovery.next_power_of_two() as usize;
        let most = (memory / (2 * height * PAGE)) as u64;
        let stripes = match most / GROUP_BLOCKS * GROUP_BLOCKS {
            most if most >= region.stripes => region.stripes,
            most => most,
        };
        let numbers = stripes as usize * height * PAGE / 64;
        (stripes > 0).then(|| Self {
            region,
            stripes,
            height,
            width: (TILE / height).next_power_of_two().clamp(64, PAGE),
            rows: vec![[0; 64]; numbers],
            sums: vec![[0; 64]; numbers],
            blocks: 0,
        })
    }

    /// Returns whether these are all stripes.
    pub(super) fn is_all(&self) -> bool {
        self.stripes == self.region.stripes
    }

    /// Takes the next bytes of the payload: whole blocks, except at its end.
    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        for block in bytes.chunks(PAGE) {
            let (row, stripe) = (
                self.blocks / self.region.stripes,
                self.blocks % self.region.stripes,
            );
            if stripe == 0 && row > 0 && row % self.height as u64 == 0 {
                self.transform(row)?;
            }
            self.blocks += 1;
            if stripe < self.stripes {
                self.put(row, stripe, block);
            }
        }
        Ok(())
    }

    /// Sets a block, filled up with zeros.
    fn put(&mut self, row: u64, stripe: u64, block: &[u8]) {
        let (width, height) = (self.width / 64, self.height);
        let at = (row % height as u64) as usize * width;
        let tiles = PAGE / self.width;
        for (n, part) in (0..tiles).map(|n| (n, block.get(n * self.width..).unwrap_or_default())) {
            let tile = (stripe as usize * tiles + n) * height * width;
            let out = self.rows[tile + at..tile + at + width].as_flattened_mut();
            let part = &part[..part.len().min(out.len())];
            out[..part.len()].copy_from_slice(part);
            out[part.len()..].fill(0);
        }
    }

    /// Adds the last rows that were collected, before row `end`.
    fn transform(&mut self, end: u64) -> io::Result<()> {
        let size = self.height * self.width / 64;
        let first = (end - 1) / self.height as u64 * self.height as u64;
        let tiles = self.rows.chunks_mut(size).zip(self.sums.chunks_mut(size));
        each_in_threads(tiles, &|code, (rows, sums)| {
            code.add_chunk(rows, self.height, first as usize, (end - first) as usize);
            add(sums.as_flattened_mut(), rows.as_flattened());
            Ok(())
        })
    }

    /// Passes the recovery blocks to `write`, with their offsets, and sets their hashes.
    pub(super) fn finish(
        mut self,
        geometry: &Geometry,
        hashes: &mut [[u8; 8]],
        write: &(dyn Fn(&[u8], u64) -> io::Result<()> + Sync),
    ) -> io::Result<()> {
        let rows = self.region.rows();
        for stripe in 0..self.stripes {
            if self.region.data_of(stripe) < rows {
                self.put(rows - 1, stripe, &[]);
            }
        }
        self.transform(rows)?;
        let (size, recovery) = (self.height * self.width / 64, self.region.recovery as usize);
        each_in_threads(self.sums.chunks_mut(size), &|code, sums| {
            code.finish(sums, self.height, recovery);
            Ok(())
        })?;
        let hashes = Mutex::new(hashes);
        each_in_threads(0..recovery, &|_, j| {
            let mut buf = AlignedBuf::new(self.stripes as usize * PAGE)?;
            let tiles = self.sums.chunks(size);
            for (tile, out) in tiles.zip(buf.chunks_mut(self.width)) {
                let width = self.width / 64;
                out.copy_from_slice(tile[j * width..(j + 1) * width].as_flattened());
            }
            let first = j as u64 * self.region.stripes;
            write(&buf, geometry.recovery_offset(first))?;
            let found: Vec<[u8; 8]> = buf
                .chunks(BLOCK as usize)
                .map(|block| short(blake3::hash(block).as_bytes()))
                .collect();
            lock(&hashes)[first as usize..first as usize + found.len()].copy_from_slice(&found);
            Ok(())
        })
    }
}

/// Passes items to threads, and each of them the code.
fn each_in_threads<T: Send>(
    items: impl Iterator<Item = T> + Send,
    take: &(dyn Fn(&Transform, T) -> io::Result<()> + Sync),
) -> io::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let items = Mutex::new(items);
    in_threads(cores.min(4), || {
        let code = Transform::default();
        loop {
            let item = lock(&items).next();
            let Some(item) = item else {
                return Ok(());
            };
            take(&code, item)?;
        }
    })
}
