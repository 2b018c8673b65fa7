//! The copy: one ordered stream of reads, several writes, one loop.
//!
//! The loop owns every buffer and waits in one place, on the queue, where reads,
//! writes, hashing, small files and commits all come back. It never waits with
//! nothing in flight, and looks at what is ready before it waits.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::block::{AlignedBuf, BufferPool, Outcome, PAGE, Queue, Sink};
use crate::durable::Store;
use crate::error::{Error, Result};
use crate::payload::{
    Block, Cause, Checksums, Entry, Index, Lanes, Payload, Problems, Sha256Sum, Stream,
};
use crate::progress::Progress;

use super::commit::{Committer, Complete};
use super::plan::{Plan, Planned};
use super::small::{SmallFiles, Written};
use super::{bug, mismatch};

const WRITE_TOKEN: u64 = 1 << 62;
const LANE_TOKEN: u64 = 1 << 61;
const SMALL_TOKEN: u64 = 1 << 60;
const COMMIT_TOKEN: u64 = 1 << 59;

/// Writes of shared blocks in flight.
const SHARED_WRITES: usize = 2;

/// A part of a block to write: the file, the block, which part, where to.
type Shared = (u64, Arc<AlignedBuf>, Range<usize>, u64);

/// Sizes and depths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes of one read or write: a multiple of a page.
    pub block_bytes: usize,
    /// Reads in flight.
    pub reads: usize,
    /// Blocks that were read and are still being hashed or written.
    pub held: usize,
    /// Writes in flight.
    pub writes: usize,
    /// Files up to this size are written whole, through the page cache.
    pub small_max: u64,
    /// Threads that write small files.
    pub small_writers: usize,
    /// Threads that hash.
    pub hashers: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            block_bytes: 1 << 20,
            reads: 6,
            held: 6,
            writes: 6,
            small_max: 64 * 1024,
            small_writers: 1,
            hashers: std::thread::available_parallelism()
                .map_or(1, Into::into)
                .min(4),
        }
    }
}

impl Tuning {
    /// What fits a budget of `bytes` for everything: a third of it for the blocks,
    /// which are smaller and fewer where it is less than the default's 64 MiB.
    pub fn for_memory(bytes: u64) -> Self {
        let default = Self::default();
        let blocks = (default.reads + default.held + default.writes + 1) as u64;
        // Larger blocks gain nothing, and smaller ones than 16 KiB only cost.
        let room = (bytes / 3 / blocks).clamp(16 << 10, 1 << 20);
        // The largest power of two that fits.
        let block_bytes = 1_usize << room.ilog2();
        Self {
            block_bytes,
            small_max: default.small_max.min(block_bytes as u64),
            ..default
        }
    }

    /// Reads and writes at once.
    pub fn in_flight(&self) -> usize {
        self.reads + self.writes
    }

    /// Threads for everything that is no read or write: small files, hashing, a
    /// commit, shared blocks.
    pub fn jobs(&self) -> usize {
        self.small_writers + self.hashers + 1 + SHARED_WRITES
    }
}

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

/// A large file on its way.
struct Large {
    entry: Entry,
    sink: Arc<dyn Sink>,
    writing: usize,
    read: bool,
    expected: Option<Sha256Sum>,
    found: Option<Sha256Sum>,
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
            committer: Committer::new(Arc::clone(&store), COMMIT_TOKEN),
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

    fn take_large(&mut self, entry: &Entry, block: &Block, part: Range<usize>) -> Result<()> {
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
    fn start_shared(&mut self) {
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

    fn written(&mut self, id: u64, result: io::Result<()>) -> Result<()> {
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
    fn drop_large(&mut self, id: u64) {
        self.large.remove(&id);
        self.lanes.abandon(id);
        self.sharing.retain(|(of, ..)| *of != id);
        if let Err(e) = self.store.discard(id) {
            log::debug!("an incomplete file stays for the next run to remove: {e}");
        }
    }

    fn hashed(&mut self, id: u64, sum: Sha256Sum) -> Result<()> {
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
        let committed = self.committer.complete()?;
        for file in committed.named {
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
