//! Reads the next blocks of a source on other threads, for a reader that moves forward.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::buffer::AlignedBuf;
use super::queue::{Completion, Queue};
use super::source::Source;
use super::threads::ThreadQueue;

/// The size of a block in bytes: one huge page.
pub(super) const BLOCK: usize = 2 << 20;

/// The number of blocks that are read at the same time, and of threads.
const DEPTH: usize = 2;

/// The blocks of a source in order, from an offset on.
pub(super) struct Prefetch {
    source: Arc<dyn Source>,
    queue: ThreadQueue<()>,
    free: Vec<AlignedBuf>,
    /// The blocks that have been read before an earlier one, by offset.
    read: BTreeMap<u64, (AlignedBuf, io::Result<usize>)>,
    /// The offset of the block that is returned next, and of the one that is requested next.
    next: u64,
    request: u64,
}

impl Prefetch {
    /// Starts to read at `offset`, a multiple of the alignment.
    ///
    /// # Errors
    /// There is no memory, or no thread can be started.
    pub(super) fn start(source: &Arc<dyn Source>, offset: u64) -> io::Result<Self> {
        let mut this = Self {
            source: Arc::clone(source),
            queue: ThreadQueue::new(DEPTH)?,
            free: Vec::new(),
            read: BTreeMap::new(),
            next: offset,
            request: offset,
        };
        // One of them is with the reader.
        for _ in 0..=DEPTH {
            this.free.push(AlignedBuf::new(BLOCK)?);
        }
        this.submit();
        Ok(this)
    }

    fn submit(&mut self) {
        while self.request < self.source.len() {
            let Some(buf) = self.free.pop() else { return };
            let at = self.request;
            let alignment = self.source.alignment() as u64;
            let left = (self.source.len() - at).min(BLOCK as u64);
            let len = left.next_multiple_of(alignment) as usize;
            self.queue.read(at, &self.source, buf, len, at);
            self.request += BLOCK as u64;
        }
    }

    /// Returns the source.
    pub(super) fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source)
    }

    /// Replaces `buf` by the block at `offset`, and reads another block into the old `buf`.
    /// Returns the number of bytes. Returns `None` if the next block is another one, if there is
    /// none, or if it cannot be read as a whole.
    pub(super) fn take(&mut self, offset: u64, buf: &mut AlignedBuf) -> Option<usize> {
        if offset != self.next {
            return None;
        }
        let (block, result) = loop {
            if let Some(found) = self.read.remove(&offset) {
                break found;
            }
            match self.queue.wait()? {
                Completion::Read { id, buf, result } => self.read.insert(id, (buf, result)),
                _ => return None,
            };
        };
        let want = (self.source.len() - offset).min(BLOCK as u64) as usize;
        result.ok().filter(|n| *n >= want)?;
        self.next += BLOCK as u64;
        let used = std::mem::replace(buf, block);
        if used.len() == BLOCK {
            self.free.push(used);
        }
        self.submit();
        Some(want)
    }
}
