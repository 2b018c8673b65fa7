//! Writes a trailer to a file or a device, and erases one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::block::{AlignedBuf, PAGE, Source, read_exact_at};

use super::find::{Walked, header_at, last_block};
use super::geometry::{BLOCK, Geometry};
use super::header::MAGIC;
use super::write::Target;

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
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
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

/// Returns where a device holds copies of the header of a trailer, so that they can be erased: in
/// its last block, behind its payload, and where these headers say. `walk` finds the end of the
/// payload.
pub fn header_places(source: &Arc<dyn Source>, walk: &mut dyn FnMut() -> Walked) -> Vec<u64> {
    let behind = walk()
        .end()
        .and_then(|end| end.checked_next_multiple_of(BLOCK));
    let mut places: Vec<u64> = behind.into_iter().chain(last_block(source.len())).collect();
    for at in places.clone() {
        if let Ok(header) = header_at(&**source, at) {
            places.extend([header.geometry().start(), header.geometry().second_header()]);
        }
    }
    places.sort_unstable();
    places.dedup();
    places.retain(|at| has_magic(source, *at));
    places
}

fn has_magic(source: &Arc<dyn Source>, at: u64) -> bool {
    let Ok(mut buf) = AlignedBuf::new(PAGE) else {
        return false;
    };
    let read = read_exact_at(&**source, &mut buf[..PAGE], at);
    matches!(read, Ok(PAGE)) && buf.starts_with(&MAGIC)
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
    let places = [
        Some(geometry.second_header()),
        last_block(source.len()),
        Some(geometry.start()),
    ];
    for at in places.into_iter().flatten().filter(|at| Some(*at) != keep) {
        if has_magic(source, at) {
            target.write_all_at(&zeros[..PAGE], at)?;
        }
    }
    target.sync()
}
