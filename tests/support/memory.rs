//! A source in memory that can be told to fail.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use lbpayload::block::{ReadMode, Source};

/// Bytes in memory that require aligned reads, as a device does.
pub struct Memory {
    pub bytes: Vec<u8>,
    pub alignment: usize,
    /// Reading any of these bytes fails with EIO.
    pub bad: Range<u64>,
    pub device: bool,
}

impl Memory {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            alignment: 1,
            bad: 0..0,
            device: false,
        }
    }

    pub fn shared(self) -> Arc<dyn Source> {
        Arc::new(self)
    }
}

impl Source for Memory {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        assert_eq!(offset % self.alignment as u64, 0, "an unaligned read");
        assert_eq!(
            buf.len() % self.alignment,
            0,
            "a read of an unaligned length"
        );
        if self.alignment > 1 {
            assert_eq!(buf.as_ptr() as usize % 512, 0, "unaligned memory");
        }
        let start = (offset as usize).min(self.bytes.len());
        let end = (start + buf.len()).min(self.bytes.len());
        if (start as u64) < self.bad.end && (end as u64) > self.bad.start {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        buf[..end - start].copy_from_slice(&self.bytes[start..end]);
        Ok(end - start)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }

    fn is_device(&self) -> bool {
        self.device
    }
}
