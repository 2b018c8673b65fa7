//! Where everything is: the regions and stripes of a payload, and the parts of its trailer. All
//! of it is computed from a few numbers, with checked arithmetic, because they may come from a
//! damaged or hostile header.

use std::ops::Range;

/// The length of a block in bytes.
pub const BLOCK: u64 = 4096;
/// The length of a group in bytes. A group is the smallest unit that the hash tree checks.
pub const GROUP: u64 = 16384;
/// The number of blocks in a group.
pub(super) const GROUP_BLOCKS: u64 = GROUP / BLOCK;
/// The number of chaining values in a page of the hash tree.
pub(super) const FANOUT: u64 = BLOCK / 32;
/// The number of hashes in a page of block hashes.
pub(super) const HASHES: u64 = BLOCK / 8;

/// The region length that the writer chooses, in blocks.
const REGION_BLOCKS: u64 = 1 << 20;
/// The number of data blocks of a stripe that the writer aims at.
const STRIPE_BLOCKS: u64 = 1024;
/// The largest number of data blocks of a stripe that a reader accepts.
pub(super) const MAX_DATA: u64 = 2048;
/// The largest number of recovery blocks of a stripe that a reader accepts.
pub(super) const MAX_RECOVERY: u64 = 1024;

/// The stripes of one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stripes {
    /// The number of stripes.
    pub stripes: u32,
    /// The number of recovery blocks of each.
    pub recovery: u32,
}

/// The numbers that a trailer's layout follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub payload_len: u64,
    pub headers_len: u64,
    pub percent: u32,
    pub region_blocks: u64,
    pub full: Stripes,
    pub last: Stripes,
}

/// The complete layout of a trailer. Offsets count from the start of the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    pub(super) shape: Shape,
    /// The number of blocks of the payload.
    pub(super) blocks: u64,
    /// The number of groups of the payload.
    pub(super) groups: u64,
    pub(super) regions: u64,
    pub(super) recovery_blocks: u64,
    /// The levels of the hash tree, level 0 first.
    pub(super) levels: Vec<Level>,
    pub(super) tree_len: u64,
    pub(super) hashes_len: u64,
    pub(super) meta_len: u64,
    /// The offset of the first header, which is the start of the trailer.
    pub(super) start: u64,
    pub(super) meta: [u64; 2],
    pub(super) recovery_at: u64,
    pub(super) recovery_len: u64,
    /// The offset of the second header.
    pub(super) header2: u64,
}

/// A level of the hash tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    /// The number of chaining values.
    pub values: u64,
    /// The offset of the level in the tree, in bytes.
    pub at: u64,
}

impl Level {
    pub(super) fn pages(&self) -> u64 {
        self.values.div_ceil(FANOUT)
    }

    /// Returns the number of chaining values in a page.
    pub(super) fn in_page(&self, page: u64) -> usize {
        (self.values - page * FANOUT).min(FANOUT) as usize
    }
}

/// A region of a payload and its stripes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    /// The first block of the payload in it.
    pub first: u64,
    /// The number of blocks of the payload in it.
    pub blocks: u64,
    /// The number of stripes.
    pub stripes: u64,
    /// The number of recovery blocks of each stripe.
    pub recovery: u64,
    /// Its first recovery block, counted from the first of the trailer.
    pub first_recovery: u64,
}

impl Region {
    /// Returns the number of data blocks of the longest stripe, which is the first.
    pub(super) fn rows(&self) -> u64 {
        self.blocks.div_ceil(self.stripes)
    }

    /// Returns the number of data blocks of a stripe.
    pub(super) fn data_of(&self, stripe: u64) -> u64 {
        (self.blocks - stripe).div_ceil(self.stripes)
    }

    /// Returns the data blocks at position `row` of the stripes in `stripes`: the first of them,
    /// and how many there are.
    pub(super) fn row(&self, row: u64, stripes: &Range<u64>) -> Range<u64> {
        let start = (row * self.stripes + stripes.start).min(self.blocks);
        let end = (row * self.stripes + stripes.end).min(self.blocks);
        self.first + start..self.first + end
    }

    /// Returns recovery blocks `j` of the stripes in `stripes`, counted from the first of the
    /// trailer.
    pub(super) fn recovery_row(&self, j: u64, stripes: &Range<u64>) -> Range<u64> {
        let start = self.first_recovery + j * self.stripes;
        start + stripes.start..start + stripes.end
    }
}

/// Rounds up to whole blocks.
fn whole_blocks(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(BLOCK)
}

