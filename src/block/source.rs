//! The trait that everything is read through, so that a test can put a failing
//! disk in a real one's place.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::buffer::PAGE;

/// How a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// O_DIRECT: from the device, past the page cache.
    Direct,
    /// Through the page cache.
    Buffered,
}

impl fmt::Display for ReadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        })
    }
}

/// Whether to use O_DIRECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirectPolicy {
    /// Where it works.
    #[default]
    Auto,
    /// Or fail.
    Always,
    /// Not at all.
    Never,
}

/// Bytes at offsets: a regular file, a block device, or a test's stand-in.
pub trait Source: Send + Sync {
    /// The path that errors and reports name.
    fn path(&self) -> &Path;

    /// The length in bytes. For a block device its size as the kernel knows it.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What offsets and lengths of reads must be multiples of, in bytes: a power
    /// of two, at most [`super::PAGE`]. 1 where anything goes.
    fn alignment(&self) -> usize;

    /// Reads once at `offset` into `buf`, which is page-aligned; both the offset
    /// and the buffer's length are multiples of [`Source::alignment`]. Fewer bytes
    /// than asked for mean the end of the source, or a read to be continued.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// As [`Source::read_at`], of bytes that are in memory already and so cost no
    /// disk anything.
    ///
    /// # Errors
    /// They are not, or nobody can tell.
    fn read_cached(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// How it is read.
    fn mode(&self) -> ReadMode;

    /// Whether it is a block device, whose end is a matter of sectors.
    fn is_device(&self) -> bool {
        false
    }

    /// Whether `meta` is of the file or device that this reads.
    fn is_file(&self, _meta: &Metadata) -> bool {
        false
    }

    /// The descriptor behind it, for a queue that hands it to the kernel.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Fills `buf` from `offset`, in as many reads as it takes, or up to the end of
/// the source; returns how many bytes there were.
///
/// # Errors
/// What the system says; an interrupted call is repeated.
pub fn read_exact_at(source: &dyn Source, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let alignment = source.alignment();
    let mut done = 0;
    while done < buf.len() {
        match source.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        // A direct read that stops between two sectors has met the end, and a
        // read from there would be refused for its alignment.
        if done % alignment != 0 {
            break;
        }
    }
    Ok(done)
}

/// Reads again what failed as a whole: in pages up to the bad one, and in that by
/// the alignment. Returns how many of the `want` bytes from `start` there are before
/// the fault, and the fault; none where it was a passing one.
pub fn read_to_fault(
    source: &dyn Source,
    buf: &mut [u8],
    want: usize,
    start: u64,
) -> (usize, Option<io::Error>) {
    let alignment = source.alignment();
    let sector = alignment.max(512);
    let mut piece = PAGE.max(alignment);
    let mut done = 0;
    while done < want {
        let len = piece.min((want - done).next_multiple_of(alignment));
        match read_exact_at(source, &mut buf[done..done + len], start + done as u64) {
            Ok(0) => return (done, Some(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => done += n,
            Err(_) if piece > sector => piece = sector,
            Err(e) => return (done, Some(e)),
        }
    }
    (want, None)
}
