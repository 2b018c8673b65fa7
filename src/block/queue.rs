//! The interface for several reads and writes in parallel.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::buffer::AlignedBuf;
use super::source::Source;

/// A destination that blocks are written to.
pub trait Sink: Send + Sync {
    /// Writes all of `buf` at `offset`. The offset, the length and the memory are aligned
    /// as the sink requires.
    ///
    /// # Errors
    /// The error that the system reports.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Ends the writing and sets the length in bytes, which cuts off the padding of the
    /// last block.
    ///
    /// # Errors
    /// The error that the system reports.
    fn finish(&self, len: u64) -> io::Result<()>;

    /// Returns the file descriptor, if plain writes at offsets are all that the sink needs.
    #[cfg_attr(not(target_pointer_width = "64"), allow(dead_code))] // only io_uring asks
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Work for another thread, and the type of its result.
pub type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// A completed request. `id` is the number that the request was given.
#[derive(Debug)]
pub enum Completion<T> {
    /// A read has ended.
    Read {
        /// The number of the read.
        id: u64,
        /// The buffer, returned.
        buf: AlignedBuf,
        /// The number of bytes in the buffer. It is smaller than requested only at the end.
        result: io::Result<usize>,
    },
    /// A write has ended.
    Write {
        /// The number of the write.
        id: u64,
        /// The buffer, returned.
        buf: AlignedBuf,
        /// Whether all of the data was written.
        result: io::Result<()>,
    },
    /// A write of a shared block has ended. The queue has released the block.
    WriteShared {
        /// The number of the write.
        id: u64,
        /// Whether all of the data was written.
        result: io::Result<()>,
    },
    /// A job has ended with this result.
    Job(T),
    /// A job has panicked, which is a bug in the job.
    Panicked,
}

/// Accepts requests, works on several at a time, and returns each one when it is complete,
/// in any order.
///
/// `T` is the result type of the owner's jobs.
///
/// Everything that can wake the owner is returned by [`Queue::wait`], including jobs. So an
/// owner that waits with something in flight always wakes up, and an owner that waits with
/// nothing in flight gets `None` instead of waiting forever.
///
/// A request that exceeds its buffer or the largest file offset returns an InvalidInput
/// error. A request whose source or sink panics returns an error too.
pub trait Queue<T> {
    /// Reads `len` bytes at `offset` into the start of `buf`.
    fn read(&mut self, id: u64, source: &Arc<dyn Source>, buf: AlignedBuf, len: usize, offset: u64);

    /// Writes the first `len` bytes of `buf` at `offset`.
    fn write(&mut self, id: u64, sink: &Arc<dyn Sink>, buf: AlignedBuf, len: usize, offset: u64);

    /// Writes a part of a block at `offset`, while others may read the block. For sinks
    /// that accept any alignment.
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

    /// Waits for the next completion. Returns `None` when nothing is in flight.
    fn wait(&mut self) -> Option<Completion<T>>;

    /// Returns the number of requests in flight.
    fn in_flight(&self) -> usize;
}

/// Refuses a request that exceeds its buffer of `room` bytes or the largest file offset.
pub(super) fn check(range: &Range<usize>, room: usize, offset: u64) -> io::Result<()> {
    let fits = range.start <= range.end && range.end <= room;
    let end = offset.checked_add(range.len() as u64);
    if fits && end.is_some_and(|end| i64::try_from(end).is_ok()) {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// Performs a part of a request. A panic becomes an error, because otherwise the owner would
/// wait forever for the request.
pub(super) fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(io::Error::other(
            "the request panicked, this is a bug in lbpayload",
        ))
    })
}
