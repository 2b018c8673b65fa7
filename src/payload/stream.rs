//! An ordered stream of large reads over the parts of a source that are wanted.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::block::{AlignedBuf, BufferPool, PAGE, Queue, Source, read_to_fault};
use crate::error::{Error, Result};

/// Gaps of up to this many bytes between wanted parts are read through: a
/// request costs about as much as reading this much.
const READ_THROUGH: u64 = 256 * 1024;

/// Tokens with this bit belong to a stream.
const STREAM_TOKEN: u64 = 1 << 63;

/// A block of the source, in order.
#[derive(Debug)]
pub struct Block {
    /// Its offset in the source, a multiple of the granule.
    pub start: u64,
    /// The bytes; the first `len` are the source's.
    pub data: Arc<AlignedBuf>,
    /// How many bytes are valid.
    pub len: usize,
    /// Why the bytes behind `len` are missing, where some are.
    pub fault: Option<io::Error>,
}

impl Block {
    /// The part of `wanted` (offsets in the source) that this block holds, as a
    /// range of its bytes.
    pub fn overlap(&self, wanted: Range<u64>) -> Range<usize> {
        let end = self.start + self.len as u64;
        let from = wanted.start.clamp(self.start, end) - self.start;
        let to = wanted.end.clamp(self.start, end) - self.start;
        from as usize..to as usize
    }
}

enum Slot {
    Reading { start: u64, want: usize },
    Ready(Block),
}

/// Reads ahead over extents, several blocks at a time, and gives the blocks out
/// in their order. It owns no queue: its owner submits, hands completions in, and
/// takes what is ready, so that one queue can serve reading and writing.
pub struct Stream<I> {
    source: Arc<dyn Source>,
    extents: I,
    current: Range<u64>,
    upcoming: Option<Range<u64>>,
    ended: bool,
    block_bytes: usize,
    depth: usize,
    slots: VecDeque<Slot>,
    popped: u64,
}

impl<I: Iterator<Item = Result<Range<u64>>>> Stream<I> {
    /// A stream over `extents`: rising, not overlapping, within the source; in
    /// blocks of `block_bytes` (a multiple of a page), at most `depth` in flight or
    /// waiting to be taken.
    pub fn new(source: Arc<dyn Source>, extents: I, block_bytes: usize, depth: usize) -> Self {
        debug_assert_eq!(block_bytes % PAGE, 0);
        Self {
            source,
            extents,
            current: 0..0,
            upcoming: None,
            ended: false,
            block_bytes,
            depth: depth.max(1),
            slots: VecDeque::new(),
            popped: 0,
        }
    }

    /// Whether a completion with this token is one of a stream's reads.
    pub fn owns(token: u64) -> bool {
        token & STREAM_TOKEN != 0
    }

    /// Submits reads as far as `depth` and the pool's buffers go.
    ///
    /// # Errors
    /// What the extents' iterator gives; no memory for a buffer.
    pub fn submit(&mut self, queue: &mut dyn Queue, pool: &mut BufferPool) -> Result<()> {
        while self.slots.len() < self.depth {
            if !self.refill()? {
                return Ok(());
            }
            let no_memory = |e| Error::io("getting a buffer to read", e).path(self.source.path());
            let Some(buf) = pool.take().map_err(no_memory)? else {
                return Ok(());
            };
            let granule = self.source.granule() as u64;
            let start = self.current.start - self.current.start % granule;
            let end = self.current.end.min(start + self.block_bytes as u64);
            let want = (end - start) as usize;
            let token = STREAM_TOKEN | (self.popped + self.slots.len() as u64);
            let len = want.next_multiple_of(granule as usize);
            queue.read(token, &self.source, buf, len, start);
            self.slots.push_back(Slot::Reading { start, want });
            self.current.start = end;
        }
        Ok(())
    }

    /// Starts again over other extents. Reads that are in flight come back and are
    /// not looked at.
    pub fn restart(&mut self, extents: I) {
        self.popped += self.slots.len() as u64;
        self.slots.clear();
        self.extents = extents;
        self.current = 0..0;
        self.upcoming = None;
        self.ended = false;
    }

    /// Takes the completion of a read. Gives the buffer back where nobody wants
    /// the block any more.
    pub fn complete(
        &mut self,
        token: u64,
        mut buf: AlignedBuf,
        result: io::Result<usize>,
    ) -> Option<AlignedBuf> {
        let place = (token & !STREAM_TOKEN).checked_sub(self.popped);
        let slot = place.and_then(|place| self.slots.get_mut(usize::try_from(place).ok()?));
        let Some(slot) = slot else {
            return Some(buf);
        };
        let Slot::Reading { start, want } = *slot else {
            return Some(buf);
        };
        let (len, fault) = match result {
            Ok(n) if n >= want => (want, None),
            Ok(n) => (n, Some(io::Error::from(io::ErrorKind::UnexpectedEof))),
            // A large read fails as a whole; smaller ones tell where.
            Err(_) => read_to_fault(&*self.source, &mut buf, want, start),
        };
        *slot = Slot::Ready(Block {
            start,
            data: Arc::new(buf),
            len,
            fault,
        });
        None
    }

    /// The next block in order, if it has been read.
    pub fn pop(&mut self) -> Option<Block> {
        if !matches!(self.slots.front(), Some(Slot::Ready(_))) {
            return None;
        }
        self.popped += 1;
        match self.slots.pop_front() {
            Some(Slot::Ready(block)) => Some(block),
            _ => None,
        }
    }

    /// Whether every block of every extent has been taken.
    pub fn is_drained(&self) -> bool {
        self.ended && self.slots.is_empty() && self.current.is_empty() && self.upcoming.is_none()
    }

    /// Makes the current extent at least a block long, as far as the wanted parts
    /// lie close enough together. False when nothing is left to read.
    fn refill(&mut self) -> Result<bool> {
        while self.current.end - self.current.start < self.block_bytes as u64 {
            let next = match self.upcoming.take() {
                Some(extent) => extent,
                None => match self.extents.next().transpose()? {
                    Some(extent) => extent,
                    None => {
                        self.ended = true;
                        break;
                    }
                },
            };
            if next.is_empty() {
                continue;
            }
            if self.current.is_empty() {
                self.current = next;
            } else if next.start - self.current.end <= READ_THROUGH {
                self.current.end = next.end;
            } else {
                self.upcoming = Some(next);
                break;
            }
        }
        Ok(!self.current.is_empty())
    }
}
