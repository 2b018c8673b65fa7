//! Reads every byte in order, hashes the entries that have a checksum, and continues after
//! the places that cannot be read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::block::{Completion, Queue};
use crate::error::{Error, Result};
use crate::payload::{
    Bits, Checksums, CopyReader, Entry, EntryStream, Hashed, Index, Lanes, OnFault, Piece, Reread,
    Sha256Sum,
};
use crate::progress::Progress;
use crate::sys::available_memory;

use super::recover::look_again;
use super::report::{FileVerdict, Report};

/// The number of blocks in flight.
pub(super) const DEPTH: usize = 3;
/// The number of threads that hash.
pub(super) const HASHERS: usize = 2;
/// The size of a block in bytes, where memory is not short: one huge page, as for an import.
const BLOCK_BYTES: u64 = 2 << 20;
/// The number of blocks that may wait to be hashed at the same time.
const HASHING: usize = 4;
/// The largest file, in bytes, that is hashed directly if it lies within one block. A lane
/// for each such file would cost more than the hashing.
const SMALL_MAX: usize = 64 * 1024;

/// Returns the size of a block in bytes: a power of two, so that all blocks take no more than a
/// quarter of the memory that there is.
fn block_bytes() -> usize {
    let room = available_memory() / 4 / (DEPTH + HASHING) as u64;
    1 << room.clamp(16 << 10, BLOCK_BYTES).ilog2()
}

/// A result that the threads return to the reader.
pub struct Done(What);

enum What {
    Reread(Reread),
    Hashed(Hashed),
}

impl From<Reread> for Done {
    fn from(done: Reread) -> Self {
        Self(What::Reread(done))
    }
}

impl From<Hashed> for Done {
    fn from(done: Hashed) -> Self {
        Self(What::Hashed(done))
    }
}

