//! The hash tree and the block hashes of a trailer, read page by page from either copy.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use blake3::hazmat::ChainingValue;

use crate::block::{AlignedBuf, PAGE, Source, read_exact_at};

use super::geometry::{BLOCK, FANOUT, GROUP, Geometry, HASHES};
use super::header::Header;
use super::tree::{chaining_value, join, join_root, values};

type Page = Arc<[u8]>;

/// The number of pages that are read at once where pages are needed in order.
const AHEAD: u64 = 64;

/// The metadata of a trailer.
pub(super) struct Metadata {
    pub(super) source: Arc<dyn Source>,
    /// Other copies of the payload. They may have the same trailer, another one, or none.
    pub(super) others: Vec<Arc<dyn Source>>,
    pub(super) header: Header,
    tree: Cache,
    hashes: Cache,
    /// The offset behind the last read of the tree, to detect reads in order.
    expected: AtomicU64,
}

/// A limited number of pages.
struct Cache {
    kept: Mutex<Kept>,
    limit: usize,
}

#[derive(Default)]
struct Kept {
    pages: HashMap<u64, Page>,
    /// Their keys, in any order.
    keys: Vec<u64>,
}

impl Cache {
    fn new(bytes: usize) -> Self {
        Self {
            kept: Mutex::default(),
            limit: (bytes / PAGE).max(16),
        }
    }

    fn get(&self, key: u64) -> Option<Page> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pages.get(&key).cloned()
    }

    fn put(&self, key: u64, page: Page) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.pages.insert(key, page).is_some() {
            return;
        }
        if kept.keys.len() < self.limit {
            kept.keys.push(key);
            return;
        }
        // Any page makes room: a stripe needs all pages once, so the oldest would be needed next.
        // It must not be the same place each time: that may be where the highest page is, which
        // all others need.
        let mixed = (key / PAGE as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let place = (mixed % self.limit as u64) as usize;
        let old = std::mem::replace(&mut kept.keys[place], key);
        kept.pages.remove(&old);
    }
}

/// What the hash tree says about the bytes of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Right,
    Wrong,
    /// The page of the tree is lost in both copies.
    Unknown,
}

impl Metadata {
    /// `memory` is the number of bytes that pages may take.
    pub(super) fn new(source: Arc<dyn Source>, header: Header, memory: usize) -> Self {
        Self {
            source,
            others: Vec::new(),
            header,
            tree: Cache::new(memory / 2),
            hashes: Cache::new(memory / 2),
            expected: AtomicU64::new(0),
        }
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.header.geometry
    }

    /// Compares the bytes of a group with the tree.
    pub(super) fn check(&self, group: u64, bytes: &[u8]) -> Check {
        if self.geometry().groups == 1 {
            return match *blake3::hash(bytes).as_bytes() == self.header.root {
                true => Check::Right,
                false => Check::Wrong,
            };
        }
        let offset = group * GROUP;
        match self.value(0, group) {
            None => Check::Unknown,
            Some(value) if value == chaining_value(bytes, offset) => Check::Right,
            Some(_) => Check::Wrong,
        }
    }

    /// Returns whether the tree can check a group.
    pub(super) fn knows(&self, group: u64) -> bool {
        self.geometry().groups == 1 || self.page(0, group / FANOUT).is_some()
    }

    /// Returns a chaining value of a level.
    fn value(&self, level: usize, number: u64) -> Option<ChainingValue> {
        let page = self.page(level, number / FANOUT)?;
        let at = (number % FANOUT) as usize * 32;
        let mut value = [0; 32];
        value.copy_from_slice(&page[at..at + 32]);
        Some(value)
    }

    /// Returns a page of the tree that has been checked, from the cache or from either copy.
    fn page(&self, level: usize, page: u64) -> Option<Page> {
        let shape = self.geometry().levels[level];
        let key = shape.at + page * BLOCK;
        if let Some(page) = self.tree.get(key) {
            return Some(page);
        }
        let in_order = self.expected.load(Ordering::Relaxed) == key;
        let ahead = if in_order || shape.pages() <= AHEAD {
            AHEAD
        } else {
            4
        };
        let count = ahead
            .min(shape.pages() - page)
            .min(self.tree.limit as u64 / 2);
        if let Ok(bytes) = self.read(self.geometry().meta[0] + key, count) {
            for (n, one) in bytes.chunks(PAGE).enumerate() {
                if self.is_right(level, page + n as u64, one) {
                    self.tree.put(key + n as u64 * BLOCK, one.into());
                }
            }
            self.expected.store(key + count * BLOCK, Ordering::Relaxed);
        }
        if let Some(page) = self.tree.get(key) {
            return Some(page);
        }
        let bytes = self.stored_page(level, page)?;
        self.tree.put(key, Arc::clone(&bytes));
        Some(bytes)
    }

    /// Reads a page of the tree from wherever it is intact.
    pub(super) fn stored_page(&self, level: usize, page: u64) -> Option<Page> {
        let mut sources = std::iter::once(&self.source).chain(&self.others);
        sources
            .find_map(|source| (0..2).find_map(|copy| self.tree_page_of(source, copy, level, page)))
    }

    /// Reads a page of one copy of the tree in the source itself. Returns `None` if it is damaged.
    pub(super) fn tree_page(&self, copy: usize, level: usize, page: u64) -> Option<Page> {
        self.tree_page_of(&self.source, copy, level, page)
    }

    fn tree_page_of(
        &self,
        source: &Arc<dyn Source>,
        copy: usize,
        level: usize,
        page: u64,
    ) -> Option<Page> {
        let at = self.geometry().levels[level].at + page * BLOCK;
        let bytes = read_pages(&**source, self.geometry().meta[copy] + at, 1).ok()?;
        self.is_right(level, page, &bytes)
            .then(|| bytes[..PAGE].into())
    }

