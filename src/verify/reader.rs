//! Reads every byte in order, hashes what has a checksum, and goes on behind what
//! cannot be read.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::block::{BufferPool, Outcome, Queue};
use crate::error::{Error, Kind, Result};
use crate::payload::{
    Block, Cause, Checksums, Entries, Entry, Index, Lanes, Payload, Sha256Sum, Stream,
};
use crate::progress::Progress;

use super::{FileVerdict, Report, source_of};

/// Blocks in flight.
pub(super) const DEPTH: usize = 6;
/// Bytes of a block.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that may wait to be hashed meanwhile.
const HASHING: usize = 8;
/// Files up to this size that lie within a block are hashed on the spot: a lane
/// each would cost more than the hashing.
const SMALL_MAX: u64 = 64 * 1024;
/// Tokens with this bit are hashing jobs.
const LANE_TOKEN: u64 = 1 << 62;

type Extents<'a> = Box<dyn Iterator<Item = Result<Range<u64>>> + 'a>;

pub(super) struct Reader<'a> {
    payload: &'a Payload,
    sums: &'a mut Checksums,
    queue: Box<dyn Queue>,
    pool: BufferPool,
    stream: Stream<Extents<'a>>,
    entries: Entries<'a>,
    /// The entry that is being read, and how far.
    current: Option<(Entry, u64)>,
    lanes: Lanes,
    waiting: HashMap<u64, (Entry, Sha256Sum)>,
    verdicts: InOrder<'a>,
    report: &'a mut Report,
    progress: &'a dyn Progress,
    has_sums: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        payload: &'a Payload,
        index: &'a Index,
        sums: &'a mut Checksums,
        queue: Box<dyn Queue>,
        report: &'a mut Report,
        tell: &'a mut dyn FnMut(&str, FileVerdict),
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        Ok(Self {
            stream: Stream::new(
                source_of(payload),
                extents(None, index.entries(payload)?),
                BLOCK_BYTES,
                DEPTH,
            ),
            entries: index.entries(payload)?,
            has_sums: !sums.is_empty(),
            payload,
            sums,
            queue,
            pool: BufferPool::new(DEPTH + HASHING, BLOCK_BYTES),
            current: None,
            lanes: Lanes::new(LANE_TOKEN),
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
            self.stream.submit(&mut *self.queue, &mut self.pool)?;
            let mut took = false;
            while let Some(block) = self.stream.pop() {
                self.take(block)?;
                took = true;
            }
            if took {
                continue;
            }
            if self.stream.is_drained() && self.waiting.is_empty() {
                break;
            }
            self.wait()?;
        }
        // Entries without data behind the last block.
        while self.next_entry()?.is_some() {
            self.entry_read()?;
        }
        while !self.waiting.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let Some(completion) = self.queue.wait() else {
            return Err(Error::new(
                Kind::Io,
                "nothing is in flight and something is awaited; this is a bug in lbpayload",
            ));
        };
        match completion.outcome {
            Outcome::Read(buf, result) => {
                if let Some(stale) = self.stream.complete(completion.token, buf, result) {
                    self.pool.give(stale);
                }
            }
            Outcome::Write(..) | Outcome::WriteShared(_) => {}
            Outcome::Job => {
                if let Some((id, found)) = self.lanes.complete(&mut *self.queue)? {
                    self.hashed(id, found);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, block: Block) -> Result<()> {
        let end = block.start + block.len as u64;
        while let Some((entry, at)) = self.next_entry()? {
            let part = block.overlap(at..entry.end());
            let (id, bytes) = (entry.index, part.len() as u64);
            if bytes == entry.size && bytes <= SMALL_MAX {
                self.progress.advance(bytes);
                self.current = None;
                self.lanes.abandon(id);
                if self.waiting.contains_key(&id) {
                    self.hashed(id, Sha256Sum::of(&block.data[part]));
                }
                continue;
            }
            if bytes > 0 {
                self.lanes.feed(id, &block.data, part, &mut *self.queue);
                self.progress.advance(bytes);
            }
            let at = at + bytes;
            if at < entry.end() {
                self.current = Some((entry, at));
                break;
            }
            self.current = Some((entry, at));
            self.entry_read()?;
        }
        if let Some(fault) = block.fault {
            self.unreadable(end, fault)?;
        }
        self.pool.give_shared(block.data);
        Ok(())
    }

    /// The entry to go on with, and from where. Opens its lane when it is a new one.
    fn next_entry(&mut self) -> Result<Option<(Entry, u64)>> {
        if self.current.is_none() {
            let Some(entry) = self.entries.next().transpose()? else {
                return Ok(None);
            };
            match self.sums.take(&entry.shown_name()) {
                Some(expected) => {
                    self.lanes.open(entry.index);
                    self.waiting.insert(entry.index, (entry.clone(), expected));
                }
                None if self.has_sums
                    && entry.raw_name != crate::format::EMBEDDED_SUMS.as_bytes() =>
                {
                    self.report.unlisted += 1;
                    self.verdicts.put(&entry, Some(FileVerdict::Unlisted));
                }
                None => self.verdicts.put(&entry, None),
            }
            let at = entry.data_offset;
            self.current = Some((entry, at));
        }
        Ok(self.current.clone())
    }

    /// The current entry has been read to its end.
    fn entry_read(&mut self) -> Result<()> {
        if let Some((entry, _)) = self.current.take() {
            if let Some(found) = self.lanes.close(entry.index) {
                self.hashed(entry.index, found);
            }
        }
        Ok(())
    }

    fn hashed(&mut self, id: u64, found: Sha256Sum) {
        let Some((entry, expected)) = self.waiting.remove(&id) else {
            return;
        };
        let verdict = if found == expected {
            self.report.matched += 1;
            FileVerdict::Ok
        } else {
            let cause = Cause::Checksum { expected, found };
            self.report
                .problems
                .add(entry.problem(entry.data_offset, cause));
            FileVerdict::Failed
        };
        self.verdicts.put(&entry, Some(verdict));
    }

    /// The source cannot be read at `at`: blames the entry that lies there, and
    /// goes on at the next one.
    fn unreadable(&mut self, at: u64, fault: std::io::Error) -> Result<()> {
        let Some((entry, from)) = self.next_entry()? else {
            return Ok(());
        };
        // A sector is bad as a whole, and may start before the entry does.
        let sector = self.payload.source().granule() as u64;
        let again = if at < entry.end() && at + sector > from {
            let gone = fault.kind() == std::io::ErrorKind::UnexpectedEof;
            self.blame(&entry, at.max(from), gone.then_some(()).ok_or(fault));
            if gone {
                // Nothing behind the end can be had either.
                while let Some((entry, from)) = self.next_entry()? {
                    self.blame(&entry, from, Ok(()));
                }
            }
            None
        } else {
            // Between two entries: a header, which the index has read.
            Some(entry.data_offset..entry.end())
        };
        self.stream.restart(extents(again, self.entries.fork()?));
        Ok(())
    }

    /// The current entry cannot be read at `at`: the source has become shorter
    /// (`Ok`), or fails.
    fn blame(&mut self, entry: &Entry, at: u64, shrunk: std::result::Result<(), std::io::Error>) {
        let cause = shrunk.map_or_else(Cause::Io, |()| Cause::Shrunk);
        self.report.problems.add(entry.problem(at, cause));
        self.lanes.abandon(entry.index);
        if self.waiting.remove(&entry.index).is_some() {
            self.verdicts.put(entry, Some(FileVerdict::Failed));
        }
        self.current = None;
    }
}

/// Where the data of `again`, and then of `entries`, lies.
fn extents<'a>(again: Option<Range<u64>>, entries: Entries<'a>) -> Extents<'a> {
    let rest = entries.map(|entry| entry.map(|entry| entry.data_offset..entry.end()));
    Box::new(again.map(Ok).into_iter().chain(rest))
}

/// Tells the verdicts in the order of the entries, whatever order they come in.
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