impl Geometry {
    /// Returns the layout for a payload of `payload_len` bytes with `headers_len` bytes of
    /// headers and `percent` percent of redundancy (1 to 50). Returns `None` if it does not fit
    /// into 64 bits or there is no payload.
    pub fn plan(payload_len: u64, headers_len: u64, percent: u32) -> Option<Self> {
        Self::plan_with(
            payload_len,
            headers_len,
            percent,
            (REGION_BLOCKS, STRIPE_BLOCKS),
        )
    }

    /// Does the same as [`plan`](Self::plan()) with regions and stripes of other lengths in
    /// blocks. A reader accepts them, and with short ones a small payload has many of them.
    pub fn plan_with(
        payload_len: u64,
        headers_len: u64,
        percent: u32,
        (region_blocks, stripe_blocks): (u64, u64),
    ) -> Option<Self> {
        let blocks = payload_len.div_ceil(BLOCK);
        let last = last_region(blocks, region_blocks)?;
        let run = most_touched(payload_len, percent, region_blocks);
        let stripes_for = |blocks: u64| {
            let stripes = match blocks.div_ceil(stripe_blocks) {
                few @ 0..=2 => few.max(1),
                many => many.next_multiple_of(GROUP_BLOCKS),
            };
            let rows = blocks.div_ceil(stripes);
            let of_percent = (rows * u64::from(percent)).div_ceil(100);
            Stripes {
                stripes: stripes as u32,
                recovery: of_percent.max(run.div_ceil(stripes)).max(2) as u32,
            }
        };
        Self::of(Shape {
            payload_len,
            headers_len,
            percent,
            region_blocks,
            full: stripes_for(region_blocks),
            last: stripes_for(last),
        })
    }

    /// Computes the layout, or returns `None` if the numbers are outside the limits.
    pub(super) fn of(shape: Shape) -> Option<Self> {
        let Shape {
            payload_len,
            region_blocks,
            full,
            last,
            ..
        } = shape;
        if payload_len == 0 || !(1..=50).contains(&shape.percent) {
            return None;
        }
        if region_blocks == 0 || region_blocks % GROUP_BLOCKS != 0 {
            return None;
        }
        let blocks = payload_len.div_ceil(BLOCK);
        let regions = (blocks / region_blocks).max(1);
        let last_blocks = last_region(blocks, region_blocks)?;
        if !last.fits(last_blocks) || (regions > 1 && !full.fits(region_blocks)) {
            return None;
        }
        let of_full = u64::from(full.stripes) * u64::from(full.recovery);
        let of_last = u64::from(last.stripes) * u64::from(last.recovery);
        let recovery_blocks = (regions - 1).checked_mul(of_full)?.checked_add(of_last)?;
        let groups = payload_len.div_ceil(GROUP);
        let (levels, tree_len) = tree_levels(groups)?;
        let hashes = blocks.checked_add(recovery_blocks)?.checked_mul(8)?;
        let hashes_len = whole_blocks(hashes)?;
        let headers = whole_blocks(shape.headers_len)?;
        let meta_len = tree_len.checked_add(hashes_len)?.checked_add(headers)?;
        let start = whole_blocks(payload_len)?;
        let first = start.checked_add(BLOCK)?;
        let recovery_at = first.checked_add(meta_len)?;
        let recovery_len = recovery_blocks.checked_mul(BLOCK)?;
        let second = recovery_at.checked_add(recovery_len)?;
        let header2 = second.checked_add(meta_len)?;
        // Offsets of files have 63 bits.
        i64::try_from(header2.checked_add(BLOCK)?).ok()?;
        Some(Self {
            shape,
            blocks,
            groups,
            regions,
            recovery_blocks,
            levels,
            tree_len,
            hashes_len,
            meta_len,
            start,
            meta: [first, second],
            recovery_at,
            recovery_len,
            header2,
        })
    }

    /// Returns the length of the payload in bytes.
    pub fn payload_len(&self) -> u64 {
        self.shape.payload_len
    }

    /// Returns the percentage of redundancy that the writer was asked for.
    pub fn percent(&self) -> u32 {
        self.shape.percent
    }

    /// Returns the offset of the trailer: the first whole block behind the payload.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns the offset behind the last byte of the trailer.
    pub fn end(&self) -> u64 {
        self.header2 + BLOCK
    }

    /// Returns the stripe that the block at an offset belongs to, and how many recovery blocks
    /// the stripe has. A stripe is the first block of its region, and its number in the region.
    /// `None` for headers and metadata.
    pub fn stripe_of(&self, offset: u64) -> Option<((u64, u64), u64)> {
        if offset < self.start {
            let region = self.region_of(offset / BLOCK);
            let stripe = (offset / BLOCK - region.first) % region.stripes;
            return Some(((region.first, stripe), region.recovery));
        }
        let recovery = self.recovery_at..self.recovery_at + self.recovery_len;
        let number = recovery
            .contains(&offset)
            .then(|| (offset - self.recovery_at) / BLOCK)?;
        let region = self.region_of_recovery(number);
        let stripe = (number - region.first_recovery) % region.stripes;
        Some(((region.first, stripe), region.recovery))
    }

