//! Writes large files block by block: copied into aligned buffers or, if the store
//! accepts any alignment, directly from the blocks.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::block::{AlignedBuf, BufferPool, PAGE, Queue, Sink};
use crate::durable::Store;
use crate::error::{Error, Result};
use crate::payload::{Entry, Hashed, Lanes, Problem, Sha256Sum};

/// The number of writes of shared blocks in flight. More would not help: through the page
/// cache they take the file's lock one after the other.
pub(super) const SHARED_WRITES: usize = 2;

/// The outcome for a large file.
pub(super) enum Ended {
    /// It is staged and complete.
    Complete(Arc<Entry>),
    /// Its checksum does not match, and nothing is staged.
    Mismatch(Problem),
    /// It is staged with zeros where the source could not be read.
    Damaged,
}

/// A large file that is being written.
struct Large {
    entry: Arc<Entry>,
    sink: Arc<dyn Sink>,
    /// The number of writes that are in flight or wait.
    writing: usize,
    read: bool,
    expected: Option<Sha256Sum>,
    found: Option<Sha256Sum>,
    damaged: bool,
}

impl Large {
    fn is_done(&self) -> bool {
        self.read && self.writing == 0 && (self.expected.is_none() || self.found.is_some())
    }
}

/// A write buffer that is being filled.
struct Filling {
    buf: AlignedBuf,
    filled: usize,
    offset: u64,
}

/// A part of a block to write: the file, the block, the range and the offset in the file.
type Shared = (u64, Arc<AlignedBuf>, Range<usize>, u64);

/// Writes large files through a queue, several blocks at a time, and hashes the files that
/// have a checksum.
pub(super) struct LargeFiles {
    store: Arc<dyn Store>,
    block_bytes: usize,
    pool: BufferPool,
    filling: Option<Filling>,
    /// The writes of shared blocks that wait, and the number of those in flight.
    sharing: VecDeque<Shared>,
    shared: usize,
    files: HashMap<u64, Large>,
    lanes: Lanes,
}

impl LargeFiles {
    pub(super) fn new(store: Arc<dyn Store>, block_bytes: usize, writes: usize) -> Self {
        Self {
            store,
            block_bytes,
            // One more than the writes, for the buffer that is being filled.
            pool: BufferPool::new(writes + 1, block_bytes),
            filling: None,
            sharing: VecDeque::new(),
            shared: 0,
            files: HashMap::new(),
            lanes: Lanes::default(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.files.is_empty()
    }

    /// Creates the file of `entry`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub(super) fn open(&mut self, entry: &Arc<Entry>, expected: Option<Sha256Sum>) -> Result<()> {
        let sink = self
            .store
            .create(entry.index, entry.size)
            .map_err(|e| failed("make a file for", e, entry))?;
        if expected.is_some() {
            self.lanes.open(entry.index);
        }
        let large = Large {
            entry: Arc::clone(entry),
            sink,
            writing: 0,
            read: false,
            expected,
            found: None,
            damaged: false,
        };
        self.files.insert(entry.index, large);
        Ok(())
    }

    /// Marks a file as damaged: zeros stand in for some of its bytes. It stays staged.
    pub(super) fn damage(&mut self, id: u64) {
        if let Some(large) = self.files.get_mut(&id) {
            large.damaged = true;
            large.expected = None;
            self.lanes.abandon(id);
        }
    }

    /// Hashes the next bytes of a file that has a checksum.
    pub(super) fn hash<T: From<Hashed> + Send + 'static>(
        &mut self,
        id: u64,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        queue: &mut dyn Queue<T>,
    ) {
        self.lanes.feed(id, block, range, queue);
    }

    /// Writes the next bytes of `entry`, at `offset` in it. Returns how many bytes were
    /// accepted: 0 while every buffer is being written.
    ///
    /// # Errors
    /// There is no memory for a buffer.
    pub(super) fn write<T>(
        &mut self,
        entry: &Entry,
        offset: u64,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        queue: &mut dyn Queue<T>,
    ) -> Result<usize> {
        let id = entry.index;
        if self.store.takes_any_alignment() {
            let len = range.len();
            if let Some(large) = self.files.get_mut(&id) {
                large.writing += 1;
                self.sharing
                    .push_back((id, Arc::clone(block), range, offset));
            }
            self.start_shared(queue);
            return Ok(len);
        }
        let mut filling = match self.filling.take() {
            Some(filling) => filling,
            None => {
                let no_memory = |e| Error::io("get a buffer to write", e);
                let Some(buf) = self.pool.take().map_err(no_memory)? else {
                    return Ok(0);
                };
                let filled = 0;
                Filling {
                    buf,
                    filled,
                    offset,
                }
            }
        };
        let n = range.len().min(self.block_bytes - filling.filled);
        filling.buf[filling.filled..filling.filled + n]
            .copy_from_slice(&block[range.start..range.start + n]);
        filling.filled += n;
        if offset + n as u64 == entry.size || filling.filled == self.block_bytes {
            self.write_filled(id, filling, queue);
        } else {
            self.filling = Some(filling);
        }
        Ok(n)
    }

