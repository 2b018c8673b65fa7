//! Small files: many to a block, written whole through the page cache.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::{AlignedBuf, Queue};
use crate::durable::Store;
use crate::error::Result;
use crate::payload::{Entry, Sha256Sum};

use super::bug;

/// Where a small file's bytes are.
enum Bytes {
    /// All in one block.
    InBlock(Arc<AlignedBuf>, Range<usize>),
    /// Put together from two blocks.
    Own(Vec<u8>),
}

struct Small {
    entry: Entry,
    sum: Option<Sha256Sum>,
    bytes: Bytes,
}

/// What came of a small file.
pub(super) enum Written {
    /// It is staged, complete.
    Complete,
    /// Its checksum is another; nothing is staged.
    Mismatch {
        expected: Sha256Sum,
        found: Sha256Sum,
    },
    /// The system failed.
    Failed(io::Error),
}

/// Files of a batch at most: a block may hold tens of thousands.
const BATCH_FILES: usize = 512;
/// Batches that may wait: with those in flight, what tiny files take in memory.
const WAITING_BATCHES: usize = 8;

/// Hands batches of small files to other threads, one batch a block.
///
/// Batches that wait for a thread hold their blocks; while one waits another is
/// in flight, so an owner that waits on the queue always gets its blocks back.
pub(super) struct SmallFiles {
    store: Arc<dyn Store>,
    token: u64,
    writers: usize,
    /// As many as write at the same time.
    turns: Vec<Arc<Mutex<()>>>,
    started: usize,
    running: usize,
    open: Vec<Small>,
    partial: Option<(Entry, Option<Sha256Sum>, Vec<u8>)>,
    waiting: VecDeque<Vec<Small>>,
    send: Sender<Vec<(Entry, Written)>>,
    done: Receiver<Vec<(Entry, Written)>>,
}

impl SmallFiles {
    pub(super) fn new(store: Arc<dyn Store>, token: u64, writers: usize) -> Self {
        let (send, done) = mpsc::channel();
        let writers = writers.max(1);
        Self {
            store,
            token,
            writers,
            turns: std::iter::repeat_with(Arc::default).take(writers).collect(),
            started: 0,
            running: 0,
            open: Vec::new(),
            partial: None,
            waiting: VecDeque::new(),
            send,
            done,
        }
    }

    /// The next part of `entry`, which may be all of it.
    pub(super) fn add(
        &mut self,
        entry: &Entry,
        sum: Option<Sha256Sum>,
        block: &Arc<AlignedBuf>,
        part: Range<usize>,
    ) {
        if part.len() as u64 == entry.size {
            let bytes = Bytes::InBlock(Arc::clone(block), part);
            self.open.push(Small {
                entry: entry.clone(),
                sum,
                bytes,
            });
            return;
        }
        let (_, _, bytes) = self
            .partial
            .get_or_insert_with(|| (entry.clone(), sum, Vec::new()));
        bytes.extend_from_slice(&block[part]);
        if bytes.len() as u64 == entry.size {
            if let Some((entry, sum, bytes)) = self.partial.take() {
                self.open.push(Small {
                    entry,
                    sum,
                    bytes: Bytes::Own(bytes),
                });
            }
        }
    }

    /// An entry without bytes.
    pub(super) fn add_empty(&mut self, entry: &Entry, sum: Option<Sha256Sum>) {
        self.open.push(Small {
            entry: entry.clone(),
            sum,
            bytes: Bytes::Own(Vec::new()),
        });
    }

    /// Ends the batch: at the end of each block.
    pub(super) fn end_batch(&mut self, queue: &mut dyn Queue) {
        if !self.open.is_empty() {
            self.waiting.push_back(std::mem::take(&mut self.open));
        }
        self.start(queue);
    }

    /// Whether the batch is full, and should be ended before its block is.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= BATCH_FILES
    }

    /// Whether so many batches wait that the owner should wait for one; one is in
    /// flight then.
    pub(super) fn is_behind(&self) -> bool {
        self.waiting.len() >= WAITING_BATCHES
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running == 0 && self.open.is_empty() && self.waiting.is_empty()
    }

    /// Takes the completion of a batch.
    ///
    /// # Errors
    /// When the job was lost.
    pub(super) fn complete(&mut self, queue: &mut dyn Queue) -> Result<Vec<(Entry, Written)>> {
        self.running -= 1;
        self.start(queue);
        self.done
            .try_recv()
            .map_err(|_| bug("a thread that writes small files died"))
    }

    fn start(&mut self, queue: &mut dyn Queue) {
        // One more for each waits for its turn, so that no thread waits for the owner.
        while self.running < 2 * self.writers {
            let Some(batch) = self.waiting.pop_front() else {
                return;
            };
            self.running += 1;
            let (store, send) = (Arc::clone(&self.store), self.send.clone());
            let turn = Arc::clone(&self.turns[self.started % self.writers]);
            self.started += 1;
            queue.run(
                self.token,
                Box::new(move || {
                    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                    let results = batch
                        .into_iter()
                        .map(|small| write(&*store, small))
                        .collect();
                    drop(store);
                    let _ = send.send(results);
                }),
            );
        }
    }
}

fn write(store: &dyn Store, small: Small) -> (Entry, Written) {
    let bytes = match &small.bytes {
        Bytes::InBlock(block, range) => &block[range.clone()],
        Bytes::Own(bytes) => bytes,
    };
    if let Some(expected) = small.sum {
        let found = Sha256Sum::of(bytes);
        if found != expected {
            return (small.entry, Written::Mismatch { expected, found });
        }
    }
    match store.put(small.entry.index, bytes) {
        Ok(()) => (small.entry, Written::Complete),
        Err(e) => (small.entry, Written::Failed(e)),
    }
}
