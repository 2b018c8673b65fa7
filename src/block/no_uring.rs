//! Replaces `uring.rs` where the io-uring crate has no kernel structures: on 32-bit
//! processors.

use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::buffer::AlignedBuf;
use super::queue::{Completion, Job, Queue, Sink};
use super::source::Source;

/// A queue that cannot be created.
pub struct UringQueue<T>(Infallible, PhantomData<T>);

impl<T> UringQueue<T> {
    /// Always fails.
    ///
    /// # Errors
    /// There is no io_uring in this program.
    pub fn new(_threads: usize) -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "io_uring is not supported on 32-bit processors",
        ))
    }
}

impl<T> Queue<T> for UringQueue<T> {
    fn read(&mut self, _: u64, _: &Arc<dyn Source>, _: AlignedBuf, _: usize, _: u64) {
        match self.0 {}
    }

    fn write(&mut self, _: u64, _: &Arc<dyn Sink>, _: AlignedBuf, _: usize, _: u64) {
        match self.0 {}
    }

    fn write_shared(
        &mut self,
        _: u64,
        _: &Arc<dyn Sink>,
        _: &Arc<AlignedBuf>,
        _: Range<usize>,
        _: u64,
    ) {
        match self.0 {}
    }

    fn run(&mut self, _: Job<T>) {
        match self.0 {}
    }

    fn wait(&mut self) -> Option<Completion<T>> {
        match self.0 {}
    }

    fn in_flight(&self) -> usize {
        match self.0 {}
    }
}
