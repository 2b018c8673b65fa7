//! Reads the data of the wanted entries in order. Every job that reads a payload from
//! end to end uses this.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::block::{AlignedBuf, BufferPool, PAGE, Queue, Source, read_to_fault};
use crate::error::{Error, Result};

use super::index::{Entries, Index};
use super::problem::Cause;
use super::walk::Entry;

/// Gaps of up to this many bytes between wanted entries are read too, because a
/// request costs about as much as reading this much.
const READ_THROUGH: u64 = 256 * 1024;

/// The next item of a stream.
#[derive(Debug)]
pub enum Piece {
    /// An entry without data.
    Empty(Arc<Entry>),
    /// Bytes of an entry.
    Bytes {
        /// The entry.
        entry: Arc<Entry>,
        /// Where the bytes belong, in bytes from the start of the entry's data.
        offset: u64,
        /// The block that holds them. It is reused when nothing else refers to it.
        block: Arc<AlignedBuf>,
        /// Where the bytes are in the block.
        range: Range<usize>,
    },
    /// The rest of the entry cannot be read, so the stream skips it.
    Unreadable {
        /// The entry.
        entry: Arc<Entry>,
        /// The first byte that is missing, in bytes from the start of the source.
        at: u64,
        /// The cause: [`Cause::Io`] or [`Cause::Shrunk`].
        cause: Cause,
    },
    /// A part of the entry is in a block that could not be read. Single sectors of it may be
    /// readable. The stream continues behind it.
    Gap {
        /// The entry.
        entry: Arc<Entry>,
        /// Where the part belongs, in bytes from the start of the entry's data.
        offset: u64,
        /// The block, which holds zeros in place of the part.
        block: Arc<AlignedBuf>,
        /// Where the zeros are in the block.
        range: Range<usize>,
    },
    /// Everything in a block has been returned. The reader should release it soon.
    EndOfBlock,
}

/// What a stream does with a block that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFault {
    /// Finds the first bad sector, and returns [`Piece::Unreadable`] for its entry. For jobs that
    /// stop there.
    Find,
    /// Returns [`Piece::Gap`] and goes on, so that everything that reads well is read first.
    Skip,
}

/// A block that could not be read in one request and was read again up to the first bad
/// sector: the result of a job, for [`EntryStream::complete_reread`].
#[derive(Debug)]
pub struct Reread {
    id: u64,
    buf: AlignedBuf,
    len: usize,
    fault: Option<io::Error>,
}

struct Block {
    start: u64,
    data: Arc<AlignedBuf>,
    /// The number of bytes that were read from the source.
    len: usize,
    /// Why the bytes after `len` are missing, if any are.
    fault: Option<io::Error>,
    /// The number of bytes after `len` that are skipped.
    gap: usize,
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.len as u64
    }

    /// Returns the part of `wanted` (offsets in the source) that this block holds, as a
    /// range of the block's bytes.
    fn overlap(&self, wanted: Range<u64>) -> Range<usize> {
        self.clamp(self.start..self.end(), wanted)
    }

    /// Does the same for the part that was skipped.
    fn skipped(&self, wanted: Range<u64>) -> Range<usize> {
        self.clamp(self.end()..self.end() + self.gap as u64, wanted)
    }

    fn clamp(&self, part: Range<u64>, wanted: Range<u64>) -> Range<usize> {
        let from = wanted.start.clamp(part.start, part.end) - self.start;
        let to = wanted.end.clamp(part.start, part.end) - self.start;
        from as usize..to as usize
    }
}

struct Slot {
    id: u64,
    start: u64,
    want: usize,
    block: Option<Block>,
}

