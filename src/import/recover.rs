//! Recovers the files that the copy could not read in large blocks, or read wrong: sector by
//! sector, then from the other copies, then by trying again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::block::{AlignedBuf, Ranges, Source};
use crate::durable::settle;
use crate::error::{Error, Result};
use crate::payload::{Bits, Cause, Entry, Sha256Sum, read_around};
use crate::sys::drop_cached;

use super::commit::{Complete, commit_now};
use super::job::{Copied, CopyJob, Recovery};

/// The size of one read in bytes, where nothing is known to be bad.
const BLOCK_BYTES: usize = 256 * 1024;

/// The number of recovered files that are committed together.
const BATCH_FILES: usize = 256;

/// The state of a file after an attempt.
enum State {
    Complete,
    Wrong(Sha256Sum),
    /// These ranges are missing, in bytes from the start of the source.
    Holes(Ranges),
}

pub(super) struct Recoverer<'a> {
    job: &'a CopyJob<'a>,
    recovery: Recovery,
    copied: &'a mut Copied,
    tell: &'a mut dyn FnMut(u64, &str),
    copies: Vec<Arc<dyn Source>>,
    buf: AlignedBuf,
    /// The bytes of the current file that came from each copy but the first.
    taken: Vec<u64>,
    complete: Vec<Complete>,
}

impl<'a> Recoverer<'a> {
    pub(super) fn new(
        job: &'a CopyJob<'a>,
        recovery: Recovery,
        copied: &'a mut Copied,
        tell: &'a mut dyn FnMut(u64, &str),
    ) -> Result<Self> {
        let source = job.index.payload().source();
        let copies = match source.copies() {
            [] => vec![Arc::clone(source)],
            copies => copies.to_vec(),
        };
        let bytes = BLOCK_BYTES.min(job.tuning.block_bytes);
        let no_memory = |e| Error::io("get a buffer to read", e).with_path(source.path());
        Ok(Self {
            buf: AlignedBuf::new(bytes).map_err(no_memory)?,
            taken: vec![0; copies.len()],
            complete: Vec::new(),
            job,
            recovery,
            copied,
            tell,
            copies,
        })
    }

    /// Recovers the files of `damaged`, which have holes, and of `wrong`, whose checksum does not
    /// match. Those that cannot be recovered are added to the failed ones.
    pub(super) fn run(mut self, damaged: &Bits, wrong: &Bits) -> Result<()> {
        let result = self.recover(damaged, wrong);
        result.and(self.commit())
    }

    fn recover(&mut self, damaged: &Bits, wrong: &Bits) -> Result<()> {
        let mut left = Bits::default();
        for entry in self.job.index.entries()? {
            let entry = entry?;
            if !damaged.get(entry.index) {
                continue;
            }
            match self.read_holes(&entry)? {
                State::Complete => {}
                State::Wrong(found) if self.copies.len() == 1 => self.fail_wrong(&entry, found)?,
                _ => left.set(entry.index)?,
            }
        }
        self.commit()?;
        if self.copies.len() > 1 {
            let others = left;
            left = Bits::default();
            for entry in self.job.index.entries()? {
                let entry = entry?;
                let is_wrong = wrong.get(entry.index);
                if (others.get(entry.index) || is_wrong) && !self.take_copies(&entry, is_wrong)? {
                    left.set(entry.index)?;
                }
            }
            self.commit()?;
        }
        for _ in 0..self.recovery.retries {
            left = self.retry(left)?;
            self.commit()?;
        }
        for entry in self.job.index.entries()? {
            let entry = entry?;
            if left.get(entry.index) {
                self.fail_with_holes(&entry)?;
            }
        }
        self.job.progress.end();
        Ok(())
    }

    /// Reads the sectors that the copy skipped, from the first copy.
    fn read_holes(&mut self, entry: &Entry) -> Result<State> {
        let range = entry.data_offset..entry.end();
        let file = self.reopen(entry)?;
        self.taken.fill(0);
        let faults = self.copies[0].faults();
        let holes = match faults.filter(|_| !self.job.is_small(entry)) {
            Some(faults) => faults.holes_in(range),
            None => Ranges::from(range),
        };
        let phase = format!("reading around bad sectors of {}", entry.shown_name());
        self.job.progress.begin(&phase, holes.count());
        let missing = self.fill(&file, entry, 0, &holes)?;
        self.end(entry, &file, missing)
    }

