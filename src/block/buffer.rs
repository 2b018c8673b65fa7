//! Memory that direct I/O accepts.

use std::io;
use std::ops::{Deref, DerefMut};

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
    left: usize,
    bytes: usize,
}

impl BufferPool {
    /// At most `count` buffers of `bytes` each.
    pub fn new(count: usize, bytes: usize) -> Self {
        Self { free: Vec::new(), left: count, bytes }
    }

    /// A buffer, with whatever its last user left in it; `None` while all are out.
    ///
    /// # Errors
    /// When the system has no memory for a new one and none is out that could
    /// come back.
    pub fn take(&mut self) -> io::Result<Option<AlignedBuf>> {
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
}
