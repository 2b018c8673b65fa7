//! Copies files: one ordered stream of reads, several writes, one loop.
//!
//! The loop owns every buffer. It waits in one place only, on the queue, which returns
//! reads, writes, hashes, small files and commits. It never waits with nothing in
//! flight, and it handles everything that is ready before it waits.

use std::ops::Range;
use std::sync::Arc;

use crate::block::{AlignedBuf, Completion};
use crate::error::{Error, Result};
use crate::payload::{Entry, EntryStream, OnFault, Piece, Problem};

use super::commit::{Committer, Complete, Step};
use super::job::{Bad, Copied, CopyJob, Done, What};
use super::large::{Ended, LargeFiles};
use super::small::{Batch, SmallFiles, Written};
use super::tuning::Tuning;

pub(super) struct Copy<'j, 'a> {
    job: &'j mut CopyJob<'a>,
    tell: &'j mut dyn FnMut(u64, &str),
    copied: &'j mut Copied,
    bad: &'j mut Bad,
    stream: EntryStream<'a>,
    large: LargeFiles,
    small: SmallFiles,
    committer: Committer,
}

impl<'j, 'a> Copy<'j, 'a> {
    pub(super) fn new(
        job: &'j mut CopyJob<'a>,
        tell: &'j mut dyn FnMut(u64, &str),
        copied: &'j mut Copied,
        bad: &'j mut Bad,
    ) -> Result<Self> {
        let Tuning {
            block_bytes,
            reads,
            held,
            writes,
            small_writers,
            batch,
            ..
        } = job.tuning;
        let plan = job.plan;
        let wanted = |index| plan.writes(index);
        let on_fault = match job.recovery {
            Some(_) => OnFault::Skip,
            None => OnFault::Find,
        };
        Ok(Self {
            stream: EntryStream::new(job.index, wanted, block_bytes, reads, held, on_fault)?,
            large: LargeFiles::new(Arc::clone(&job.store), block_bytes, writes),
            small: SmallFiles::new(Arc::clone(&job.store), small_writers),
            committer: Committer::new(Arc::clone(&job.store), batch),
            job,
            tell,
            copied,
            bad,
        })
    }

    /// Runs to the end or to the first failure, and then commits the complete files.
    pub(super) fn run(mut self) -> Result<()> {
        let result = self.run_to_the_end();
        if result.is_ok() {
            return Ok(());
        }
        // Files that have been read completely are still written and committed, whatever
        // the failure was.
        self.large.discard_unread();
        self.small.end_batch(&mut *self.job.queue);
        while self.job.queue.in_flight() > 0 {
            if let Err(e) = self.wait() {
                log::debug!("and then: {e}");
            }
        }
        self.committer.start(&mut *self.job.queue);
        while self.job.queue.in_flight() > 0 {
            if let Err(e) = self.wait() {
                log::error!("and then: {e}");
            }
            // Starts the next step of the commit.
            self.committer.start(&mut *self.job.queue);
        }
        result
    }

    fn run_to_the_end(&mut self) -> Result<()> {
        loop {
            self.refuse_cancelled()?;
            self.stream.submit(&mut *self.job.queue)?;
            if let Some(piece) = self.stream.next_piece()? {
                self.take(piece)?;
            } else if self.stream.is_done()? {
                break;
            } else {
                self.wait()?;
            }
        }
        self.small.end_batch(&mut *self.job.queue);
        while !self.large.is_idle() || !self.small.is_idle() {
            self.refuse_cancelled()?;
            self.wait()?;
        }
        while !self.committer.is_idle() {
            self.committer.start(&mut *self.job.queue);
            self.wait()?;
        }
        Ok(())
    }

    /// Waits for the next completion. Nothing else here waits.
    fn wait(&mut self) -> Result<()> {
        let queue = &mut *self.job.queue;
        let done = match queue.wait() {
            Some(Completion::Read { id, buf, result }) => {
                self.stream.complete_read(id, buf, result, queue);
                return Ok(());
            }
            Some(Completion::Write { id, buf, result }) => {
                let ended = self.large.written(id, buf, result)?;
                return self.large_ended(ended);
            }
            Some(Completion::WriteShared { id, result }) => {
                let ended = self.large.written_shared(id, result, queue)?;
                return self.large_ended(ended);
            }
            Some(Completion::Job(Done(done))) => done,
            Some(Completion::Panicked) => return Err(Error::bug("a thread panicked")),
            None => return Err(Error::bug("nothing is in flight and something is awaited")),
        };
        match done {
            What::Reread(done) => self.stream.complete_reread(done),
            What::Hashed(done) => {
                let ended = self.large.hashed(done, queue)?;
                self.large_ended(ended)?;
            }
            What::Small(batch) => {
                self.small.complete(queue);
                self.small_written(batch)?;
            }
            What::Committed(step) => self.committed(step)?,
        }
        Ok(())
    }

