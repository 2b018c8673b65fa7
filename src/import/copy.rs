//! The copy: one ordered stream of reads, several writes, one loop.
//!
//! The loop owns every buffer and waits in one place, on the queue, where reads,
//! writes, hashing, small files and commits all come back. It never waits with
//! nothing in flight, and looks at what is ready before it waits.

mod large;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::block::{BufferPool, Outcome, Queue};
use crate::durable::Store;
use crate::error::{Error, Result};
use crate::payload::{Block, Cause, Checksums, Entry, Index, Lanes, Payload, Problems, Stream};
use crate::progress::Progress;

use super::commit::{Committer, Complete};
use super::plan::{Plan, Planned};
use super::small::{SmallFiles, Written};
use super::{Tuning, bug, mismatch};

pub(super) use large::SHARED_WRITES;
use large::{Filling, Large, Shared};

const WRITE_TOKEN: u64 = 1 << 62;
const LANE_TOKEN: u64 = 1 << 61;
const SMALL_TOKEN: u64 = 1 << 60;
const COMMIT_TOKEN: u64 = 1 << 59;

/// What was copied.
#[derive(Debug, Default)]
pub struct Copied {
    /// Files that are complete under their names.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that replaced another.
    pub replaced: u64,
    /// Files that were not written, for their checksum.
    pub failed: Problems,
}

/// Copies what `plan` says from the payload to `store`. `tell` hears the index and
/// the name of each file once it is complete and on stable storage.
///
/// # Errors
/// The first failure, with what was complete before it.
#[allow(clippy::too_many_arguments)] // each is another thing; a struct would be their list again
pub fn copy(
    payload: &Payload,
    index: &Index,
    plan: &Plan,
    sums: &Checksums,
    store: Arc<dyn Store>,
    queue: Box<dyn Queue>,
    tuning: &Tuning,
    progress: &dyn Progress,
    tell: &mut dyn FnMut(u64, &str),
) -> std::result::Result<Copied, (Error, Copied)> {
    let mut copied = Copied::default();
    progress.begin("importing", plan.write_bytes);
    let result = Copy::new(
        payload,
        index,
        plan,
        sums,
        store,
        queue,
        *tuning,
        progress,
        tell,
        &mut copied,
    )
    .and_then(Copy::run);
    progress.end();
    match result {
        Ok(()) => Ok(copied),
        Err(error) => Err((error, copied)),
    }
}

type Extents<'a> = Box<dyn Iterator<Item = Result<Range<u64>>> + 'a>;

struct Copy<'a> {
    payload: &'a Payload,
    plan: &'a Plan,
    sums: &'a Checksums,
    store: Arc<dyn Store>,
    queue: Box<dyn Queue>,
    tuning: Tuning,
    progress: &'a dyn Progress,
    tell: &'a mut dyn FnMut(u64, &str),
    copied: &'a mut Copied,
    read_pool: BufferPool,
    write_pool: BufferPool,
    stream: Stream<Extents<'a>>,
    todo: Planned<'a>,
    current: Option<(Entry, u64)>,
    filling: Option<Filling>,
    /// Writes of shared blocks that wait, and how many are in flight.
    sharing: VecDeque<Shared>,
    shared: usize,
    large: HashMap<u64, Large>,
    lanes: Lanes,
    small: SmallFiles,
    committer: Committer,
}

impl<'a> Copy<'a> {
    #[allow(clippy::too_many_arguments)]
    fn new(
        payload: &'a Payload,
        index: &'a Index,
        plan: &'a Plan,
        sums: &'a Checksums,
        store: Arc<dyn Store>,
        queue: Box<dyn Queue>,
        tuning: Tuning,
        progress: &'a dyn Progress,
        tell: &'a mut dyn FnMut(u64, &str),
        copied: &'a mut Copied,
    ) -> Result<Self> {
        let source = Arc::clone(payload.source());
        let extents = extents(None, plan.entries(index, payload)?);
        Ok(Self {
            stream: Stream::new(source, extents, tuning.block_bytes, tuning.reads),
            todo: plan.entries(index, payload)?,
            read_pool: BufferPool::new(tuning.reads + tuning.held, tuning.block_bytes),
            write_pool: BufferPool::new(tuning.writes + 1, tuning.block_bytes),
            small: SmallFiles::new(Arc::clone(&store), SMALL_TOKEN, tuning.small_writers),
            committer: Committer::new(Arc::clone(&store), COMMIT_TOKEN, tuning.due),
            lanes: Lanes::new(LANE_TOKEN),
            large: HashMap::new(),
            current: None,
            filling: None,
            sharing: VecDeque::new(),
            shared: 0,
            payload,
            plan,
            sums,
            store,
            queue,
            tuning,
            progress,
            tell,
            copied,
        })
    }

