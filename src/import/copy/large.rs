//! Large files: block by block, shifted into aligned buffers or, where the store
//! takes any alignment, as the blocks lie.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::block::{AlignedBuf, PAGE, Sink};
use crate::error::{Error, Result};
use crate::payload::{Block, Entry, Sha256Sum};

use super::{Copy, WRITE_TOKEN, failed};
use crate::import::mismatch;

/// Writes of shared blocks in flight.
pub(in crate::import) const SHARED_WRITES: usize = 2;

/// A part of a block to write: the file, the block, which part, where to.
pub(super) type Shared = (u64, Arc<AlignedBuf>, Range<usize>, u64);

/// A large file on its way.
pub(super) struct Large {
    pub(super) entry: Entry,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) writing: usize,
    pub(super) read: bool,
    pub(super) expected: Option<Sha256Sum>,
    pub(super) found: Option<Sha256Sum>,
}

impl Large {
    pub(super) fn is_done(&self) -> bool {
        self.read && self.writing == 0 && (self.expected.is_none() || self.found.is_some())
    }
}

/// A write buffer that is being filled.
pub(super) struct Filling {
    pub(super) buf: AlignedBuf,
    pub(super) filled: usize,
    pub(super) offset: u64,
}

impl Copy<'_> {
    pub(super) fn take_large(
        &mut self,
        entry: &Entry,
        block: &Block,
        part: Range<usize>,
    ) -> Result<()> {
        let id = entry.index;
        if !self.large.contains_key(&id) {
            self.open_large(entry)?;
        }
        if self
            .large
            .get(&id)
            .is_some_and(|large| large.expected.is_some())
        {
            self.lanes
                .feed(id, &block.data, part.clone(), &mut *self.queue);
        }
        if self.store.takes_any_alignment() {
            let offset = block.start + part.start as u64 - entry.data_offset;
            return self.share(id, block, part, offset, entry.size);
        }
        let mut rest = part;
        while !rest.is_empty() {
            let mut filling = match self.filling.take() {
                Some(filling) => filling,
                None => {
                    let offset = block.start + rest.start as u64 - entry.data_offset;
                    Filling {
                        buf: self.write_buffer()?,
                        filled: 0,
                        offset,
                    }
                }
            };
            let n = rest.len().min(self.tuning.block_bytes - filling.filled);
            filling.buf[filling.filled..filling.filled + n]
                .copy_from_slice(&block.data[rest.start..rest.start + n]);
            filling.filled += n;
            rest.start += n;
            self.progress.advance(n as u64);
            let ends_file = filling.offset + filling.filled as u64 == entry.size;
            if ends_file || filling.filled == self.tuning.block_bytes {
                self.write(id, filling);
            } else {
                self.filling = Some(filling);
            }
            if ends_file {
                self.large_read(id)?;
            }
        }
        Ok(())
    }

    /// Writes a part of a block as it lies there.
    fn share(
        &mut self,
        id: u64,
        block: &Block,
        part: Range<usize>,
        offset: u64,
        size: u64,
    ) -> Result<()> {
        let ends_file = offset + part.len() as u64 == size;
        self.progress.advance(part.len() as u64);
        if let Some(large) = self.large.get_mut(&id) {
            large.writing += 1;
            self.sharing
                .push_back((id, Arc::clone(&block.data), part, offset));
        }
        self.start_shared();
        if ends_file {
            self.large_read(id)
        } else {
            Ok(())
        }
    }

    /// Starts writes of shared blocks, a few at a time: through the page cache they
    /// take the file's lock one after the other. Those that wait hold their blocks,
    /// and one is in flight meanwhile.
    pub(super) fn start_shared(&mut self) {
        while self.shared < SHARED_WRITES {
            let Some((id, block, part, offset)) = self.sharing.pop_front() else {
                return;
            };
            if let Some(large) = self.large.get(&id) {
                let sink = Arc::clone(&large.sink);
                self.shared += 1;
                self.queue
                    .write_shared(WRITE_TOKEN | id, &sink, &block, part, offset);
            }
        }
    }

    fn open_large(&mut self, entry: &Entry) -> Result<()> {
        let expected = self.sums.get(&entry.shown_name());
        let sink = self
            .store
            .create(entry.index, entry.size)
            .map_err(|e| failed("making a file for", e, entry))?;
        if expected.is_some() {
            self.lanes.open(entry.index);
        }
        let large = Large {
            entry: entry.clone(),
            sink,
            writing: 0,
            read: false,
            expected,
            found: None,
        };
        self.large.insert(entry.index, large);
        Ok(())
    }

    /// A buffer to write from; waits for one while all are being written.
    fn write_buffer(&mut self) -> Result<AlignedBuf> {
        loop {
            let buf = self
                .write_pool
                .take()
                .map_err(|e| Error::io("getting a buffer to write", e))?;
            match buf {
                Some(buf) => return Ok(buf),
                None => self.wait()?,
            }
        }
    }

    fn write(&mut self, id: u64, mut filling: Filling) {
        // Direct I/O writes whole blocks; finishing the file cuts the zeros off.
        let len = filling.filled.next_multiple_of(PAGE);
        filling.buf[filling.filled..len].fill(0);
        if let Some(large) = self.large.get_mut(&id) {
            large.writing += 1;
            let sink = Arc::clone(&large.sink);
            self.queue
                .write(WRITE_TOKEN | id, &sink, filling.buf, len, filling.offset);
        }
    }

    fn large_read(&mut self, id: u64) -> Result<()> {
        let found = self.lanes.close(id);
        if let Some(large) = self.large.get_mut(&id) {
            large.read = true;
            large.found = found;
        }
        self.end_large(id)
    }

    pub(super) fn written(&mut self, id: u64, result: io::Result<()>) -> Result<()> {
        let Some(large) = self.large.get_mut(&id) else {
            return Ok(());
        };
        large.writing -= 1;
        if let Err(e) = result {
            let error = failed("writing", e, &large.entry);
            // What else of it is in flight must not complete it.
            self.drop_large(id);
            return Err(error);
        }
        self.end_large(id)
    }

    /// Forgets a large file, and removes what is there of it.
    pub(super) fn drop_large(&mut self, id: u64) {
        self.large.remove(&id);
        self.lanes.abandon(id);
        self.sharing.retain(|(of, ..)| *of != id);
        if let Err(e) = self.store.discard(id) {
            log::debug!("an incomplete file stays for the next run to remove: {e}");
        }
    }

    pub(super) fn hashed(&mut self, id: u64, sum: Sha256Sum) -> Result<()> {
        if let Some(large) = self.large.get_mut(&id) {
            large.found = Some(sum);
        }
        self.end_large(id)
    }

    /// Ends a large file whose last byte is read, written and hashed.
    fn end_large(&mut self, id: u64) -> Result<()> {
        if !self.large.get(&id).is_some_and(Large::is_done) {
            return Ok(());
        }
        let Some(large) = self.large.remove(&id) else {
            return Ok(());
        };
        let entry = large.entry;
        if let (Some(expected), Some(found)) = (large.expected, large.found) {
            if expected != found {
                self.store
                    .discard(id)
                    .map_err(|e| failed("removing", e, &entry))?;
                self.copied.failed.add(mismatch(&entry, expected, found));
                return Ok(());
            }
        }
        large
            .sink
            .finish(entry.size)
            .map_err(|e| failed("finishing", e, &entry))?;
        self.complete(&entry);
        Ok(())
    }
}
