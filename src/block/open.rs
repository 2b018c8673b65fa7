//! Opens a source. Only this module adds filters to a file or a device.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;

use super::file::FileSource;
use super::offset::OffsetSource;
use super::source::{DirectPolicy, Source};

/// How to read a source, and which part of it. The default reads all of it, with
/// O_DIRECT if that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SourceOptions {
    /// Whether to use O_DIRECT.
    pub direct: DirectPolicy,
    /// Where to start, in bytes from the start of the file or device.
    pub offset: u64,
    /// Whether a regular file is read through the page cache if O_DIRECT is not required. This
    /// is for small reads that are far apart.
    pub cached_files: bool,
    /// Whether the data may stay in the page cache, for callers that read it again.
    pub keep_cache: bool,
}

impl SourceOptions {
    /// Opens `path` and adds the filters.
    ///
    /// # Errors
    /// The same as for [`FileSource::open`] and [`OffsetSource::new`].
    pub fn open(&self, path: &Path) -> Result<Arc<dyn Source>> {
        let is_device = || std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
        let mut policy = self.direct;
        if policy == DirectPolicy::Auto && self.cached_files && !is_device() {
            policy = DirectPolicy::Never;
        }
        let mut file = FileSource::open(path, policy)?;
        if policy == DirectPolicy::Auto && self.offset % file.alignment() as u64 != 0 {
            file = FileSource::open(path, DirectPolicy::Never)?;
        }
        if self.keep_cache {
            file = file.keeping_cache();
        }
        let file: Arc<dyn Source> = Arc::new(file);
        if self.offset == 0 {
            return Ok(file);
        }
        Ok(Arc::new(OffsetSource::new(file, self.offset)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{AlignedBuf, read_exact_at};

    #[test]
    fn an_offset_not_aligned_for_direct_reads_uses_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        let options = SourceOptions {
            offset: 9999,
            ..SourceOptions::default()
        };
        let source = options.open(&path).unwrap();
        assert_eq!(source.len(), 1);
        let mut buf = AlignedBuf::new(4096).unwrap();
        assert_eq!(read_exact_at(&*source, &mut buf, 0).unwrap(), 1);
        assert_eq!(buf[0], 7);
    }
}
