//! The hash tree: BLAKE3's own, in pages of 128 chaining values.

pub(super) use blake3::hazmat::ChainingValue;
use blake3::hazmat::{
    HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use super::geometry::{BLOCK, FANOUT, GROUP};

/// Returns the chaining value of the subtree that covers `bytes`, which start at `offset` of the
/// payload. They are a block or a group, or the rest of the payload.
pub(super) fn chaining_value(bytes: &[u8], offset: u64) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Returns the chaining value of a group from those of its blocks.
pub(super) fn join(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [] => [0; 32],
        [one] => *one,
        _ => {
            let (left, right) = values.split_at(left_of(values.len()));
            merge_subtrees_non_root(&join(left), &join(right), Mode::Hash)
        }
    }
}

/// Returns the root hash from the values of the highest page, of which there are at least two.
pub(super) fn join_root(values: &[ChainingValue]) -> [u8; 32] {
    let (left, right) = values.split_at(left_of(values.len()));
    *merge_subtrees_root(&join(left), &join(right), Mode::Hash).as_bytes()
}

/// Returns the largest power of two below `count`, which is at least 2.
fn left_of(count: usize) -> usize {
    left_subtree_len(count as u64 * 1024) as usize / 1024
}

/// Returns the chaining values in a page.
pub(super) fn values(page: &[u8], count: usize) -> Vec<ChainingValue> {
    page.chunks_exact(32)
        .take(count)
        .map(|value| {
            let mut out = [0; 32];
            out.copy_from_slice(value);
            out
        })
        .collect()
}

/// Takes a complete page: its level and its values.
type EachPage<'a, E> = dyn FnMut(usize, &[ChainingValue]) -> Result<(), E> + 'a;

/// Builds the tree while the chaining values of the groups arrive in order. A page is passed on
/// when it is complete.
pub(super) struct TreeBuilder {
    /// The values of the current page of each level, level 0 first.
    current: Vec<Vec<ChainingValue>>,
    last: usize,
}

impl TreeBuilder {
    /// Creates a builder for a tree with `levels` levels.
    pub(super) fn new(levels: usize) -> Self {
        let page = || Vec::with_capacity(FANOUT as usize);
        Self {
            current: (0..levels).map(|_| page()).collect(),
            last: levels.saturating_sub(1),
        }
    }

    /// Adds the value of the next group. Passes each complete page, and its level, to `page`.
    pub(super) fn add<E>(
        &mut self,
        value: ChainingValue,
        page: &mut EachPage<'_, E>,
    ) -> Result<(), E> {
        let mut next = value;
        for level in 0..self.current.len() {
            // The page of the level above stays here until the end.
            let values = &mut self.current[level];
            if values.len() == FANOUT as usize && level < self.last {
                let joined = join(values);
                page(level, values)?;
                values.clear();
                values.push(next);
                next = joined;
            } else {
                values.push(next);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Passes on the rest of the pages, and returns the root hash. `None` if there is no level.
    pub(super) fn finish<E>(mut self, page: &mut EachPage<'_, E>) -> Result<Option<[u8; 32]>, E> {
        let mut root = None;
        for level in 0..self.current.len() {
            let values = std::mem::take(&mut self.current[level]);
            page(level, &values)?;
            if level == self.last {
                root = Some(join_root(&values));
                break;
            }
            let mut next = join(&values);
            // The level above may be full too.
            for above in level + 1..self.current.len() {
                let values = &mut self.current[above];
                if values.len() == FANOUT as usize && above < self.last {
                    let joined = join(values);
                    page(above, values)?;
                    values.clear();
                    values.push(next);
                    next = joined;
                } else {
                    values.push(next);
                    break;
                }
            }
        }
        Ok(root)
    }
}

/// Returns the chaining value of a group and the block hashes in it, from its bytes.
pub(super) fn hash_group(bytes: &[u8], offset: u64, hashes: &mut Vec<[u8; 8]>) -> ChainingValue {
    debug_assert!(bytes.len() as u64 <= GROUP);
    let mut values = [[0; 32]; 4];
    let mut count = 0;
    for (block, at) in bytes
        .chunks(BLOCK as usize)
        .zip((offset..).step_by(BLOCK as usize))
    {
        values[count] = chaining_value(block, at);
        hashes.push(short(&values[count]));
        count += 1;
    }
    join(&values[..count])
}

/// Returns the first 8 bytes of a hash.
pub(super) fn short(hash: &[u8; 32]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&hash[..8]);
    out
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::geometry::Geometry;
    use super::*;

    #[test]
    fn the_root_is_the_blake3_hash_of_the_payload() {
        let mut sizes = vec![
            1,
            4096,
            16384,
            16385,
            3 * 16384 + 77,
            128 * 16384,
            129 * 16384,
        ];
        sizes.extend([128 * 16384 + 1, 128 * 128 * 16384 / 8 + 5]);
        for size in sizes {
            let data: Vec<u8> = (0..size).map(|n: usize| (n * 31 % 251) as u8).collect();
            let geometry = Geometry::plan(size as u64, 16, 5).unwrap();
            let mut builder = TreeBuilder::new(geometry.levels.len());
            let mut pages = vec![0; geometry.levels.len()];
            let mut note = |level: usize, values: &[ChainingValue]| {
                let shape = geometry.levels[level];
                assert_eq!(values.len(), shape.in_page(pages[level]), "{size} {level}");
                pages[level] += 1;
                Ok::<(), Infallible>(())
            };
            let mut hashes = Vec::new();
            for (n, group) in data.chunks(GROUP as usize).enumerate() {
                let offset = n as u64 * GROUP;
                let value = hash_group(group, offset, &mut hashes);
                assert_eq!(value, chaining_value(group, offset));
                builder.add(value, &mut note).unwrap();
            }
            let root = builder.finish(&mut note).unwrap();
            if size > GROUP as usize {
                assert_eq!(root.unwrap(), *blake3::hash(&data).as_bytes(), "{size}");
            }
            let counts: Vec<u64> = geometry.levels.iter().map(|l| l.pages()).collect();
            assert_eq!(pages, counts, "{size}");
        }
    }

    /// Three levels: 128 pages of level 0 and one group more.
    #[test]
    fn a_tree_of_three_levels_has_the_root_of_its_values() {
        let count = 128 * 128 + 1;
        let all: Vec<ChainingValue> = (0..count as u64)
            .map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes())
            .collect();
        for count in [count, 128 * 128, 128 * 127 + 1] {
            let geometry = Geometry::plan(count as u64 * GROUP, 16, 5).unwrap();
            let mut builder = TreeBuilder::new(geometry.levels.len());
            let mut none = |_: usize, _: &[ChainingValue]| Ok::<(), Infallible>(());
            for value in &all[..count] {
                builder.add(*value, &mut none).unwrap();
            }
            let root = builder.finish(&mut none).unwrap().unwrap();
            assert_eq!(root, join_root(&all[..count]), "{count}");
        }
    }
}
