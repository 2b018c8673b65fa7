//! How large the pieces of a copy are, and how many are in flight.

use super::commit::Due;
use super::copy::SHARED_WRITES;

/// Sizes and depths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes of one read or write: a multiple of a page.
    pub block_bytes: usize,
    /// Reads in flight.
    pub reads: usize,
    /// Blocks that were read and are still being hashed or written.
    pub held: usize,
    /// Writes in flight.
    pub writes: usize,
    /// Files up to this size are written whole, through the page cache.
    pub small_max: u64,
    /// Threads that write small files.
    pub small_writers: usize,
    /// Threads that hash.
    pub hashers: usize,
    /// When complete files are flushed and named.
    pub due: Due,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            block_bytes: 1 << 20,
            reads: 6,
            held: 6,
            writes: 6,
            small_max: 64 * 1024,
            small_writers: 1,
            hashers: std::thread::available_parallelism()
                .map_or(1, Into::into)
                .min(4),
            due: Due::default(),
        }
    }
}

impl Tuning {
    /// What fits a budget of `bytes` for everything: a third of it for the blocks,
    /// which are smaller and fewer where it is less than the default's 64 MiB.
    pub fn for_memory(bytes: u64) -> Self {
        let default = Self::default();
        let blocks = (default.reads + default.held + default.writes + 1) as u64;
        // Larger blocks gain nothing, and smaller ones than 16 KiB only cost.
        let room = (bytes / 3 / blocks).clamp(16 << 10, 1 << 20);
        // The largest power of two that fits.
        let block_bytes = 1_usize << room.ilog2();
        Self {
            block_bytes,
            small_max: default.small_max.min(block_bytes as u64),
            due: Due {
                // Of two batches: the page cache is memory too.
                cached_bytes: default.due.cached_bytes.min(bytes / 8),
                ..default.due
            },
            ..default
        }
    }

    /// Reads and writes at once.
    pub fn in_flight(&self) -> usize {
        self.reads + self.writes
    }

    /// Threads for everything that is no read or write: small files, hashing, a
    /// commit's two steps, shared blocks.
    pub fn jobs(&self) -> usize {
        2 * self.small_writers + self.hashers + 2 + SHARED_WRITES
    }
}
