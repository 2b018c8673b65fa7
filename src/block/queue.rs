//! Several reads and writes going at once, behind one interface.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
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

/// Work for another thread. Its result goes where it sends it.
pub type Job = Box<dyn FnOnce() + Send>;

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// A read: the buffer, and how many bytes are in it (fewer only at the end).
    Read(AlignedBuf, io::Result<usize>),
    /// A write: the buffer back, and whether all of it was written.
    Write(AlignedBuf, io::Result<()>),
    /// A write of a shared block, which is given back by then.
    WriteShared(io::Result<()>),
    /// A job has run.
    Job,
}

/// A request is done.
#[derive(Debug)]
pub struct Completion {
    /// What the request was given.
    pub token: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// Takes requests, works on several at a time, and hands back each when it is
/// done, in any order.
///
/// Everything that can wake the owner comes back through [`Queue::wait`], jobs
/// included, so an owner that waits with something in flight always wakes up, and
/// one that waits with nothing in flight is told so instead of waiting for ever.
pub trait Queue {
    /// Reads `len` bytes at `offset` into the start of `buf`.
    fn read(
        &mut self,
        token: u64,
        source: &Arc<dyn Source>,
        buf: AlignedBuf,
        len: usize,
        offset: u64,
    );

    /// Writes the first `len` bytes of `buf` at `offset`.
    fn write(&mut self, token: u64, sink: &Arc<dyn Sink>, buf: AlignedBuf, len: usize, offset: u64);

    /// Writes that part of a block that others read too at `offset`: for sinks that
    /// take any alignment.
    fn write_shared(
        &mut self,
        token: u64,
        sink: &Arc<dyn Sink>,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        offset: u64,
    );

    /// Runs `job` on another thread.
    fn run(&mut self, token: u64, job: Job);

    /// Waits for the next completion; `None` when nothing is in flight.
    fn wait(&mut self) -> Option<Completion>;

    /// Requests that have not come back.
    fn in_flight(&self) -> usize;
}