    /// Returns the region that a recovery block belongs to.
    pub(super) fn region_of_recovery(&self, number: u64) -> Region {
        let of_full = u64::from(self.shape.full.stripes) * u64::from(self.shape.full.recovery);
        self.region(match self.regions {
            1 => 0,
            regions => (number / of_full).min(regions - 1),
        })
    }

    /// Returns the blocks of the payload in a group.
    pub fn blocks_of(&self, group: u64) -> Range<u64> {
        let first = group * GROUP_BLOCKS;
        first..(first + GROUP_BLOCKS).min(self.blocks)
    }

    /// Returns the number of recovery blocks.
    pub fn recovery_blocks(&self) -> u64 {
        self.recovery_blocks
    }

    /// Returns the offset of the second copy of the header.
    pub fn second_header(&self) -> u64 {
        self.header2
    }

    /// Returns the offset of the second copy of the metadata.
    pub fn second_copy(&self) -> u64 {
        self.meta[1]
    }

    /// Returns the offset of the headers' copy in the metadata.
    pub(super) fn headers_in_meta(&self) -> u64 {
        self.tree_len + self.hashes_len
    }

    pub(super) fn region(&self, number: u64) -> Region {
        let Shape {
            region_blocks,
            full,
            last,
            ..
        } = self.shape;
        let is_last = number + 1 == self.regions;
        let (blocks, of) = if is_last {
            (self.blocks - number * region_blocks, last)
        } else {
            (region_blocks, full)
        };
        Region {
            first: number * region_blocks,
            blocks,
            stripes: of.stripes.into(),
            recovery: of.recovery.into(),
            first_recovery: number * u64::from(full.stripes) * u64::from(full.recovery),
        }
    }

    /// Returns the region that a block of the payload belongs to.
    pub(super) fn region_of(&self, block: u64) -> Region {
        self.region((block / self.shape.region_blocks).min(self.regions - 1))
    }

    /// Returns the number of bytes of the payload in a block.
    pub(super) fn block_len(&self, block: u64) -> usize {
        (self.shape.payload_len - block * BLOCK).min(BLOCK) as usize
    }

    /// Returns the number of bytes of the payload in a group.
    pub(super) fn group_len(&self, group: u64) -> usize {
        (self.shape.payload_len - group * GROUP).min(GROUP) as usize
    }

    /// Returns the offset of a recovery block.
    pub(super) fn recovery_offset(&self, number: u64) -> u64 {
        self.recovery_at + number * BLOCK
    }

    /// Returns the largest number of bytes in a row that can be lost and healed.
    pub fn burst(&self) -> u64 {
        let shape = &self.shape;
        longest_run(shape.payload_len, shape.percent, shape.region_blocks)
    }
}

impl Stripes {
    fn fits(&self, blocks: u64) -> bool {
        let (stripes, recovery) = (u64::from(self.stripes), u64::from(self.recovery));
        let whole_groups = stripes <= 2 || stripes % GROUP_BLOCKS == 0;
        stripes > 0
            && whole_groups
            && stripes <= blocks
            && blocks.div_ceil(stripes) <= MAX_DATA
            && (1..=MAX_RECOVERY).contains(&recovery)
    }
}

/// Returns the number of blocks of the last region.
fn last_region(blocks: u64, region_blocks: u64) -> Option<u64> {
    let regions = (blocks / region_blocks).max(1);
    blocks.checked_sub((regions - 1) * region_blocks)
}

/// Returns the longest run of damage that must be healed, in bytes.
fn longest_run(payload_len: u64, percent: u32, region_blocks: u64) -> u64 {
    let len = payload_len.min(region_blocks.saturating_mul(BLOCK));
    len / 100 * u64::from(percent) + len % 100 * u64::from(percent) / 100
}

/// Returns the largest number of blocks that this run can touch.
fn most_touched(payload_len: u64, percent: u32, region_blocks: u64) -> u64 {
    match longest_run(payload_len, percent, region_blocks) {
        few @ 0..=1 => few,
        run => (run - 2) / BLOCK + 2,
    }
}