    fn write_filled<T>(&mut self, id: u64, mut filling: Filling, queue: &mut dyn Queue<T>) {
        // Direct I/O writes whole blocks. Finishing the file cuts the padding off.
        let len = filling.filled.next_multiple_of(PAGE);
        filling.buf[filling.filled..len].fill(0);
        if let Some(large) = self.files.get_mut(&id) {
            large.writing += 1;
            queue.write(id, &large.sink, filling.buf, len, filling.offset);
        }
    }

    /// Starts writes of shared blocks, a few at a time. The writes that wait hold their
    /// blocks, and one is always in flight meanwhile.
    fn start_shared<T>(&mut self, queue: &mut dyn Queue<T>) {
        while self.shared < SHARED_WRITES {
            let Some((id, block, range, offset)) = self.sharing.pop_front() else {
                return;
            };
            if let Some(large) = self.files.get(&id) {
                self.shared += 1;
                queue.write_shared(id, &large.sink, &block, range, offset);
            }
        }
    }

    /// Marks the file as complete: [`LargeFiles::write`] has received all of its bytes.
    pub(super) fn close(&mut self, id: u64) -> Result<Option<Ended>> {
        let found = self.lanes.close(id);
        if let Some(large) = self.files.get_mut(&id) {
            large.read = true;
            large.found = found;
        }
        self.end(id)
    }

    /// Handles the completion of a write from a buffer.
    pub(super) fn written(
        &mut self,
        id: u64,
        buf: AlignedBuf,
        result: io::Result<()>,
    ) -> Result<Option<Ended>> {
        self.pool.give(buf);
        self.wrote(id, result)
    }

    /// Handles the completion of a write of a shared block.
    pub(super) fn written_shared<T>(
        &mut self,
        id: u64,
        result: io::Result<()>,
        queue: &mut dyn Queue<T>,
    ) -> Result<Option<Ended>> {
        self.shared -= 1;
        self.start_shared(queue);
        self.wrote(id, result)
    }

    /// Handles the result of a hashing job.
    pub(super) fn hashed<T: From<Hashed> + Send + 'static>(
        &mut self,
        done: Hashed,
        queue: &mut dyn Queue<T>,
    ) -> Result<Option<Ended>> {
        let Some((id, sum)) = self.lanes.complete(done, queue) else {
            return Ok(None);
        };
        if let Some(large) = self.files.get_mut(&id) {
            large.found = Some(sum);
        }
        self.end(id)
    }

    fn wrote(&mut self, id: u64, result: io::Result<()>) -> Result<Option<Ended>> {
        let Some(large) = self.files.get_mut(&id) else {
            return Ok(None);
        };
        large.writing -= 1;
        if let Err(e) = result {
            let error = failed("write", e, &large.entry);
            // Its other writes in flight must not complete the file.
            self.discard(id);
            return Err(error);
        }
        self.end(id)
    }

    /// Forgets the files whose last byte has not been read, and removes their staged parts.
    pub(super) fn discard_unread(&mut self) {
        let files = self.files.iter();
        let unread: Vec<u64> = files.filter(|(_, l)| !l.read).map(|(id, _)| *id).collect();
        for id in unread {
            self.discard(id);
        }
    }

    fn discard(&mut self, id: u64) {
        self.files.remove(&id);
        self.lanes.abandon(id);
        self.sharing.retain(|(of, ..)| *of != id);
        if let Err(e) = self.store.discard(id) {
            log::debug!("an incomplete file stays for the next run to remove: {e}");
        }
    }

    /// Ends a file whose last byte has been read, written and hashed.
    fn end(&mut self, id: u64) -> Result<Option<Ended>> {
        if !self.files.get(&id).is_some_and(Large::is_done) {
            return Ok(None);
        }
        let Some(large) = self.files.remove(&id) else {
            return Ok(None);
        };
        let entry = large.entry;
        if large.damaged {
            return Ok(Some(Ended::Damaged));
        }
        if let (Some(expected), Some(found)) = (large.expected, large.found) {
            if expected != found {
                self.store
                    .discard(id)
                    .map_err(|e| failed("remove", e, &entry))?;
                return Ok(Some(Ended::Mismatch(entry.mismatch(expected, found))));
            }
        }
        large
            .sink
            .finish(entry.size)
            .map_err(|e| failed("finish", e, &entry))?;
        Ok(Some(Ended::Complete(entry)))
    }
}

fn failed(doing: &str, e: io::Error, entry: &Entry) -> Error {
    Error::io(doing, e).with_entry(entry.index, Some(&entry.shown_name()))
}
