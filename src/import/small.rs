//! Writes small files through the page cache, many from each block.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::{AlignedBuf, Queue};
use crate::durable::Store;
use crate::payload::{Entry, Sha256Sum};

/// The location of a small file's bytes.
enum Bytes {
    /// They are all in one block.
    InBlock(Arc<AlignedBuf>, Range<usize>),
    /// They come from two blocks and were copied together.
    Own(Vec<u8>),
}

struct Small {
    entry: Arc<Entry>,
    sum: Option<Sha256Sum>,
    bytes: Bytes,
}

/// The outcome for a small file.
pub(super) enum Written {
    /// It is staged and complete.
    Complete,
    /// Its checksum does not match, and nothing is staged.
    Mismatch {
        expected: Sha256Sum,
        found: Sha256Sum,
    },
    /// A system call failed.
    Failed(io::Error),
}

/// The result of a batch.
pub(super) struct Batch(pub(super) Vec<(Arc<Entry>, Written)>);

/// The maximum number of files in a batch. A block may hold tens of thousands.
const BATCH_FILES: usize = 512;
/// The maximum number of batches that wait. With the batches in flight, this limits the memory
/// that tiny files take.
const WAITING_BATCHES: usize = 8;

/// Passes batches of small files to other threads, one batch for each block.
///
/// Batches that wait for a thread hold their blocks. While a batch waits, another is in
/// flight, so an owner that waits on the queue always gets its blocks back.
pub(super) struct SmallFiles {
    store: Arc<dyn Store>,
    writers: usize,
    /// One mutex for each batch that may be written at the same time.
    turns: Vec<Arc<Mutex<()>>>,
    started: usize,
    running: usize,
    open: Vec<Small>,
    partial: Option<Vec<u8>>,
    waiting: VecDeque<Vec<Small>>,
}

impl SmallFiles {
    pub(super) fn new(store: Arc<dyn Store>, writers: usize) -> Self {
        let writers = writers.max(1);
        Self {
            store,
            writers,
            turns: std::iter::repeat_with(Arc::default).take(writers).collect(),
            started: 0,
            running: 0,
            open: Vec::new(),
            partial: None,
            waiting: VecDeque::new(),
        }
    }

    /// Adds the next bytes of `entry`, which may be all of them.
    pub(super) fn add(
        &mut self,
        entry: Arc<Entry>,
        sum: Option<Sha256Sum>,
        block: Arc<AlignedBuf>,
        range: Range<usize>,
    ) {
        let bytes = if range.len() as u64 == entry.size {
            Bytes::InBlock(block, range)
        } else {
            let mut bytes = self.partial.take().unwrap_or_default();
            bytes.extend_from_slice(&block[range]);
            if (bytes.len() as u64) < entry.size {
                self.partial = Some(bytes);
                return;
            }
            Bytes::Own(bytes)
        };
        self.open.push(Small { entry, sum, bytes });
    }

    /// Forgets the first bytes of an entry whose other bytes cannot be read.
    pub(super) fn forget_partial(&mut self) {
        self.partial = None;
    }

    /// Adds an entry without data.
    pub(super) fn add_empty(&mut self, entry: Arc<Entry>, sum: Option<Sha256Sum>) {
        let bytes = Bytes::Own(Vec::new());
        self.open.push(Small { entry, sum, bytes });
    }

    /// Ends the batch. Called at the end of each block.
    pub(super) fn end_batch<T: From<Batch> + Send + 'static>(&mut self, queue: &mut dyn Queue<T>) {
        if !self.open.is_empty() {
            self.waiting.push_back(std::mem::take(&mut self.open));
        }
        self.start(queue);
    }

    /// Returns whether the batch is full and should end before its block does.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= BATCH_FILES
    }

    /// Returns whether so many batches wait that the owner should wait for one to end. One
    /// is in flight then.
    pub(super) fn is_behind(&self) -> bool {
        self.waiting.len() >= WAITING_BATCHES
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running == 0 && self.open.is_empty() && self.waiting.is_empty()
    }

    /// Handles a batch that has been written.
    pub(super) fn complete<T: From<Batch> + Send + 'static>(&mut self, queue: &mut dyn Queue<T>) {
        self.running -= 1;
        self.start(queue);
    }

    fn start<T: From<Batch> + Send + 'static>(&mut self, queue: &mut dyn Queue<T>) {
        // Twice as many as write, so that no thread has to wait for the owner.
        while self.running < 2 * self.writers {
            let Some(batch) = self.waiting.pop_front() else {
                return;
            };
            self.running += 1;
            let store = Arc::clone(&self.store);
            let turn = Arc::clone(&self.turns[self.started % self.writers]);
            self.started += 1;
            queue.run(Box::new(move || {
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                let written = batch.into_iter().map(|small| write(&*store, small));
                Batch(written.collect()).into()
            }));
        }
    }
}

fn write(store: &dyn Store, small: Small) -> (Arc<Entry>, Written) {
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
