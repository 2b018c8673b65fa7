//! Memory for direct I/O.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use memmap2::{Advice, MmapMut};

/// The alignment of every [`AlignedBuf`], in bytes. No device on Linux requires more
/// than a page.
pub const PAGE: usize = 4096;

/// A page-aligned buffer. It is an anonymous map, never a map of a file.
///
/// A buffer of at least one huge page is aligned to huge pages and requests them. For each
/// direct read or write, the kernel pins the buffer page by page, and it splits the request
/// if a device accepts only a limited number of pieces. Huge pages avoid both.
#[derive(Debug)]
pub struct AlignedBuf {
    map: MmapMut,
    /// The offset of the buffer in the map, and its length.
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// Creates a zeroed buffer of `len` bytes, rounded up to a whole page.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn new(len: usize) -> io::Result<Self> {
        Self::with_huge_pages(len.max(1).next_multiple_of(PAGE), huge_page_bytes())
    }

    fn with_huge_pages(len: usize, huge: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(len)?;
        let mut buf = Self { map, start: 0, len };
        if len < huge {
            return Ok(buf);
        }
        if buf.map.as_ptr() as usize % huge != 0 {
            // Before Linux 6.7 a map may start at any page. The memory around the aligned part
            // is never touched, so it costs addresses but no memory.
            match MmapMut::map_anon(len + huge) {
                Ok(map) => {
                    let start =
                        (map.as_ptr() as usize).next_multiple_of(huge) - map.as_ptr() as usize;
                    buf = Self { map, start, len };
                }
                // The address space is too small. Small pages work too.
                Err(_) => return Ok(buf),
            }
        }
        // A kernel without huge pages refuses. Small pages work too.
        if let Err(e) = buf.map.advise_range(Advice::HugePage, buf.start, len) {
            log::debug!("no huge pages: {e}");
        }
        Ok(buf)
    }
}

/// Returns the kernel's size of a huge page in bytes, or 2 MiB if /sys is missing.
fn huge_page_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let said = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
        let bytes = said.ok().and_then(|text| text.trim().parse().ok());
        bytes
            .filter(|bytes: &usize| bytes.is_power_of_two() && *bytes >= PAGE)
            .unwrap_or(2 << 20)
    })
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }
}

/// A limited set of buffers of one size. They are created when first needed and reused.
#[derive(Debug)]
pub struct BufferPool {
    free: Vec<AlignedBuf>,
    lent: Vec<Arc<AlignedBuf>>,
    left: usize,
    bytes: usize,
}

impl BufferPool {
    /// Creates a pool of at most `count` buffers of `bytes` each.
    pub fn new(count: usize, bytes: usize) -> Self {
        Self {
            free: Vec::new(),
            lent: Vec::new(),
            left: count,
            bytes,
        }
    }

    /// Takes a buffer, or returns `None` while all are in use. The buffer still contains
    /// the data of its last user.
    ///
    /// # Errors
    /// There is no memory for a new buffer, and none is in use that could be returned.
    pub fn take(&mut self) -> io::Result<Option<AlignedBuf>> {
        if self.free.is_empty() {
            self.reclaim();
        }
        if let Some(buf) = self.free.pop() {
            return Ok(Some(buf));
        }
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        AlignedBuf::new(self.bytes).map(Some)
    }

    /// Returns a buffer to the pool.
    pub fn give(&mut self, buf: AlignedBuf) {
        self.free.push(buf);
    }

    /// Returns a buffer that others may still be reading. It is free again when the last
    /// of them has dropped it.
    pub fn give_shared(&mut self, buf: Arc<AlignedBuf>) {
        self.lent.push(buf);
        self.reclaim();
    }

    fn reclaim(&mut self) {
        let mut at = 0;
        while at < self.lent.len() {
            match Arc::try_unwrap(self.lent.swap_remove(at)) {
                Ok(buf) => self.free.push(buf),
                Err(shared) => {
                    self.lent.push(shared);
                    let last = self.lent.len() - 1;
                    self.lent.swap(at, last);
                    at += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_starts_on_a_page_and_is_whole_pages_long() {
        for len in [0, 1, 4096, 4097, 1 << 20] {
            let buf = AlignedBuf::new(len).unwrap();
            assert_eq!(buf.as_ptr() as usize % PAGE, 0);
            assert_eq!(buf.len() % PAGE, 0);
            assert!(buf.len() >= len);
        }
    }

    #[test]
    fn a_buffer_of_a_huge_page_starts_on_one() {
        // Several at once, so that they are not all aligned by chance.
        for huge in [2 << 20, 4 << 20] {
            let bufs: Vec<_> = (0..4)
                .map(|n| AlignedBuf::with_huge_pages(huge + n * PAGE, huge).unwrap())
                .collect();
            for (n, mut buf) in bufs.into_iter().enumerate() {
                assert_eq!(buf.as_ptr() as usize % huge, 0);
                assert_eq!(buf.len(), huge + n * PAGE);
                buf.fill(1);
            }
        }
    }

    #[test]
    fn a_pool_is_bounded_and_reuses_shared_buffers_when_they_are_free() {
        let mut pool = BufferPool::new(2, PAGE);
        let (a, b) = (pool.take().unwrap().unwrap(), pool.take().unwrap().unwrap());
        assert!(pool.take().unwrap().is_none());
        pool.give(a);
        assert!(pool.take().unwrap().is_some());
        let shared = Arc::new(b);
        let reader = Arc::clone(&shared);
        pool.give_shared(shared);
        assert!(pool.take().unwrap().is_none());
        drop(reader);
        assert!(pool.take().unwrap().is_some());
    }
}