/// Reads ahead over the wanted entries, several large blocks at a time, and returns
/// their bytes in order. An entry that cannot be read is reported, and the stream
/// continues after it.
///
/// The stream owns no queue. Its owner calls [`EntryStream::submit`], passes on the
/// completions of reads and of [`Reread`] jobs, and takes the pieces. This way one queue
/// can serve reading, hashing and writing.
pub struct EntryStream<'a> {
    source: Arc<dyn Source>,
    wanted: Box<dyn Fn(u64) -> bool + 'a>,
    /// The entries to read, ahead of `entries`.
    ahead: Ahead<'a>,
    /// The entries to return.
    entries: Entries<'a>,
    current: Option<(Arc<Entry>, u64)>,
    block: Option<Block>,
    slots: VecDeque<Slot>,
    next_id: u64,
    pool: BufferPool,
    block_bytes: usize,
    depth: usize,
    on_fault: OnFault,
    /// The source has become shorter: nothing after this point can be read.
    shrunk: bool,
}

impl<'a> EntryStream<'a> {
    /// Creates a stream of the entries of `index` whose numbers are `wanted`.
    ///
    /// It reads blocks of `block_bytes`, a multiple of a page. At most `depth` blocks are
    /// being read or wait to be taken, and the users of the pieces hold `held` more.
    ///
    /// # Errors
    /// The same as for [`Index::entries`].
    pub fn new(
        index: &'a Index,
        wanted: impl Fn(u64) -> bool + 'a,
        block_bytes: usize,
        depth: usize,
        held: usize,
        on_fault: OnFault,
    ) -> Result<Self> {
        debug_assert_eq!(block_bytes % PAGE, 0);
        let depth = depth.max(1);
        let source = index.payload().source();
        Ok(Self {
            // Two copies are never mixed here: their contents may differ.
            source: Arc::clone(source.copies().first().unwrap_or(source)),
            on_fault,
            wanted: Box::new(wanted),
            ahead: Ahead::new(index.entries()?, None),
            entries: index.entries()?,
            current: None,
            block: None,
            slots: VecDeque::new(),
            next_id: 0,
            pool: BufferPool::new(depth + held, block_bytes),
            block_bytes,
            depth,
            shrunk: false,
        })
    }

    /// Submits as many reads as the depth and the free buffers allow.
    ///
    /// # Errors
    /// The headers cannot be read again, or there is no memory for a buffer.
    pub fn submit<T>(&mut self, queue: &mut dyn Queue<T>) -> Result<()> {
        while self.slots.len() < self.depth && !self.shrunk {
            if !self.ahead.refill(&*self.wanted, self.block_bytes)? {
                return Ok(());
            }
            let no_memory = |e| Error::io("get a buffer to read", e).with_path(self.source.path());
            let Some(buf) = self.pool.take().map_err(no_memory)? else {
                return Ok(());
            };
            let part = match self.source.part() {
                part if self.block_bytes % part == 0 => part,
                _ => self.source.alignment(),
            };
            let extent = &mut self.ahead.extent;
            let start = extent.start - extent.start % part as u64;
            let end = extent.end.min(start + self.block_bytes as u64);
            extent.start = end;
            let want = (end - start) as usize;
            let id = self.next_id;
            self.next_id += 1;
            self.slots.push_back(Slot {
                id,
                start,
                want,
                block: None,
            });
            let known = self
                .source
                .faults()
                .filter(|_| self.on_fault == OnFault::Skip);
            if let Some(faults) = known.filter(|f| f.refusal(&(start..end)).is_some()) {
                faults.add_suspect(start..end);
                self.skip(id, buf, 0);
                continue;
            }
            let len = want.next_multiple_of(part);
            queue.read(id, &self.source, buf, len, start);
        }
        Ok(())
    }

