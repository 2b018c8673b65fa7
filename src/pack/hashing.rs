//! Hashes the inputs on other threads, while they are read and written.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::block::{AlignedBuf, BufferPool, Completion, Queue, ThreadQueue};
use crate::error::{Error, Result};
use crate::payload::{Hashed, Lanes, Sha256Sum, sum_line};

use super::plan::Plan;
use super::read_back::BLOCK;

/// The number of threads. Two files next to each other can be hashed at the same time.
const THREADS: usize = 2;

/// The number of blocks that are read, written, or wait to be hashed.
const BLOCKS: usize = 6;

/// The largest input, in bytes, that is hashed directly. Passing it to a thread costs about as
/// much.
pub(super) const SMALL_MAX: u64 = 16 * 1024;

/// The checksums of a plan's inputs, if it wants any.
pub(super) struct Hashing<'a> {
    plan: &'a Plan,
    /// `None` if nothing is hashed.
    queue: Option<ThreadQueue<Hashed>>,
    lanes: Lanes,
    pool: BufferPool,
    /// The sums that are known before that of an earlier input.
    known: BTreeMap<u64, Sha256Sum>,
    next: u64,
    /// A line for each input up to `next`, if the plan embeds them.
    lines: String,
}

impl<'a> Hashing<'a> {
    /// Starts the threads if the plan wants checksums.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn new(plan: &'a Plan) -> Result<Self> {
        let start = || ThreadQueue::new(THREADS).map_err(|e| Error::io("start threads", e));
        Ok(Self {
            plan,
            queue: plan.hashes().then(start).transpose()?,
            lanes: Lanes::default(),
            pool: BufferPool::new(BLOCKS, BLOCK),
            known: BTreeMap::new(),
            next: 0,
            lines: String::new(),
        })
    }

    /// Returns a buffer of [`BLOCK`] bytes. Waits until one has been hashed if all are in use.
    ///
    /// # Errors
    /// There is no memory, or the checksum of an earlier input is not the expected one.
    pub(super) fn buffer(&mut self) -> Result<AlignedBuf> {
        loop {
            let no_memory = |e| Error::io("get a buffer to read", e);
            if let Some(buf) = self.pool.take().map_err(no_memory)? {
                return Ok(buf);
            }
            if !self.wait()? {
                return Err(Error::bug(
                    "nothing is in flight and all buffers are in use",
                ));
            }
        }
    }

    /// Starts an input of several blocks.
    pub(super) fn begin(&mut self, index: u64) {
        if self.queue.is_some() {
            self.lanes.open(index);
        }
    }

    /// Hashes the next bytes of an input: the first `len` of `block`.
    pub(super) fn feed(&mut self, index: u64, block: &Arc<AlignedBuf>, len: usize) {
        if let Some(queue) = &mut self.queue {
            self.lanes.feed(index, block, 0..len, queue);
        }
    }

    /// Takes a block back. It is used again when it has been hashed.
    pub(super) fn give_back(&mut self, block: Arc<AlignedBuf>) {
        self.pool.give_shared(block);
    }

    /// Ends an input of several blocks.
    ///
    /// # Errors
    /// Its checksum is not the expected one.
    pub(super) fn end(&mut self, index: u64) -> Result<()> {
        match self.lanes.close(index) {
            Some(sum) => self.found(index, sum),
            None => Ok(()),
        }
    }

    /// Hashes an input as a whole.
    ///
    /// # Errors
    /// Its checksum is not the expected one.
    pub(super) fn whole(&mut self, index: u64, bytes: &[u8]) -> Result<()> {
        match self.queue {
            Some(_) => self.found(index, Sha256Sum::of(bytes)),
            None => Ok(()),
        }
    }

    /// Waits for all checksums, and returns a line for each if the plan embeds them.
    ///
    /// # Errors
    /// A checksum is not the expected one.
    pub(super) fn finish(mut self) -> Result<String> {
        while self.wait()? {}
        Ok(self.lines)
    }

    /// Waits for the next block that was hashed. Returns false if nothing is in flight.
    fn wait(&mut self) -> Result<bool> {
        let Some(queue) = &mut self.queue else {
            return Ok(false);
        };
        match queue.wait() {
            Some(Completion::Job(done)) => {
                if let Some((index, sum)) = self.lanes.complete(done, queue) {
                    self.found(index, sum)?;
                }
            }
            Some(Completion::Panicked) => return Err(Error::bug("a thread panicked")),
            Some(_) => {}
            None => return Ok(false),
        }
        Ok(true)
    }

    fn found(&mut self, index: u64, sum: Sha256Sum) -> Result<()> {
        let inputs = &self.plan.inputs;
        if let Some(input) = inputs.get(index as usize) {
            self.plan.check(input, sum)?;
        }
        if !self.plan.embed {
            return Ok(());
        }
        self.known.insert(index, sum);
        while let Some(sum) = self.known.remove(&self.next) {
            if let Some(input) = inputs.get(self.next as usize) {
                self.lines.push_str(&sum_line(sum, input.name.as_str()));
            }
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Inputs, Options, plan};
    use super::*;

    #[test]
    fn sums_are_in_the_order_of_the_inputs_whatever_their_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = [
            3 * BLOCK + 1,
            0,
            7,
            2 * BLOCK,
            SMALL_MAX as usize,
            5 * BLOCK,
            1,
        ];
        let mut expected = String::new();
        for (n, size) in sizes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..size).map(|at| (at % (200 + n)) as u8).collect();
            std::fs::write(dir.path().join(format!("f{n}")), &bytes).unwrap();
            expected.push_str(&sum_line(Sha256Sum::of(&bytes), &format!("f{n}")));
        }
        let options = Options {
            embed: true,
            ..Options::default()
        };
        let plan = plan(&Inputs::Paths(vec![dir.path().to_path_buf()]), options).unwrap();
        let mut hashing = Hashing::new(&plan).unwrap();
        for (index, input) in (0..).zip(&plan.inputs) {
            let bytes = std::fs::read(&input.path).unwrap();
            if input.size <= SMALL_MAX {
                hashing.whole(index, &bytes).unwrap();
                continue;
            }
            hashing.begin(index);
            for part in bytes.chunks(BLOCK) {
                let mut buf = hashing.buffer().unwrap();
                buf[..part.len()].copy_from_slice(part);
                let block = Arc::new(buf);
                hashing.feed(index, &block, part.len());
                hashing.give_back(block);
            }
            hashing.end(index).unwrap();
        }
        assert_eq!(hashing.finish().unwrap(), expected);
    }
}