    /// Runs to the end or the first failure, and then commits what is complete.
    fn run(mut self) -> Result<()> {
        let result = self.run_to_the_end();
        if result.is_ok() {
            return Ok(());
        }
        // Whatever the failure was, what has been read completely may as well be
        // written to its end and have its name.
        let unread: Vec<u64> = self
            .large
            .iter()
            .filter(|(_, l)| !l.read)
            .map(|(id, _)| *id)
            .collect();
        for id in unread {
            self.drop_large(id);
        }
        self.small.end_batch(&mut *self.queue);
        while self.queue.in_flight() > 0 {
            if let Err(e) = self.wait() {
                log::debug!("and then: {e}");
            }
        }
        self.committer.start(&mut *self.queue);
        while self.queue.in_flight() > 0 {
            if let Err(e) = self.wait() {
                log::error!("and then: {e}");
            }
            // Its next step.
            self.committer.start(&mut *self.queue);
        }
        result
    }

    fn run_to_the_end(&mut self) -> Result<()> {
        loop {
            self.refuse_cancelled()?;
            self.stream.submit(&mut *self.queue, &mut self.read_pool)?;
            let mut took = false;
            while let Some(block) = self.stream.pop() {
                self.take(block)?;
                took = true;
            }
            if took {
                continue;
            }
            if self.stream.is_drained() {
                break;
            }
            self.wait()?;
        }
        // Entries without bytes behind the last block.
        self.take_empty_entries()?;
        self.small.end_batch(&mut *self.queue);
        while !self.large.is_empty() || !self.small.is_idle() {
            self.refuse_cancelled()?;
            self.wait()?;
        }
        while !self.committer.is_idle() {
            self.committer.start(&mut *self.queue);
            self.wait()?;
        }
        Ok(())
    }

    /// The one place that waits.
    fn wait(&mut self) -> Result<()> {
        let Some(completion) = self.queue.wait() else {
            return Err(bug("nothing is in flight and something is awaited"));
        };
        let token = completion.token;
        match completion.outcome {
            Outcome::Read(buf, result) => {
                if let Some(stale) = self.stream.complete(token, buf, result) {
                    self.read_pool.give(stale);
                }
                Ok(())
            }
            Outcome::Write(buf, result) => {
                self.write_pool.give(buf);
                self.written(token & !WRITE_TOKEN, result)
            }
            Outcome::WriteShared(result) => {
                self.shared -= 1;
                self.start_shared();
                self.written(token & !WRITE_TOKEN, result)
            }
            Outcome::Job if token == COMMIT_TOKEN => self.committed(),
            Outcome::Job if token == SMALL_TOKEN => self.small_written(),
            Outcome::Job => match self.lanes.complete(&mut *self.queue)? {
                Some((id, sum)) => self.hashed(id, sum),
                None => Ok(()),
            },
        }
    }

    /// Distributes a block of the source to the files that it holds parts of.
    fn take(&mut self, block: Block) -> Result<()> {
        let end = block.start + block.len as u64;
        while let Some((entry, at)) = self.next_entry()? {
            if entry.size > 0 && at >= end {
                break;
            }
            let part = block.overlap(at..entry.end());
            let at = at + part.len() as u64;
            self.current = Some((entry.clone(), at));
            if self.is_small(&entry) {
                self.take_small(&entry, &block, part);
            } else {
                self.take_large(&entry, &block, part)?;
            }
            if at < entry.end() {
                break;
            }
            self.current = None;
            if self.small.is_full() {
                self.small.end_batch(&mut *self.queue);
                self.catch_up()?;
            }
        }
        if let Some(fault) = block.fault {
            self.unreadable(end, fault)?;
        }
        self.read_pool.give_shared(block.data);
        self.small.end_batch(&mut *self.queue);
        self.catch_up()
    }