pub(super) struct Reader<'a> {
    sums: &'a mut Checksums,
    queue: Box<dyn Queue<Done>>,
    stream: EntryStream<'a>,
    /// The number of the entry whose checksum was looked up last.
    begun: Option<u64>,
    lanes: Lanes,
    waiting: HashMap<u64, (Arc<Entry>, Sha256Sum)>,
    verdicts: InOrder<'a>,
    report: &'a mut Report,
    progress: &'a dyn Progress,
    has_sums: bool,
    index: &'a Index,
    /// The entries to look at again.
    again: Bits,
    copies: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        index: &'a Index,
        sums: &'a mut Checksums,
        queue: Box<dyn Queue<Done>>,
        report: &'a mut Report,
        tell: &'a mut dyn FnMut(&str, FileVerdict),
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        Ok(Self {
            stream: EntryStream::new(
                index,
                |_| true,
                block_bytes(),
                DEPTH,
                HASHING,
                OnFault::Skip,
            )?,
            has_sums: !sums.is_empty(),
            again: Bits::default(),
            copies: index.payload().source().copies().len(),
            index,
            sums,
            queue,
            begun: None,
            lanes: Lanes::default(),
            waiting: HashMap::new(),
            verdicts: InOrder {
                ready: BTreeMap::new(),
                next: 0,
                tell,
            },
            report,
            progress,
        })
    }

    pub(super) fn run(mut self) -> Result<()> {
        loop {
            if self.progress.cancelled() {
                return Err(Error::interrupted());
            }
            self.stream.submit(&mut *self.queue)?;
            if let Some(piece) = self.stream.next_piece()? {
                self.take(piece)?;
            } else if self.stream.is_done()? && self.waiting.is_empty() {
                return self.look_again();
            } else {
                self.wait()?;
            }
        }
    }

    fn wait(&mut self) -> Result<()> {
        let queue = &mut *self.queue;
        match queue.wait() {
            Some(Completion::Read { id, buf, result }) => {
                self.stream.complete_read(id, buf, result, queue);
            }
            Some(Completion::Job(Done(What::Reread(done)))) => self.stream.complete_reread(done),
            Some(Completion::Job(Done(What::Hashed(done)))) => {
                if let Some((id, found)) = self.lanes.complete(done, queue) {
                    self.hashed(id, found)?;
                }
            }
            Some(Completion::Write { .. } | Completion::WriteShared { .. }) => {}
            Some(Completion::Panicked) => return Err(Error::bug("a thread panicked")),
            None => return Err(Error::bug("nothing is in flight and something is awaited")),
        }
        Ok(())
    }

    fn take(&mut self, piece: Piece) -> Result<()> {
        match piece {
            Piece::Empty(entry) => {
                self.begin(&entry);
                self.hashed(entry.index, Sha256Sum::of(b""))?;
            }
            Piece::Bytes {
                entry,
                offset,
                block,
                range,
            } => {
                self.begin(&entry);
                let (id, bytes) = (entry.index, range.len() as u64);
                self.progress.advance(bytes);
                if bytes == entry.size && range.len() <= SMALL_MAX {
                    if self.waiting.contains_key(&id) {
                        self.hashed(id, Sha256Sum::of(&block[range]))?;
                    }
                    return Ok(());
                }
                if offset == 0 && self.waiting.contains_key(&id) {
                    self.lanes.open(id);
                }
                self.lanes.feed(id, &block, range, &mut *self.queue);
                if offset + bytes == entry.size {
                    if let Some(found) = self.lanes.close(id) {
                        self.hashed(id, found)?;
                    }
                }
            }
            Piece::Gap { entry, .. } => {
                self.begin(&entry);
                self.lanes.abandon(entry.index);
                self.look_at_later(&entry)?;
            }
            // Only a stream that stops at faults returns it.
            Piece::Unreadable { .. } | Piece::EndOfBlock => {}
        }
        Ok(())
    }

    /// Leaves an entry for the end.
    fn look_at_later(&mut self, entry: &Arc<Entry>) -> Result<()> {
        if self.waiting.remove(&entry.index).is_some() {
            self.verdicts.put(entry, None);
        }
        self.again.set(entry.index)
    }

    /// Looks again at the entries that were left.
    fn look_again(&mut self) -> Result<()> {
        if self.again.is_empty() {
            return Ok(());
        }
        let mut reader = CopyReader::new(self.index.payload(), self.progress)?;
        for entry in self.index.entries()? {
            let entry = entry?;
            if !self.again.get(entry.index) {
                continue;
            }
            let name = entry.shown_name();
            let phase = format!("reading around bad sectors of {name}");
            self.progress.begin(&phase, entry.size);
            let sum = self.sums.get(&name);
            let problem = look_again(&mut reader, &entry, sum)?;
            let verdict = match problem {
                None => FileVerdict::Ok,
                Some(problem) => {
                    self.report.problems.add(problem);
                    FileVerdict::Failed
                }
            };
            if sum.is_some() {
                self.report.matched += u64::from(verdict == FileVerdict::Ok);
                (self.verdicts.tell)(&name, verdict);
            }
        }
        self.report.from_other_copies = reader.taken().iter().skip(1).sum();
        Ok(())
    }

    /// Looks up the checksum of an entry when its first piece arrives.
    fn begin(&mut self, entry: &Arc<Entry>) {
        if self.begun == Some(entry.index) {
            return;
        }
        self.begun = Some(entry.index);
        match self.sums.take(&entry.shown_name()) {
            Some(expected) => {
                self.waiting
                    .insert(entry.index, (Arc::clone(entry), expected));
            }
            None if self.has_sums && entry.needs_checksum() => {
                self.report.unlisted += 1;
                self.verdicts.put(entry, Some(FileVerdict::Unlisted));
            }
            None => self.verdicts.put(entry, None),
        }
    }

    fn hashed(&mut self, id: u64, found: Sha256Sum) -> Result<()> {
        let Some((entry, expected)) = self.waiting.remove(&id) else {
            return Ok(());
        };
        if found != expected && self.copies > 1 {
            // Another copy may be right.
            self.verdicts.put(&entry, None);
            return self.again.set(id);
        }
        let verdict = if found == expected {
            self.report.matched += 1;
            FileVerdict::Ok
        } else {
            self.report.problems.add(entry.mismatch(expected, found));
            FileVerdict::Failed
        };
        self.verdicts.put(&entry, Some(verdict));
        Ok(())
    }
}

/// Reports the verdicts in the order of the entries, whatever order they arrive in.
struct InOrder<'a> {
    ready: BTreeMap<u64, (String, Option<FileVerdict>)>,
    next: u64,
    tell: &'a mut dyn FnMut(&str, FileVerdict),
}

impl InOrder<'_> {
    fn put(&mut self, entry: &Entry, verdict: Option<FileVerdict>) {
        self.ready
            .insert(entry.index, (entry.shown_name().into_owned(), verdict));
        while let Some((name, verdict)) = self.ready.remove(&self.next) {
            if let Some(verdict) = verdict {
                (self.tell)(&name, verdict);
            }
            self.next += 1;
        }
    }
}
