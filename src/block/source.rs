//! The trait for everything that is read, so that a test can replace a disk by one that
//! fails.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::buffer::PAGE;
use super::fault_map::FaultMap;

/// How a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// With O_DIRECT: from the device, without the page cache.
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
    /// Uses O_DIRECT if it works.
    #[default]
    Auto,
    /// Uses O_DIRECT, or fails.
    Always,
    /// Does not use O_DIRECT.
    Never,
}

/// Bytes at offsets: a regular file, a block device, or a replacement in a test.
pub trait Source: Send + Sync {
    /// Returns the path that errors and reports show.
    fn path(&self) -> &Path;

    /// Returns the length in bytes. For a block device this is its size in the kernel.
    fn len(&self) -> u64;

    /// Returns whether the length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns where this source starts in its file or device, in bytes. Errors and reports count
    /// offsets from the start of the file or device.
    fn start(&self) -> u64 {
        0
    }

    /// Returns the alignment of the offsets and lengths of reads, in bytes. It is a power
    /// of two and at most [`super::PAGE`]. 1 means that there is no restriction.
    fn alignment(&self) -> usize;

    /// Returns the length of the parts that are read as a whole anyway, in bytes: a power of two,
    /// and at least [`Source::alignment`]. Reads of whole parts are the fastest.
    fn part(&self) -> usize {
        self.alignment()
    }

    /// Reads once at `offset` into `buf`.
    ///
    /// `buf` is page-aligned. The offset and the length of `buf` are multiples of
    /// [`Source::alignment`]. A result of fewer bytes means the end of the source, or a
    /// short read that the caller must continue.
    ///
    /// # Errors
    /// The error that the system reports.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Does the same as [`Source::read_at`], but only for bytes that are in the page cache
    /// and need no access to the disk.
    ///
    /// # Errors
    /// The bytes are not in the page cache, or this cannot be determined.
    fn read_cached(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Does the same as [`Source::read_at`], but without the page cache where that is possible.
    /// The offset and the length of `buf` are multiples of [`super::PAGE`].
    ///
    /// # Errors
    /// The error that the system reports.
    fn read_past_cache(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }

    /// Announces a read, which a slow source can start at once.
    fn will_read(&self, _offset: u64, _len: usize) {}

    /// Waits until nothing is read ahead, so that the source has no thread of its own. A read
    /// may start threads again.
    fn quiesce(&self) {}

    /// Returns how the source is read.
    fn mode(&self) -> ReadMode;

    /// Returns when the source was last changed, if it knows that and its path does not lead to
    /// a file that tells.
    fn modified(&self) -> Option<SystemTime> {
        None
    }

    /// Returns whether this is a block device, which shows only whole sectors.
    fn is_device(&self) -> bool {
        false
    }

    /// Returns whether `meta` belongs to the file or device that this source reads.
    fn is_file(&self, _meta: &Metadata) -> bool {
        false
    }

    /// Returns the smallest part that is read when a larger read fails, in bytes: a power of two.
    /// What is read through the page cache fails in whole pages.
    fn sector(&self) -> usize {
        match self.alignment() {
            1 => PAGE,
            alignment => alignment.max(512),
        }
    }

    /// Returns what is known of the bad places, if the source records them.
    fn faults(&self) -> Option<&FaultMap> {
        None
    }

    /// Returns the copies that this source consists of, in the order in which they are read.
    /// Nothing means that it is a single source.
    fn copies(&self) -> &[Arc<dyn Source>] {
        &[]
    }

    /// Fills `buf` with the bytes at `offset` from elsewhere, although the source cannot be read
    /// there. Returns whether that was possible.
    fn read_spare(&self, _buf: &mut [u8], _offset: u64) -> bool {
        false
    }

    /// Returns how many damaged blocks of 4096 bytes were healed so far, or `None` if this source
    /// does not heal.
    fn healed_blocks(&self) -> Option<u64> {
        None
    }

    /// Returns the file descriptor, for a queue that passes it to the kernel.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Fills `buf` from `offset`, in as many reads as necessary, or up to the end of the source.
/// Returns the number of bytes read.
///
/// # Errors
/// The error that the system reports. Interrupted calls are repeated.
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
        // A direct read that ends within a sector has reached the end of the source. The
        // next read would be refused because it is not aligned.
        if done % alignment != 0 {
            break;
        }
    }
    Ok(done)
}

/// Repeats a read that failed as a whole: in pages, and in the bad page in sectors
/// ([`Source::sector`]). Returns how many of the `want` bytes from `start` come
/// before the fault, and the fault. The fault is `None` if the read succeeds now.
///
/// The bytes of a short read before the fault are counted too, because a sector may start
/// anywhere in `buf` when the source is read through the page cache.
pub fn read_to_fault(
    source: &dyn Source,
    buf: &mut [u8],
    want: usize,
    start: u64,
) -> (usize, Option<io::Error>) {
    let alignment = source.alignment();
    let sector = source.sector();
    let mut piece = PAGE.max(sector);
    let mut done = 0;
    while done < want {
        // Pieces end where sectors do, so that a bad sector does not take the end of the sector
        // before it along.
        let at = source.start() + start + done as u64;
        let len = piece - (at % piece as u64) as usize;
        let len = len.min((want - done).next_multiple_of(alignment));
        match source.read_at(&mut buf[done..done + len], start + done as u64) {
            Ok(0) => return (done, Some(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if piece > sector => piece = sector,
            Err(e) => return (done, Some(e)),
        }
        // A read that ends within a sector has reached the end, as in `read_exact_at`.
        if done < want && done % alignment != 0 {
            return (done, Some(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    (want, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::AlignedBuf;

    /// A source like a file read through the page cache. A read ends before offset `bad`, or
    /// fails there. The source ends at `end`.
    struct Paged {
        alignment: usize,
        bad: u64,
        end: u64,
    }

    impl Source for Paged {
        fn path(&self) -> &Path {
            Path::new("paged")
        }
        fn len(&self) -> u64 {
            self.end
        }
        fn alignment(&self) -> usize {
            self.alignment
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            assert_eq!(offset % self.alignment as u64, 0, "an unaligned read");
            if offset >= self.bad {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            let left = self.end.min(self.bad) - offset.min(self.end);
            Ok(buf.len().min(left as usize))
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Buffered
        }
    }

    #[test]
    fn all_bytes_before_a_fault_are_read_wherever_the_read_starts() {
        let mut buf = AlignedBuf::new(16 * 1024).unwrap();
        let (alignment, bad, end) = (1, 8192, 100_000);
        for start in [0, 1, 4095, 8000, 8191, 8192, 9000] {
            let source = Paged {
                alignment,
                bad,
                end,
            };
            let (len, fault) = read_to_fault(&source, &mut buf, 9000, start);
            assert_eq!(len as u64, bad.saturating_sub(start), "from {start}");
            assert_eq!(fault.unwrap().raw_os_error(), Some(libc::EIO));
        }
    }

    #[test]
    fn a_read_that_ends_within_a_sector_reports_the_end() {
        let mut buf = AlignedBuf::new(8192).unwrap();
        let (alignment, bad, end) = (512, u64::MAX, 5000);
        let source = Paged {
            alignment,
            bad,
            end,
        };
        let (len, fault) = read_to_fault(&source, &mut buf, 8192, 0);
        assert_eq!(
            (len, fault.unwrap().kind()),
            (5000, io::ErrorKind::UnexpectedEof)
        );
    }
}
