//! The sizes of a copy's buffers, and the number of requests in flight.

use super::commit::BatchLimits;
use super::large::SHARED_WRITES;

/// The part of the memory limit that each file of a batch counts for, in bytes. Its page in
/// the page cache, inode, name and open file take up to 10 KiB of the kernel's memory, and
/// there are two batches and the files being staged.
const FILE_BYTES: u64 = 64 * 1024;

/// The sizes and depths of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// The size of one read or write in bytes, a multiple of a page.
    pub block_bytes: usize,
    /// The number of reads in flight.
    pub reads: usize,
    /// The number of blocks that were read and are still being hashed or written.
    pub held: usize,
    /// The number of writes in flight.
    pub writes: usize,
    /// The largest file, in bytes, that is written in one piece through the page cache.
    pub small_max: u64,
    /// The number of threads that write small files.
    pub small_writers: usize,
    /// The number of threads that hash.
    pub hashers: usize,
    /// When complete files are flushed and get their names.
    pub batch: BatchLimits,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            // The size of a huge page. Larger blocks are not faster on a disk, and in memory
            // they no longer fit in the processor's cache.
            block_bytes: 2 << 20,
            reads: 3,
            held: 3,
            writes: 3,
            small_max: 64 * 1024,
            small_writers: 1,
            hashers: std::thread::available_parallelism()
                .map_or(1, Into::into)
                .min(4),
            batch: BatchLimits::default(),
        }
    }
}

impl Tuning {
    /// Returns values that fit a memory limit of `bytes`. Five twelfths of it are for the blocks. If
    /// that is too little for the default blocks, the blocks are smaller than a huge page and
    /// more of them are in flight.
    pub fn for_memory(bytes: u64) -> Self {
        let default = Self::default();
        let batch = BatchLimits {
            // There are two batches, and the page cache counts as memory too.
            cached_bytes: default.batch.cached_bytes.min(bytes / 8),
            ..default.batch
        };
        let room = bytes / 12 * 5;
        if room >= default.blocks() * default.block_bytes as u64 {
            return Self { batch, ..default };
        }
        let files = usize::try_from(bytes / FILE_BYTES).unwrap_or(usize::MAX);
        let batch = BatchLimits {
            files: batch.files.min(files),
            ..batch
        };
        let mut tuning = Self {
            reads: 6,
            held: 6,
            writes: 6,
            batch,
            ..default
        };
        // The largest power of two that fits. Below 16 KiB, small blocks only cost time.
        let block = (room / tuning.blocks()).clamp(16 << 10, 1 << 20);
        tuning.block_bytes = 1 << block.ilog2();
        tuning.small_max = default.small_max.min(tuning.block_bytes as u64);
        tuning
    }

    /// Returns the maximum number of blocks in memory: those that are read, held and written,
    /// and the one that is being filled.
    fn blocks(&self) -> u64 {
        (self.reads + self.held + self.writes + 1) as u64
    }

    /// Returns the number of reads and writes in flight.
    pub fn in_flight(&self) -> usize {
        self.reads + self.writes
    }

    /// Returns the number of threads for everything but reads and writes: small files, hashing,
    /// the two steps of a commit, and shared blocks.
    pub fn jobs(&self) -> usize {
        2 * self.small_writers + self.hashers + 2 + SHARED_WRITES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_take_five_twelfths_of_the_memory_limit_at_most() {
        for mib in [4, 8, 16, 32, 47, 48, 49, 64, 128, 1024] {
            let tuning = Tuning::for_memory(mib << 20);
            let bytes = tuning.blocks() * tuning.block_bytes as u64;
            assert!(bytes * 12 <= (mib << 20) * 5, "{mib} MiB: {bytes}");
            assert!(tuning.block_bytes.is_power_of_two());
            assert!(tuning.small_max <= tuning.block_bytes as u64);
        }
        // What the default limit leaves if a quarter of it is for healing.
        assert_eq!(
            Tuning::for_memory(48 << 20).block_bytes,
            Tuning::default().block_bytes
        );
    }

    #[test]
    fn every_block_and_every_thread_is_counted() {
        let tuning = Tuning {
            reads: 1,
            held: 2,
            writes: 4,
            small_writers: 8,
            hashers: 16,
            ..Tuning::default()
        };
        assert_eq!(tuning.blocks(), 1 + 2 + 4 + 1);
        assert_eq!(tuning.in_flight(), 1 + 4);
        assert_eq!(tuning.jobs(), 2 * 8 + 16 + 2 + SHARED_WRITES);
    }

    #[test]
    fn two_batches_in_the_page_cache_take_a_quarter_of_the_memory_limit_at_most() {
        for mib in [4, 64, 1024] {
            let cached = Tuning::for_memory(mib << 20).batch.cached_bytes;
            assert!(cached <= BatchLimits::default().cached_bytes);
            assert!(2 * cached <= (mib << 20) / 4, "{mib} MiB: {cached}");
        }
    }
}