fn tree_levels(groups: u64) -> Option<(Vec<Level>, u64)> {
    let mut levels = Vec::new();
    if groups > 1 {
        let mut values = groups;
        loop {
            levels.push(Level { values, at: 0 });
            if values <= FANOUT {
                break;
            }
            values = values.div_ceil(FANOUT);
        }
    }
    let mut at: u64 = 0;
    for level in levels.iter_mut().rev() {
        level.at = at;
        at = at.checked_add(level.pages().checked_mul(BLOCK)?)?;
    }
    Some((levels, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 14] = [
        1,
        12,
        4096,
        4097,
        16384,
        16385,
        5 << 20,
        (4 << 20) + 1,
        (8 << 20) + 4095,
        100 << 20,
        2_000_000_001,
        (4 << 30) - 1,
        (8 << 30) - 5,
        (41 << 30) + 12345,
    ];

    #[test]
    fn the_parts_of_a_trailer_follow_each_other_and_stay_below_the_promised_size() {
        for len in SIZES {
            for percent in [1, 5, 20, 50] {
                let g = Geometry::plan(len, 16 + len / 1_000_000, percent).unwrap();
                assert!(g.start >= len && g.start - len < BLOCK);
                assert_eq!(g.meta[0], g.start + BLOCK);
                assert_eq!(g.end() - g.header2, BLOCK);
                let promised = len / 100 * u64::from(percent + 2) + 65536;
                assert!(g.end() - len <= promised, "{len} {percent}: {g:?}");
            }
        }
    }

    #[test]
    fn every_block_belongs_to_one_stripe_and_the_regions_cover_all() {
        for len in SIZES {
            let g = Geometry::plan(len, 16, 5).unwrap();
            let (mut next, mut recovery) = (0, 0);
            for number in 0..g.regions {
                let r = g.region(number);
                assert_eq!((r.first, r.first_recovery), (next, recovery));
                next += r.blocks;
                recovery += r.stripes * r.recovery;
                let data: u64 = (0..r.stripes).map(|s| r.data_of(s)).sum();
                assert_eq!(data, r.blocks, "{len}");
                assert_eq!(g.region_of(next - 1), r);
                assert!(r.rows() <= 1024 && r.recovery >= 2);
            }
            assert_eq!((next, recovery), (g.blocks, g.recovery_blocks), "{len}");
        }
    }

    /// Any run of the promised length, at any block of payload or trailer, leaves each stripe
    /// with enough blocks, and one copy of the metadata and of the header.
    #[test]
    fn no_run_within_the_promise_costs_a_stripe_too_much_or_both_copies() {
        for len in [1, 20_000, 4 << 20, (4 << 20) + 1, (8 << 20) + 1, 30_000_123] {
            for percent in [1, 5, 13, 50] {
                let g = Geometry::plan(len, 1000, percent).unwrap();
                let run = most_touched(len, percent, REGION_BLOCKS);
                let r = g.region(0);
                let step = (g.end() / BLOCK / 500).max(1) as usize;
                for from in (0..g.end() / BLOCK).step_by(step) {
                    let mut lost = vec![0; r.stripes as usize];
                    let mut meta = [false; 2];
                    let mut headers = [false; 2];
                    for block in from..(from + run).min(g.end() / BLOCK) {
                        let at = block * BLOCK;
                        if block < g.blocks {
                            lost[(block % r.stripes) as usize] += 1;
                        } else if at == g.start || at == g.header2 {
                            headers[usize::from(at == g.header2)] = true;
                        } else if at >= g.recovery_at && at < g.meta[1] {
                            let number = (at - g.recovery_at) / BLOCK;
                            lost[(number % r.stripes) as usize] += 1;
                        } else {
                            meta[usize::from(at >= g.meta[1])] = true;
                        }
                    }
                    assert_ne!(meta, [true; 2], "{len} {percent} {from}");
                    assert_ne!(headers, [true; 2], "{len} {percent} {from}");
                    let most = *lost.iter().max().unwrap();
                    assert!(most <= r.recovery, "{len} {percent} {from}: {most}");
                }
            }
        }
    }

    #[test]
    fn numbers_outside_the_limits_are_refused() {
        let good = Geometry::plan(5 << 20, 16, 5).unwrap().shape;
        assert!(Geometry::of(good).is_some());
        let bad: [fn(&mut Shape); 12] = [
            |s| s.payload_len = 0,
            |s| s.payload_len = u64::MAX,
            |s| s.payload_len = i64::MAX as u64,
            |s| s.headers_len = u64::MAX,
            |s| s.region_blocks = 0,
            |s| s.region_blocks = 6,
            |s| s.last.stripes = 0,
            |s| s.last.stripes = 3,
            |s| s.last.stripes = u32::MAX - 3,
            |s| s.last.recovery = 0,
            |s| s.last.recovery = 5000,
            |s| s.percent = 0,
        ];
        for (n, change) in bad.into_iter().enumerate() {
            let mut shape = good;
            change(&mut shape);
            assert_eq!(Geometry::of(shape), None, "{n}");
        }
        assert!(Geometry::plan(u64::MAX - 5000, 16, 5).is_none());
    }
}