    /// Passes a piece of an entry on to its file.
    fn take(&mut self, piece: Piece) -> Result<()> {
        match piece {
            Piece::Empty(entry) => {
                let sum = self.job.sums.get(&entry.shown_name());
                self.small.add_empty(entry, sum);
                self.end_full_batch()
            }
            Piece::Bytes {
                entry,
                offset,
                block,
                range,
            } => {
                if self.job.is_small(&entry) {
                    self.take_small(entry, block, range)
                } else {
                    self.take_large(&entry, offset, &block, range)
                }
            }
            Piece::Gap {
                entry,
                offset,
                block,
                range,
            } => self.take_gap(&entry, offset, &block, range),
            Piece::Unreadable { entry, at, cause } => {
                let source = self.job.index.payload().source();
                Err(entry.problem(at, cause).into_error(&**source))
            }
            Piece::EndOfBlock => {
                self.small.end_batch(&mut *self.job.queue);
                self.catch_up()
            }
        }
    }

    /// Waits until the later stages have caught up, so that neither tiny files nor their
    /// names pile up in memory.
    fn catch_up(&mut self) -> Result<()> {
        self.refuse_cancelled()?;
        while self.small.is_behind() || self.committer.is_behind() {
            self.wait()?;
        }
        if self.committer.is_due() {
            self.committer.start(&mut *self.job.queue);
        }
        Ok(())
    }

    fn refuse_cancelled(&self) -> Result<()> {
        if self.job.progress.cancelled() {
            Err(Error::interrupted())
        } else {
            Ok(())
        }
    }

    /// Leaves the entry for the recovery. If it is large, its other bytes are written already.
    fn take_gap(
        &mut self,
        entry: &Arc<Entry>,
        offset: u64,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
    ) -> Result<()> {
        self.bad.any = true;
        self.bad.damaged.set(entry.index)?;
        // The recovery reads it.
        self.job.progress.skip(range.len() as u64);
        if self.job.is_small(entry) {
            self.small.forget_partial();
            return Ok(());
        }
        if offset == 0 {
            self.large.open(entry, None)?;
        }
        self.large.damage(entry.index);
        self.write_large(entry, offset, block, range)
    }

    fn take_small(
        &mut self,
        entry: Arc<Entry>,
        block: Arc<AlignedBuf>,
        range: Range<usize>,
    ) -> Result<()> {
        if self.bad.any && self.bad.damaged.get(entry.index) {
            return Ok(());
        }
        let sum = self.job.sums.get(&entry.shown_name());
        self.job.progress.advance(range.len() as u64);
        self.small.add(entry, sum, block, range);
        self.end_full_batch()
    }

    fn take_large(
        &mut self,
        entry: &Arc<Entry>,
        offset: u64,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
    ) -> Result<()> {
        if offset == 0 {
            let expected = self.job.sums.get(&entry.shown_name());
            self.large.open(entry, expected)?;
        }
        let queue = &mut *self.job.queue;
        self.large.hash(entry.index, block, range.clone(), queue);
        self.job.progress.advance(range.len() as u64);
        self.write_large(entry, offset, block, range)
    }

    fn write_large(
        &mut self,
        entry: &Arc<Entry>,
        mut offset: u64,
        block: &Arc<AlignedBuf>,
        mut range: Range<usize>,
    ) -> Result<()> {
        while !range.is_empty() {
            let queue = &mut *self.job.queue;
            let n = self
                .large
                .write(entry, offset, block, range.clone(), queue)?;
            if n == 0 {
                self.wait()?;
            }
            offset += n as u64;
            range.start += n;
        }
        if offset == entry.size {
            let ended = self.large.close(entry.index)?;
            self.large_ended(ended)?;
        }
        Ok(())
    }

    fn large_ended(&mut self, ended: Option<Ended>) -> Result<()> {
        match ended {
            Some(Ended::Complete(entry)) => self.complete(&entry),
            Some(Ended::Mismatch(problem)) => self.mismatch(problem)?,
            Some(Ended::Damaged) | None => {}
        }
        Ok(())
    }

    /// Another copy may hold the file as its checksum says.
    fn mismatch(&mut self, problem: Problem) -> Result<()> {
        match problem.index {
            Some(index) if self.job.recovery.is_some() && self.copied.from.len() > 1 => {
                self.bad.any = true;
                self.bad.wrong.set(index)
            }
            _ => {
                self.copied.failed.add(problem);
                Ok(())
            }
        }
    }

    fn end_full_batch(&mut self) -> Result<()> {
        if self.small.is_full() {
            self.small.end_batch(&mut *self.job.queue);
            self.catch_up()?;
        }
        Ok(())
    }

    fn complete(&mut self, entry: &Entry) {
        self.committer.add(Complete {
            slot: entry.index,
            name: entry.shown_name().into_owned(),
            size: entry.size,
            replaces: self.job.plan.replaces(entry.index),
            cached: self.job.is_small(entry),
        });
    }

    fn small_written(&mut self, batch: Batch) -> Result<()> {
        let mut result = Ok(());
        for (entry, written) in batch.0 {
            match written {
                Written::Complete => self.complete(&entry),
                Written::Mismatch { expected, found } => {
                    self.mismatch(entry.mismatch(expected, found))?;
                }
                Written::Failed(e) if result.is_ok() => {
                    let name = entry.shown_name();
                    result = Err(Error::io("write", e).with_entry(entry.index, Some(&name)));
                }
                Written::Failed(_) => {}
            }
        }
        result
    }

    fn committed(&mut self, step: Step) -> Result<()> {
        let committed = self.committer.complete(step, &mut *self.job.queue);
        for file in committed.settled {
            let progress = self.job.progress;
            self.copied.settled(&file, progress, self.tell);
        }
        committed.result
    }
}