    fn is_right(&self, level: usize, page: u64, bytes: &[u8]) -> bool {
        let shape = self.geometry().levels[level];
        let values = values(bytes, shape.in_page(page));
        if level + 1 == self.geometry().levels.len() {
            return join_root(&values) == self.header.root;
        }
        self.value(level + 1, page) == Some(join(&values))
    }

    /// Adds a page of the tree that was computed from the payload, if it is the right one.
    pub(super) fn offer(&self, level: usize, page: u64, values: &[ChainingValue]) -> bool {
        let mut bytes = vec![0; PAGE];
        for (out, value) in bytes.chunks_exact_mut(32).zip(values) {
            out.copy_from_slice(value);
        }
        let right = self.is_right(level, page, &bytes);
        if right {
            let key = self.geometry().levels[level].at + page * BLOCK;
            self.tree.put(key, bytes.into());
        }
        right
    }

    /// Returns whether one of the other copies of the payload has this hash of a block.
    pub(super) fn others_have_hash(&self, number: u64, hash: [u8; 8]) -> bool {
        let copies = 2..2 * (1 + self.others.len());
        copies
            .into_iter()
            .any(|copy| self.block_hash(copy, number) == Some(hash))
    }

    /// Returns a block hash of one copy. The blocks of the payload come first, then the recovery
    /// blocks. `None` if it cannot be read. The copies 0 and 1 are those of the source itself, and
    /// each of the others has two more.
    pub(super) fn block_hash(&self, copy: usize, number: u64) -> Option<[u8; 8]> {
        let source = match copy / 2 {
            0 => &self.source,
            other => self.others.get(other - 1)?,
        };
        let page = number / HASHES;
        let key = (copy as u64) << 48 | page;
        let bytes = match self.hashes.get(key) {
            Some(bytes) => bytes,
            None => {
                let pages = self.geometry().hashes_len / BLOCK;
                let start = self.geometry().meta[copy % 2] + self.geometry().tree_len;
                let count = AHEAD.min(pages - page).min(self.hashes.limit as u64 / 2);
                let read = read_pages(&**source, start + page * BLOCK, count);
                let (read, count) = match read {
                    Ok(read) => (read, count),
                    Err(_) => (read_pages(&**source, start + page * BLOCK, 1).ok()?, 1),
                };
                for n in (0..count).rev() {
                    let at = n as usize * PAGE;
                    self.hashes.put(key + n, read[at..at + PAGE].into());
                }
                read[..PAGE].into()
            }
        };
        let at = (number % HASHES) as usize * 8;
        let mut hash = [0; 8];
        hash.copy_from_slice(&bytes[at..at + 8]);
        Some(hash)
    }

    /// Returns the copy of the payload's headers, if one of the two is intact and it is not
    /// longer than `limit` bytes.
    pub(super) fn headers(&self, limit: u64) -> Option<Vec<u8>> {
        let mut sources = std::iter::once(&self.source).chain(&self.others);
        sources.find_map(|source| (0..2).find_map(|copy| self.headers_in(source, copy, limit)))
    }

    /// Returns one copy of the payload's headers in the source itself.
    pub(super) fn headers_of(&self, copy: usize, limit: u64) -> Option<Vec<u8>> {
        self.headers_in(&self.source, copy, limit)
    }

    fn headers_in(&self, source: &Arc<dyn Source>, copy: usize, limit: u64) -> Option<Vec<u8>> {
        let g = self.geometry();
        let len = g.shape.headers_len;
        if len > limit {
            return None;
        }
        let at = g.meta[copy] + g.headers_in_meta();
        let bytes = read_pages(&**source, at, len.div_ceil(BLOCK)).ok()?;
        let bytes = &bytes[..len as usize];
        let right = *blake3::hash(bytes).as_bytes() == self.header.headers_hash;
        right.then(|| bytes.to_vec())
    }

    /// Reads a group as it is.
    pub(super) fn read_group(&self, group: u64) -> io::Result<Vec<u8>> {
        let len = self.geometry().group_len(group);
        let mut buf = AlignedBuf::new(GROUP as usize)?;
        let padded = len.next_multiple_of(PAGE);
        match read_exact_at(&*self.source, &mut buf[..padded], group * GROUP)? {
            n if n >= len => Ok(buf[..len].to_vec()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads whole pages of the source itself. Bytes behind its end are an error.
    pub(super) fn read(&self, offset: u64, pages: u64) -> io::Result<AlignedBuf> {
        read_pages(&*self.source, offset, pages)
    }
}

/// Reads whole pages. Bytes behind the end of the source are an error.
fn read_pages(source: &dyn Source, offset: u64, pages: u64) -> io::Result<AlignedBuf> {
    let len = pages as usize * PAGE;
    if offset.saturating_add(len as u64) > source.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut buf = AlignedBuf::new(len)?;
    match read_exact_at(source, &mut buf[..len], offset)? {
        n if n == len => Ok(buf),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_needed_all_the_time_is_seldom_read_again() {
        let page: Page = [0; 32][..].into();
        // The order of a hash map is another one each time.
        for _ in 0..64 {
            let cache = Cache::new(64 * PAGE);
            let mut reads = 0;
            for n in 1..6400 {
                if cache.get(0).is_none() {
                    cache.put(0, Arc::clone(&page));
                    reads += 1;
                }
                cache.put(n * BLOCK, Arc::clone(&page));
            }
            assert!(reads < 400, "{reads} reads");
        }
    }
}
