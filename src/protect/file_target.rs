//! Writes a trailer to a file or a device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::{AlignedBuf, PAGE, Source, read_exact_at};
use crate::protection::{Geometry, MAGIC, Target, last_block};

/// A file or a device with a payload that starts at an offset.
pub struct FileTarget {
    file: File,
    offset: u64,
}

impl FileTarget {
    /// Creates a target. The file is open for reading and writing.
    pub fn new(file: File, offset: u64) -> Self {
        Self { file, offset }
    }

    /// Sets the length of the file and syncs it.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.file.sync_all()
    }
}

impl Target for FileTarget {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = self.offset + offset + done as u64;
            match self.file.read_at(&mut buf[done..], at) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, self.offset + offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Writes only blocks that differ from what is there.
pub(super) struct FixingTarget<'a> {
    target: &'a dyn Target,
    written: AtomicU64,
}

impl<'a> FixingTarget<'a> {
    pub(super) fn new(target: &'a dyn Target) -> Self {
        Self {
            target,
            written: AtomicU64::new(0),
        }
    }

    /// Returns the number of blocks that were written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl Target for FixingTarget<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.target.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut there = AlignedBuf::new(buf.len())?;
        let whole = self.target.read_at(&mut there[..buf.len()], offset);
        for (n, block) in buf.chunks(PAGE).enumerate() {
            let at = n * PAGE;
            let place = offset + at as u64;
            let same = match &whole {
                Ok(read) => *read >= at + PAGE && there[at..at + PAGE] == *block,
                Err(_) => {
                    let mut one = AlignedBuf::new(PAGE)?;
                    let read = self.target.read_at(&mut one[..PAGE], place);
                    matches!(read, Ok(PAGE)) && one[..PAGE] == *block
                }
            };
            if !same {
                self.target.write_all_at(block, place)?;
                self.written.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.target.sync()
    }
}

/// Erases each copy of the header of a trailer except for one at `keep`, and syncs. The first
/// header goes last, so that an interrupted run can be repeated.
///
/// # Errors
/// The target cannot be written.
pub fn erase_headers(
    target: &dyn Target,
    source: &Arc<dyn Source>,
    geometry: &Geometry,
    keep: Option<u64>,
) -> io::Result<()> {
    let zeros = AlignedBuf::new(PAGE)?;
    let mut buf = AlignedBuf::new(PAGE)?;
    let places = [
        Some(geometry.second_header()),
        last_block(source.len()),
        Some(geometry.start()),
    ];
    for at in places.into_iter().flatten().filter(|at| Some(*at) != keep) {
        let read = read_exact_at(&**source, &mut buf[..PAGE], at);
        if matches!(read, Ok(PAGE)) && buf.starts_with(&MAGIC) {
            target.write_all_at(&zeros[..PAGE], at)?;
        }
    }
    target.sync()
}
