//! Names for what is complete: flush, rename, flush.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use crate::block::Queue;
use crate::durable::Store;
use crate::error::{Error, Result};

use super::bug;

/// A commit is due after this many bytes, files, or this long: what a run that is
/// cut off has to do again. Few enough that the flushes cost little.
const DUE_BYTES: u64 = 1 << 30;
const DUE_FILES: usize = 8 * 1024;
/// Or after this many bytes that lie in the page cache until they are flushed.
const DUE_CACHED_BYTES: u64 = 32 << 20;
const DUE_AFTER: Duration = Duration::from_secs(5);

/// A file that is complete, and has no name yet.
#[derive(Debug)]
pub(super) struct Complete {
    pub slot: u64,
    pub name: String,
    pub size: u64,
    pub replaces: bool,
    /// Whether it went through the page cache as a whole.
    pub cached: bool,
}

/// Collects complete files and commits them together.
///
/// At any moment, a file under its final name is complete and on stable storage:
/// its writes have ended before it gets here, the flush has ended before the
/// rename. One flush serves the whole batch.
pub(super) struct Committer {
    store: Arc<dyn Store>,
    token: u64,
    batch: Vec<Complete>,
    batch_bytes: u64,
    cached_bytes: u64,
    since: Instant,
    running: bool,
    /// A flush failed: what is staged may be incomplete on the disk, and since the
    /// system tells that once, no later flush can be believed.
    doubtful: bool,
    send: Sender<Committed>,
    done: Receiver<Committed>,
}

/// What came of a batch.
pub(super) struct Committed {
    /// The files that have their names.
    pub named: Vec<Complete>,
    /// What went wrong first.
    pub result: Result<()>,
    /// Whether the flush succeeded.
    flushed: bool,
}

impl Committer {
    pub(super) fn new(store: Arc<dyn Store>, token: u64) -> Self {
        let (send, done) = mpsc::channel();
        Self {
            store,
            token,
            batch: Vec::new(),
            batch_bytes: 0,
            cached_bytes: 0,
            since: Instant::now(),
            running: false,
            doubtful: false,
            send,
            done,
        }
    }

    pub(super) fn add(&mut self, file: Complete) {
        self.batch_bytes += file.size;
        self.cached_bytes += if file.cached { file.size } else { 0 };
        self.batch.push(file);
    }

    pub(super) fn is_due(&self) -> bool {
        !self.running
            && !self.batch.is_empty()
            && (self.batch_bytes >= DUE_BYTES
                || self.cached_bytes >= DUE_CACHED_BYTES
                || self.batch.len() >= DUE_FILES
                || self.since.elapsed() >= DUE_AFTER)
    }

    /// Whether so much has come together while a commit runs that the owner should
    /// wait for it.
    pub(super) fn is_behind(&self) -> bool {
        self.running && self.batch.len() >= DUE_FILES
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.running && self.batch.is_empty()
    }

    /// Starts to commit what is there, unless a commit is running.
    pub(super) fn start(&mut self, queue: &mut dyn Queue) {
        if self.running || self.doubtful || self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_by_key(|file| file.slot);
        (self.batch_bytes, self.cached_bytes) = (0, 0);
        self.since = Instant::now();
        self.running = true;
        let (store, send) = (Arc::clone(&self.store), self.send.clone());
        queue.run(
            self.token,
            Box::new(move || {
                let committed = commit(&*store, batch);
                drop(store);
                let _ = send.send(committed);
            }),
        );
    }

    /// Takes the completion of a commit.
    ///
    /// # Errors
    /// When the job was lost.
    pub(super) fn complete(&mut self) -> Result<Committed> {
        self.running = false;
        let committed = self
            .done
            .try_recv()
            .map_err(|_| bug("the thread that commits died"))?;
        self.doubtful |= !committed.flushed;
        Ok(committed)
    }
}

fn commit(store: &dyn Store, batch: Vec<Complete>) -> Committed {
    if let Err(e) = store.flush() {
        let error = Error::io("syncing the destination", e)
            .advice("nothing of this batch was given its name; check the disk, and run it again");
        return Committed {
            named: Vec::new(),
            result: Err(error),
            flushed: false,
        };
    }
    let mut named = Vec::with_capacity(batch.len());
    let mut result = Ok(());
    for file in batch {
        if file.cached {
            store.forget(file.slot);
        }
        // One that cannot have its name keeps no other from having its own.
        match store.publish(file.slot, &file.name, file.replaces) {
            Ok(()) => named.push(file),
            Err(e) => result = result.and(Err(no_name(e, &file))),
        }
    }
    if let Err(e) = store.flush_names() {
        result = result.and(Err(Error::io("syncing the destination's names", e)));
    }
    Committed {
        named,
        result,
        flushed: true,
    }
}

fn no_name(e: std::io::Error, file: &Complete) -> Error {
    let appeared = e.kind() == std::io::ErrorKind::AlreadyExists;
    let error = Error::io("giving its name to", e).entry(file.slot, Some(&file.name));
    if appeared {
        error.advice(
            "something of that name appeared while the import ran (or the file system does not \
             tell upper from lower case); run it again",
        )
    } else {
        error
    }
}