    /// Waits until what is behind has caught up, so that neither tiny files nor
    /// their names pile up in memory.
    fn catch_up(&mut self) -> Result<()> {
        self.refuse_cancelled()?;
        while self.small.is_behind() || self.committer.is_behind() {
            self.wait()?;
        }
        if self.committer.is_due() {
            self.committer.start(&mut *self.queue);
        }
        Ok(())
    }

    fn refuse_cancelled(&self) -> Result<()> {
        if self.progress.cancelled() {
            Err(Error::interrupted())
        } else {
            Ok(())
        }
    }

    fn is_small(&self, entry: &Entry) -> bool {
        entry.size <= self.tuning.small_max
    }

    fn next_entry(&mut self) -> Result<Option<(Entry, u64)>> {
        if self.current.is_none() {
            let Some(entry) = self.todo.next().transpose()? else {
                return Ok(None);
            };
            let at = entry.data_offset;
            self.current = Some((entry, at));
        }
        Ok(self.current.clone())
    }

    fn take_empty_entries(&mut self) -> Result<()> {
        while let Some((entry, _)) = self.next_entry()? {
            if entry.size > 0 {
                return Err(bug("an entry was not read"));
            }
            self.small
                .add_empty(&entry, self.sums.get(&entry.shown_name()));
            self.current = None;
            if self.small.is_full() {
                self.small.end_batch(&mut *self.queue);
                self.catch_up()?;
            }
        }
        Ok(())
    }

    fn take_small(&mut self, entry: &Entry, block: &Block, part: Range<usize>) {
        let sum = self.sums.get(&entry.shown_name());
        self.progress.advance(part.len() as u64);
        if entry.size == 0 {
            self.small.add_empty(entry, sum);
        } else {
            self.small.add(entry, sum, &block.data, part);
        }
    }

    fn complete(&mut self, entry: &Entry) {
        self.committer.add(Complete {
            slot: entry.index,
            name: entry.shown_name().into_owned(),
            size: entry.size,
            replaces: self.plan.replaces(entry.index),
            cached: self.is_small(entry),
        });
    }

    fn small_written(&mut self) -> Result<()> {
        let mut result = Ok(());
        for (entry, written) in self.small.complete(&mut *self.queue)? {
            match written {
                Written::Complete => self.complete(&entry),
                Written::Mismatch { expected, found } => {
                    self.copied.failed.add(mismatch(&entry, expected, found));
                }
                Written::Failed(e) if result.is_ok() => {
                    result = Err(failed("writing", e, &entry));
                }
                Written::Failed(_) => {}
            }
        }
        result
    }

    fn committed(&mut self) -> Result<()> {
        let committed = self.committer.complete(&mut *self.queue)?;
        for file in committed.settled {
            self.copied.files += 1;
            self.copied.bytes += file.size;
            self.copied.replaced += u64::from(file.replaces);
            self.progress.file_done(&file.name);
            (self.tell)(file.slot, &file.name);
        }
        committed.result
    }

    /// The source cannot be read at `at`: fails if a wanted entry lies there, and
    /// goes on behind it if none does.
    fn unreadable(&mut self, at: u64, fault: io::Error) -> Result<()> {
        let Some((entry, from)) = self.next_entry()? else {
            return Ok(());
        };
        // A sector is bad as a whole, and may start before the entry does.
        let sector = self.payload.source().granule() as u64;
        if at < entry.end() && at + sector > from {
            let cause = match fault.kind() {
                io::ErrorKind::UnexpectedEof => Cause::Shrunk,
                _ => Cause::Io(fault),
            };
            return Err(entry
                .problem(at.max(from), cause)
                .into_error(&**self.payload.source()));
        }
        let again = entry.data_offset..entry.end();
        self.stream.restart(extents(Some(again), self.todo.fork()?));
        Ok(())
    }
}

fn failed(doing: &str, e: io::Error, entry: &Entry) -> Error {
    Error::io(doing, e).entry(entry.index, Some(&entry.shown_name()))
}

/// Where the data of `again`, and then of `entries`, lies.
fn extents<'a>(again: Option<Range<u64>>, entries: Planned<'a>) -> Extents<'a> {
    let rest = entries.map(|entry| entry.map(|entry| entry.data_offset..entry.end()));
    Box::new(again.map(Ok).into_iter().chain(rest))
}
