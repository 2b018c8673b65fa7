//! A source that starts at an offset of another source: a payload inside a larger image.

use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{Error, Kind, Result};

use super::buffer::PAGE;
use super::source::{ReadMode, Source};

/// The part of a source from an offset to the end.
pub struct OffsetSource {
    inner: Arc<dyn Source>,
    start: u64,
}

impl OffsetSource {
    /// Creates a source of everything after the first `start` bytes of `inner`.
    ///
    /// # Errors
    /// The source ends before `start`, or `start` is not a multiple of its alignment, so
    /// that direct reads would not be aligned.
    pub fn new(inner: Arc<dyn Source>, start: u64) -> Result<Self> {
        let refused = |why: String| Error::new(Kind::Refused, why).with_path(inner.path());
        if start > inner.len() {
            return Err(refused(format!(
                "the offset {start} is beyond its end at {}",
                inner.len()
            ))
            .advice("check the offset, it counts bytes from the start of the file or device"));
        }
        if start % inner.alignment() as u64 != 0 {
            return Err(refused(format!(
                "the offset {start} is not a multiple of {}, as direct I/O needs",
                inner.alignment()
            ))
            .with_code("no-direct-io"));
        }
        Ok(Self { inner, start })
    }
}

impl Source for OffsetSource {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn len(&self) -> u64 {
        self.inner.len() - self.start
    }

    fn start(&self) -> u64 {
        self.inner.start() + self.start
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, self.start + offset)
    }

    fn read_cached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_cached(buf, self.start + offset)
    }

    fn read_past_cache(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.start % PAGE as u64 {
            0 => self.inner.read_past_cache(buf, self.start + offset),
            _ => self.read_at(buf, offset),
        }
    }

    fn will_read(&self, offset: u64, len: usize) {
        self.inner.will_read(self.start + offset, len);
    }

    fn quiesce(&self) {
        self.inner.quiesce();
    }

    fn mode(&self) -> ReadMode {
        self.inner.mode()
    }

    fn modified(&self) -> Option<SystemTime> {
        self.inner.modified()
    }

    fn is_device(&self) -> bool {
        self.inner.is_device()
    }

    fn is_file(&self, meta: &Metadata) -> bool {
        self.inner.is_file(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{AlignedBuf, DirectPolicy, FileSource, read_exact_at};

    #[test]
    fn it_starts_at_its_offset_and_ends_with_the_inner_source() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, b"beforebehind").unwrap();
        let open = || Arc::new(FileSource::open(&path, DirectPolicy::Never).unwrap());
        let rest = OffsetSource::new(open(), 6).unwrap();
        assert_eq!((rest.len(), rest.start()), (6, 6));
        let mut buf = AlignedBuf::new(4096).unwrap();
        assert_eq!(read_exact_at(&rest, &mut buf, 0).unwrap(), 6);
        assert_eq!(&buf[..6], b"behind");
        assert_eq!(OffsetSource::new(open(), 12).unwrap().len(), 0);
        assert!(OffsetSource::new(open(), 13).is_err());
    }
}