    /// Fills what is missing of a file from the other copies. Returns false if some of it is still
    /// missing.
    fn take_copies(&mut self, entry: &Entry, is_wrong: bool) -> Result<bool> {
        self.job.progress.begin(
            &format!("reading another copy of {}", entry.shown_name()),
            entry.size,
        );
        let sum = self.job.sums.get(&entry.shown_name());
        let file = self.reopen(entry)?;
        self.taken.fill(0);
        let mut state = State::Holes(self.holes(entry, 1));
        if is_wrong {
            state = State::Wrong(Sha256Sum::of(b""));
        }
        for other in 1..self.copies.len() {
            let State::Holes(holes) = &state else { break };
            // Without a checksum, only a comparison shows that both hold the same file.
            if sum.is_none() {
                if let Some(at) = self.first_difference(&file, entry, other, holes)? {
                    self.fail(
                        entry,
                        at,
                        Cause::CopiesDiffer {
                            other: self.copies[other].path().to_owned(),
                        },
                    )?;
                    return Ok(true);
                }
            }
            let holes = holes.clone();
            let missing = self.fill(&file, entry, other, &holes)?;
            state = self.end(entry, &file, missing)?;
        }
        // A copy may be wrong without a read error: the checksum tells which one is right.
        for first in 1..self.copies.len() {
            if !matches!(state, State::Wrong(_)) {
                break;
            }
            self.taken.fill(0);
            let mut missing = Ranges::from(entry.data_offset..entry.end());
            for n in 0..self.copies.len() {
                let copy = (first + n) % self.copies.len();
                missing = self.fill(&file, entry, copy, &missing)?;
            }
            if missing.is_empty() {
                state = self.end(entry, &file, missing)?;
            }
        }
        match state {
            State::Complete => Ok(true),
            State::Holes(_) => Ok(false),
            State::Wrong(found) => self.fail_wrong(entry, found).map(|()| true),
        }
    }

    /// Reads the bad sectors of the files of `left` once more. Returns the files that still have
    /// some.
    fn retry(&mut self, left: Bits) -> Result<Bits> {
        let mut again = Bits::default();
        let bad: Vec<Ranges> = self
            .copies
            .iter()
            .map(|copy| copy.faults().map(|f| f.retry_bad()).unwrap_or_default())
            .collect();
        for entry in self.job.index.entries()? {
            let entry = entry?;
            if !left.get(entry.index) {
                continue;
            }
            let range = entry.data_offset..entry.end();
            let mut missing = Ranges::from(range);
            for bad in &bad {
                missing = missing.common(bad);
            }
            let name = entry.shown_name();
            let phase = format!("retrying bad sectors of {name}");
            self.job.progress.begin(&phase, missing.count());
            let file = self.reopen(&entry)?;
            self.taken.fill(0);
            for copy in 0..self.copies.len() {
                missing = self.fill(&file, &entry, copy, &missing)?;
            }
            match self.end(&entry, &file, missing)? {
                State::Complete => {}
                State::Wrong(found) => self.fail_wrong(&entry, found)?,
                State::Holes(_) => again.set(entry.index)?,
            }
        }
        Ok(again)
    }

    /// Returns what the first `copies` copies cannot give of a file.
    fn holes(&self, entry: &Entry, copies: usize) -> Ranges {
        let range = entry.data_offset..entry.end();
        let copies = self.copies[..copies].iter();
        copies.fold(Ranges::from(range.clone()), |holes, copy| {
            match copy.faults() {
                Some(faults) => holes.common(&faults.bad_in(range.clone())),
                None => holes,
            }
        })
    }

    /// Reads `holes` from a copy into the staged file. Returns what is still missing.
    fn fill(&mut self, file: &File, entry: &Entry, copy: usize, holes: &Ranges) -> Result<Ranges> {
        let mut missing = Ranges::default();
        let (mut filled, progress) = (0, self.job.progress);
        for hole in holes.iter() {
            let source = &*self.copies[copy];
            let bad = read_around(source, hole, &mut self.buf, progress, &mut |at, bytes| {
                filled += bytes.len() as u64;
                progress.advance(bytes.len() as u64);
                file.write_all_at(bytes, at - entry.data_offset)
                    .map_err(failed("write", entry))
            })?;
            bad.iter().for_each(|range| missing.add(range));
        }
        self.taken[copy] += filled;
        Ok(missing)
    }

