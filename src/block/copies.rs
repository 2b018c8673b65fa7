//! A source that consists of several copies.

use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::source::{ReadMode, Source, read_to_fault};

/// Several copies of the same bytes. A read that one copy cannot give comes from the next.
///
/// This suits what is known to be the same in all copies, such as headers after a comparison. A
/// job that reads data uses [`Source::copies`], so that it never mixes two versions of a file.
pub struct CopiesSource {
    copies: Vec<Arc<dyn Source>>,
}

impl CopiesSource {
    /// Creates a source from copies, or returns `None` if there is none.
    pub fn new(copies: Vec<Arc<dyn Source>>) -> Option<Self> {
        (!copies.is_empty()).then_some(Self { copies })
    }

    fn first(&self) -> &dyn Source {
        &*self.copies[0]
    }

    /// Reads from a copy. Its sectors may be smaller than those of another copy.
    fn read_from(&self, copy: &dyn Source, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let error = match copy.read_at(buf, offset) {
            Ok(n) => return self.read_on(copy, buf, offset, n),
            Err(e) => e,
        };
        if buf.len() > self.sector() || buf.len() <= copy.sector() {
            return Err(error);
        }
        match read_to_fault(copy, buf, buf.len(), offset) {
            (n, None) => Ok(n),
            (_, Some(e)) => Err(e),
        }
    }

    /// Continues a short read up to the alignment of all copies. Otherwise it would look like the
    /// end of the source: a copy with a smaller alignment may end a read anywhere.
    fn read_on(
        &self,
        copy: &dyn Source,
        buf: &mut [u8],
        offset: u64,
        mut done: usize,
    ) -> io::Result<usize> {
        let alignment = self.alignment();
        while done % alignment != 0 && done < buf.len() {
            match copy.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if done < alignment => return Err(e),
                Err(_) => return Ok(done - done % alignment),
            }
        }
        Ok(done)
    }

    fn largest(&self, of: impl Fn(&dyn Source) -> usize) -> usize {
        self.copies
            .iter()
            .map(|copy| of(&**copy))
            .max()
            .unwrap_or(1)
    }
}

impl Source for CopiesSource {
    fn path(&self) -> &Path {
        self.first().path()
    }

    fn len(&self) -> u64 {
        self.copies.iter().map(|copy| copy.len()).max().unwrap_or(0)
    }

    fn start(&self) -> u64 {
        self.first().start()
    }

    fn alignment(&self) -> usize {
        self.largest(|copy| copy.alignment())
    }

    fn part(&self) -> usize {
        self.largest(|copy| copy.part())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut result = Ok(0);
        let end = self.len().min(offset + buf.len() as u64);
        // A copy that is cut off comes last.
        let whole = self.copies.iter().filter(|copy| copy.len() >= end);
        let short = self.copies.iter().filter(|copy| copy.len() < end);
        for copy in whole.chain(short) {
            let tried = self.read_from(&**copy, buf, offset);
            match tried {
                Ok(1..) => return tried,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                Err(e) if result.is_ok() => result = Err(e),
                Ok(0) | Err(_) => {}
            }
        }
        result
    }

    fn will_read(&self, offset: u64, len: usize) {
        self.first().will_read(offset, len);
    }

    fn quiesce(&self) {
        self.copies.iter().for_each(|copy| copy.quiesce());
    }

    fn mode(&self) -> ReadMode {
        self.first().mode()
    }

    fn is_device(&self) -> bool {
        self.first().is_device()
    }

    fn is_file(&self, meta: &Metadata) -> bool {
        self.copies.iter().any(|copy| copy.is_file(meta))
    }

    fn sector(&self) -> usize {
        self.largest(|copy| copy.sector())
    }

    fn copies(&self) -> &[Arc<dyn Source>] {
        &self.copies
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{AlignedBuf, DirectPolicy, FileSource, read_exact_at};

    /// A source that returns 700 bytes at once, and only these if it is bad.
    struct Short(Vec<u8>, usize, bool);

    impl Source for Short {
        fn path(&self) -> &Path {
            Path::new("short")
        }
        fn len(&self) -> u64 {
            self.0.len() as u64
        }
        fn alignment(&self) -> usize {
            self.1
        }
        fn part(&self) -> usize {
            4 * self.1
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let from = &self.0[offset as usize..];
            let len = match self.1 {
                1 if self.2 && offset > 0 => return Err(io::Error::from_raw_os_error(libc::EIO)),
                1 => buf.len().min(from.len()).min(700),
                _ => buf.len().min(from.len()),
            };
            buf[..len].copy_from_slice(&from[..len]);
            Ok(len)
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Buffered
        }
    }

    #[test]
    fn short_read_of_a_copy_with_a_smaller_alignment_is_not_the_end() {
        let bytes: Vec<u8> = (0..8192_u32).map(|n| n as u8).collect();
        for bad in [false, true] {
            let file = Arc::new(Short(bytes.clone(), 1, bad));
            let disk = Arc::new(Short(bytes.clone(), 4096, false));
            let both = CopiesSource::new(vec![file, disk]).unwrap();
            let mut buf = AlignedBuf::new(8192).unwrap();
            assert_eq!(read_exact_at(&both, &mut buf, 0).unwrap(), 8192, "{bad}");
            assert!(buf[..] == bytes[..], "{bad}");
        }
    }

    #[test]
    fn filters_read_in_the_parts_of_the_source() {
        let source: Arc<dyn Source> = Arc::new(Short(vec![0; 8192], 4096, false));
        let recorder = Arc::new(crate::block::FaultRecorder::new(Arc::clone(&source)));
        assert_eq!(recorder.part(), 4 * 4096);
        assert_eq!(crate::block::FailureRecorder::new(source).part(), 4 * 4096);
        let copies = CopiesSource::new(vec![recorder]).unwrap();
        assert_eq!(copies.part(), 4 * 4096);
    }

    #[test]
    fn what_one_copy_cannot_give_comes_from_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, bytes: &[u8]| -> Arc<dyn Source> {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            Arc::new(FileSource::open(&path, DirectPolicy::Never).unwrap())
        };
        let (short, long) = (open("short", b"abc"), open("long", b"ABCDEF"));
        let both = CopiesSource::new(vec![short, long]).unwrap();
        assert_eq!((both.len(), both.copies().len()), (6, 2));
        let mut buf = AlignedBuf::new(4096).unwrap();
        assert_eq!(read_exact_at(&both, &mut buf[..2], 0).unwrap(), 2);
        assert_eq!(&buf[..2], b"ab");
        assert_eq!(read_exact_at(&both, &mut buf, 0).unwrap(), 6);
        assert_eq!(&buf[..6], b"ABCDEF");
        assert!(CopiesSource::new(Vec::new()).is_none());
    }
}
