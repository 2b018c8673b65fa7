//! Several reads and writes going at once, behind one interface.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::buffer::AlignedBuf;
use super::source::Source;

/// Something that blocks are written to.
pub trait Sink: Send + Sync {
    /// Writes all of `buf` at `offset`. Both, and the memory, are aligned as the
    /// sink demands.
    ///
    /// # Errors
    /// What the system says.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Nothing more is written: gives it its length in bytes, which cuts off what
    /// alignment made the last block longer.
    ///
    /// # Errors
    /// What the system says.
    fn finish(&self, len: u64) -> io::Result<()>;

    /// The descriptor behind it, where plain writes at offsets are all it takes.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Work for another thread, and what it comes to.
pub type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// A request is done. `id` is what the request was given.
#[derive(Debug)]
pub enum Completion<T> {
    /// A read: the buffer, and how many bytes are in it (fewer only at the end).
    Read {
        /// The read's.
        id: u64,
        /// The buffer back.
        buf: AlignedBuf,
        /// How many bytes are in it.
        result: io::Result<usize>,
    },
    /// A write: the buffer, and whether all of it was written.
    Write {
        /// The write's.
        id: u64,
        /// The buffer back.
        buf: AlignedBuf,
        /// Whether all of it was written.
        result: io::Result<()>,
    },
    /// A write of a shared block, which is let go of by then.
    WriteShared {
        /// The write's.
        id: u64,
        /// Whether all of it was written.
        result: io::Result<()>,
    },
    /// A job, and what it came to.
    Job(T),
    /// A job that panicked, which is a bug in it.
    Panicked,
}

/// Takes requests, works on several at a time, and hands back each when it is
/// done, in any order.
///
/// `T` is what its owner's jobs come to.
///
/// Everything that can wake the owner comes back through [`Queue::wait`], jobs
/// included, so an owner that waits with something in flight always wakes up, and
/// one that waits with nothing in flight is told so instead of waiting for ever.
///
/// A request that reaches beyond its buffer or beyond the largest file offset comes
/// back with an InvalidInput error; one whose source or sink panics comes back with
/// an error, too.
pub trait Queue<T> {
    /// Reads `len` bytes at `offset` into the start of `buf`.
    fn read(&mut self, id: u64, source: &Arc<dyn Source>, buf: AlignedBuf, len: usize, offset: u64);

    /// Writes the first `len` bytes of `buf` at `offset`.
    fn write(&mut self, id: u64, sink: &Arc<dyn Sink>, buf: AlignedBuf, len: usize, offset: u64);

    /// Writes that part of a block that others read too at `offset`: for sinks that
    /// take any alignment.
    fn write_shared(
        &mut self,
        id: u64,
        sink: &Arc<dyn Sink>,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        offset: u64,
    );

    /// Runs `job` on another thread.
    fn run(&mut self, job: Job<T>);

    /// Waits for the next completion; `None` when nothing is in flight.
    fn wait(&mut self) -> Option<Completion<T>>;

    /// Requests that have not come back.
    fn in_flight(&self) -> usize;
}

/// Refuses a request whose bytes do not lie within its buffer of `room` bytes, or
/// not within what a file can hold.
pub(super) fn check(range: &Range<usize>, room: usize, offset: u64) -> io::Result<()> {
    let fits = range.start <= range.end && range.end <= room;
    let end = offset.checked_add(range.len() as u64);
    if fits && end.is_some_and(|end| i64::try_from(end).is_ok()) {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// Does a part of a request. A panic becomes an error, because the owner would wait
/// without end for a request that never comes back.
pub(super) fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(io::Error::other(
            "the request panicked; this is a bug in lbpayload",
        ))
    })
}