    /// Returns the first byte outside of `holes` where a copy differs from the staged file.
    fn first_difference(
        &mut self,
        file: &File,
        entry: &Entry,
        copy: usize,
        holes: &Ranges,
    ) -> Result<Option<u64>> {
        let mut known = Ranges::from(entry.data_offset..entry.end());
        holes.iter().for_each(|hole| known.remove(hole));
        let mut differs = None;
        let mut own = vec![0; self.buf.len()];
        for range in known.iter() {
            let source = &*self.copies[copy];
            read_around(
                source,
                range,
                &mut self.buf,
                self.job.progress,
                &mut |at, bytes| {
                    let own = &mut own[..bytes.len()];
                    file.read_exact_at(own, at - entry.data_offset)
                        .map_err(failed("read", entry))?;
                    if let Some(n) = own.iter().zip(bytes).position(|(a, b)| a != b) {
                        differs.get_or_insert(at + n as u64);
                    }
                    Ok(())
                },
            )?;
            if differs.is_some() {
                break;
            }
        }
        Ok(differs)
    }

    /// Checks a staged file of which `missing` could not be read. A complete one waits for its
    /// name from here on.
    fn end(&mut self, entry: &Entry, file: &File, missing: Ranges) -> Result<State> {
        if !missing.is_empty() {
            return Ok(State::Holes(missing));
        }
        let name = entry.shown_name();
        if let Some(expected) = self.job.sums.get(&name) {
            let found = sum_of(file).map_err(failed("read", entry))?;
            if found != expected {
                return Ok(State::Wrong(found));
            }
        }
        settle(file).map_err(failed("sync", entry))?;
        for (total, taken) in self.copied.from.iter_mut().zip(&self.taken).skip(1) {
            *total += taken;
        }
        self.complete.push(Complete {
            slot: entry.index,
            name: name.into_owned(),
            size: entry.size,
            replaces: self.job.plan.replaces(entry.index),
            cached: false,
        });
        if self.complete.len() >= BATCH_FILES {
            self.commit()?;
        }
        Ok(State::Complete)
    }

    fn commit(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.complete);
        let committed = commit_now(&*self.job.store, batch);
        for file in committed.settled {
            self.copied.settled(&file, self.job.progress, self.tell);
        }
        committed.result
    }

    fn reopen(&self, entry: &Entry) -> Result<File> {
        let store = &self.job.store;
        store
            .reopen(entry.index, entry.size)
            .map_err(reopened(entry))
    }

    fn fail_with_holes(&mut self, entry: &Entry) -> Result<()> {
        let ranges: Vec<Range<u64>> = self.holes(entry, self.copies.len()).iter().collect();
        let error = self.copies[0].faults().map(|faults| faults.error());
        let error = error.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EIO));
        let at = ranges
            .first()
            .map_or(entry.data_offset, |range| range.start);
        self.fail(entry, at, Cause::BadSectors { error, ranges })
    }

    fn fail_wrong(&mut self, entry: &Entry, found: Sha256Sum) -> Result<()> {
        let expected = self.job.sums.get(&entry.shown_name()).unwrap_or(found);
        self.fail(
            entry,
            entry.data_offset,
            Cause::Checksum { expected, found },
        )
    }

    fn fail(&mut self, entry: &Entry, at: u64, cause: Cause) -> Result<()> {
        let keeps = self.recovery.keep_partial && matches!(cause, Cause::BadSectors { .. });
        self.copied.failed.add(entry.problem(at, cause));
        if keeps {
            return self.copied.partial.set(entry.index);
        }
        self.job
            .store
            .discard(entry.index)
            .map_err(failed("remove", entry))
    }
}

fn failed<'a>(doing: &'static str, entry: &'a Entry) -> impl Fn(io::Error) -> Error + 'a {
    move |e| Error::io(doing, e).with_entry(entry.index, Some(&entry.shown_name()))
}

fn reopened(entry: &Entry) -> impl Fn(io::Error) -> Error + '_ {
    failed("open the staged file of", entry)
}

fn sum_of(file: &File) -> io::Result<Sha256Sum> {
    let mut hasher = Sha256::new();
    let mut buf = vec![0; BLOCK_BYTES];
    let mut at = 0;
    loop {
        let n = file.read_at(&mut buf, at)?;
        if n == 0 {
            return Ok(Sha256Sum::from_hasher(hasher));
        }
        hasher.update(&buf[..n]);
        drop_cached(file.as_fd(), at, n as u64);
        at += n as u64;
    }
}