    /// Handles the completion of a read.
    pub fn complete_read<T: From<Reread> + Send + 'static>(
        &mut self,
        id: u64,
        buf: AlignedBuf,
        result: io::Result<usize>,
        queue: &mut dyn Queue<T>,
    ) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else {
            return self.pool.give(buf);
        };
        let want = slot.want;
        let (len, fault) = match result {
            Ok(n) if n >= want => (want, None),
            Ok(n) if self.on_fault == OnFault::Skip => {
                if let Some(faults) = self.source.faults() {
                    faults.add_end(slot.start + n as u64);
                }
                return self.skip(id, buf, n);
            }
            Err(e) if self.on_fault == OnFault::Skip => {
                if let Some(faults) = self.source.faults() {
                    faults.add_failed(slot.start..slot.start + want as u64, &e);
                }
                return self.skip(id, buf, 0);
            }
            Ok(n) => (n, Some(io::ErrorKind::UnexpectedEof.into())),
            Err(_) => {
                // A large read fails as a whole; smaller reads find the bad sector. Each may
                // take seconds on a bad disk, so a job does them while others continue.
                let (source, start) = (Arc::clone(&self.source), slot.start);
                return queue.run(Box::new(move || {
                    let mut buf = buf;
                    let (len, fault) = read_to_fault(&*source, &mut buf, want, start);
                    Reread {
                        id,
                        buf,
                        len,
                        fault,
                    }
                    .into()
                }));
            }
        };
        self.complete_reread(Reread {
            id,
            buf,
            len,
            fault,
        });
    }

    /// Completes a block of which only the first `len` bytes were read.
    fn skip(&mut self, id: u64, mut buf: AlignedBuf, len: usize) {
        match self.slots.iter_mut().find(|slot| slot.id == id) {
            Some(slot) => {
                buf[len..slot.want].fill(0);
                slot.block = Some(Block {
                    start: slot.start,
                    data: Arc::new(buf),
                    len,
                    fault: None,
                    gap: slot.want - len,
                });
            }
            None => self.pool.give(buf),
        }
    }

    /// Handles the result of a job that read a block again.
    pub fn complete_reread(&mut self, done: Reread) {
        match self.slots.iter_mut().find(|slot| slot.id == done.id) {
            Some(slot) => {
                slot.block = Some(Block {
                    start: slot.start,
                    data: Arc::new(done.buf),
                    len: done.len,
                    fault: done.fault,
                    gap: 0,
                });
            }
            // The stream was restarted: the block is no longer needed.
            None => self.pool.give(done.buf),
        }
    }

    /// Returns the next piece, or `None` if it has not been read yet or all have been
    /// returned.
    ///
    /// # Errors
    /// The headers cannot be read again.
    pub fn next_piece(&mut self) -> Result<Option<Piece>> {
        let Some((entry, at)) = self.current()? else {
            // The rest of the last block is not wanted.
            return Ok(self.end_block());
        };
        if self.shrunk {
            return self.give_up(entry, at, Cause::Shrunk).map(Some);
        }
        if entry.size == 0 {
            self.current = None;
            return Ok(Some(Piece::Empty(entry)));
        }
        if self.block.is_none() && self.slots.front().is_some_and(|slot| slot.block.is_some()) {
            self.block = self.slots.pop_front().and_then(|slot| slot.block);
        }
        let Some(block) = &mut self.block else {
            return Ok(None);
        };
        let range = block.overlap(at..entry.end());
        if !range.is_empty() {
            let end = at + range.len() as u64;
            self.current = (end < entry.end()).then(|| (Arc::clone(&entry), end));
            return Ok(Some(Piece::Bytes {
                offset: at - entry.data_offset,
                block: Arc::clone(&block.data),
                range,
                entry,
            }));
        }
        let gap = block.skipped(at..entry.end());
        if !gap.is_empty() {
            let end = at + gap.len() as u64;
            self.current = (end < entry.end()).then(|| (Arc::clone(&entry), end));
            return Ok(Some(Piece::Gap {
                offset: at - entry.data_offset,
                block: Arc::clone(&block.data),
                range: gap,
                entry,
            }));
        }
        let bad_at = block.end();
        let Some(fault) = block.fault.take() else {
            return Ok(self.end_block());
        };
        // The bad sector may start before the entry does.
        let sector = self.source.alignment() as u64;
        if bad_at + sector <= at {
            // The whole sector is before the entry, where nothing is wanted.
            return self.restart(Some(at..entry.end())).map(Some);
        }
        let cause = match fault.kind() {
            io::ErrorKind::UnexpectedEof => Cause::Shrunk,
            _ => Cause::Io(fault),
        };
        self.shrunk = matches!(cause, Cause::Shrunk);
        self.give_up(entry, bad_at.max(at), cause).map(Some)
    }

    /// Returns whether every wanted entry has been returned.
    ///
    /// # Errors
    /// The headers cannot be read again.
    pub fn is_done(&mut self) -> Result<bool> {
        Ok(self.block.is_none() && self.current()?.is_none())
    }

    /// Returns the entry to continue with, and the offset in the source to continue at.
    fn current(&mut self) -> Result<Option<(Arc<Entry>, u64)>> {
        if self.current.is_none() {
            let Some(entry) = next_wanted(&mut self.entries, &*self.wanted)? else {
                return Ok(None);
            };
            let at = entry.data_offset;
            self.current = Some((Arc::new(entry), at));
        }
        Ok(self.current.clone())
    }

    fn end_block(&mut self) -> Option<Piece> {
        self.pool.give_shared(self.block.take()?.data);
        Some(Piece::EndOfBlock)
    }

    /// Skips the rest of `entry` and reports it as unreadable.
    fn give_up(&mut self, entry: Arc<Entry>, at: u64, cause: Cause) -> Result<Piece> {
        self.current = None;
        self.restart(None)?;
        Ok(Piece::Unreadable { entry, at, cause })
    }

    /// Continues reading at `first`, and then at the next entry. The results of reads that
    /// are in flight are ignored.
    fn restart(&mut self, first: Option<Range<u64>>) -> Result<Piece> {
        self.ahead = Ahead::new(self.entries.fork()?, first);
        for slot in self.slots.drain(..) {
            if let Some(block) = slot.block {
                self.pool.give_shared(block.data);
            }
        }
        self.end_block();
        Ok(Piece::EndOfBlock)
    }
}

