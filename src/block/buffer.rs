//! Memory that direct I/O accepts.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

/// The alignment of every [`AlignedBuf`], in bytes. No device on Linux asks for
/// more than a page.
pub const PAGE: usize = 4096;

/// A page-aligned buffer: an anonymous map, never a map of a file.
#[derive(Debug)]
pub struct AlignedBuf(MmapMut);

impl AlignedBuf {
    /// A zeroed buffer of `len` bytes, rounded up to a whole page.
    ///
    /// # Errors
    /// When the system has no memory for it.
    pub fn new(len: usize) -> io::Result<Self> {
        MmapMut::map_anon(len.max(1).next_multiple_of(PAGE)).map(Self)
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A bounded set of buffers of one size, made when first needed and used again.
#[derive(Debug)]
pub struct BufferPool {
    free: Vec<AlignedBuf>,
    lent: Vec<Arc<AlignedBuf>>,
    left: usize,
    bytes: usize,
}

impl BufferPool {
    /// At most `count` buffers of `bytes` each.
    pub fn new(count: usize, bytes: usize) -> Self {
        Self {
            free: Vec::new(),
            lent: Vec::new(),
            left: count,
            bytes,
        }
    }

    /// A buffer, with whatever its last user left in it; `None` while all are out.
    ///
    /// # Errors
    /// When the system has no memory for a new one and none is out that could
    /// come back.
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

    /// Puts a buffer back.
    pub fn give(&mut self, buf: AlignedBuf) {
        self.free.push(buf);
    }

    /// Puts a buffer back that others may still be reading: it is free again once
    /// the last of them has dropped it.
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
    fn a_pool_gives_out_no_more_than_it_has_and_takes_shared_ones_back_last() {
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