/// The extents of the wanted entries. Extents that are close together are joined.
struct Ahead<'a> {
    entries: Entries<'a>,
    /// The extent to read next.
    extent: Range<u64>,
    /// The extent after that, too far away to be joined.
    upcoming: Option<Range<u64>>,
}

impl<'a> Ahead<'a> {
    fn new(entries: Entries<'a>, first: Option<Range<u64>>) -> Self {
        Self {
            entries,
            extent: first.unwrap_or(0..0),
            upcoming: None,
        }
    }

    /// Grows the extent to at least `block_bytes`, as long as the wanted entries are close
    /// enough together. Returns false when nothing is left to read.
    fn refill(&mut self, wanted: &dyn Fn(u64) -> bool, block_bytes: usize) -> Result<bool> {
        while self.extent.end - self.extent.start < block_bytes as u64 {
            let next = match self.upcoming.take() {
                Some(extent) => extent,
                None => match next_wanted(&mut self.entries, wanted)? {
                    Some(entry) => entry.data_offset..entry.end(),
                    None => break,
                },
            };
            if next.is_empty() {
                continue;
            }
            if self.extent.is_empty() {
                self.extent = next;
            } else if next.start - self.extent.end <= READ_THROUGH {
                self.extent.end = next.end;
            } else {
                self.upcoming = Some(next);
                break;
            }
        }
        Ok(!self.extent.is_empty())
    }
}

fn next_wanted(entries: &mut Entries<'_>, wanted: &dyn Fn(u64) -> bool) -> Result<Option<Entry>> {
    entries
        .find(|entry| entry.as_ref().map_or(true, |entry| wanted(entry.index)))
        .transpose()
}
