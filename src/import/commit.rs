//! Commits complete files: flush, rename, flush, each step for many files at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::block::Queue;
use crate::durable::Store;
use crate::error::{Error, Result};

/// The size of a batch before it is flushed. It limits how much an interrupted run has to do
/// again, and is large enough that the flushes cost little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// The number of files.
    pub files: usize,
    /// The number of bytes of all files.
    pub bytes: u64,
    /// The number of bytes of the files that are in the page cache until the flush.
    pub cached_bytes: u64,
    /// The time since the last flush.
    pub after: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            files: 4 * 1024,
            bytes: 1 << 30,
            // Larger ones were no faster: 8 to 64 MiB took the same time.
            cached_bytes: 16 << 20,
            after: Duration::from_secs(5),
        }
    }
}

/// A file that is complete and does not have its final name yet.
#[derive(Debug)]
pub(super) struct Complete {
    pub slot: u64,
    pub name: String,
    pub size: u64,
    pub replaces: bool,
    /// Whether the whole file was written through the page cache.
    pub cached: bool,
}

/// Collects complete files and commits them in batches.
///
/// A commit has two steps, which run at the same time for different batches: one batch is
/// flushed while the files of the previous batch get their names. So the disk is busy while
/// the names are made, and one flush brings both a batch's data and the names of the previous
/// batch to stable storage.
///
/// At any moment, a file under its final name is complete and on stable storage: its writes
/// end before it is added here, and a flush that starts after that ends before the rename.
pub(super) struct Committer {
    store: Arc<dyn Store>,
    limits: BatchLimits,
    open: Batch,
    flushing: bool,
    /// The batch that is flushed and waits until the previous batch has its names.
    flushed: Option<Vec<Complete>>,
    naming: bool,
    /// The files that have their names; the names are not flushed yet.
    named: Vec<Complete>,
    since: Instant,
    /// A flush has failed, so staged files may be incomplete on the disk. The system reports
    /// such an error only once, so a later flush that succeeds proves nothing.
    doubtful: bool,
}

#[derive(Default)]
struct Batch {
    files: Vec<Complete>,
    bytes: u64,
    cached_bytes: u64,
}

impl Batch {
    fn is_full(&self, limits: &BatchLimits) -> bool {
        self.bytes >= limits.bytes
            || self.cached_bytes >= limits.cached_bytes
            || self.files.len() >= limits.files
    }
}

/// The result of a job.
pub(super) enum Step {
    Flushed {
        batch: Vec<Complete>,
        settled: Vec<Complete>,
        result: Result<()>,
    },
    Named {
        named: Vec<Complete>,
        result: Result<()>,
    },
}

/// The outcome for some files.
pub(super) struct Committed {
    /// The files that have their names on stable storage.
    pub settled: Vec<Complete>,
    /// The first error, if any.
    pub result: Result<()>,
}

impl Committer {
    pub(super) fn new(store: Arc<dyn Store>, limits: BatchLimits) -> Self {
        Self {
            store,
            limits,
            open: Batch::default(),
            flushing: false,
            flushed: None,
            naming: false,
            named: Vec::new(),
            since: Instant::now(),
            doubtful: false,
        }
    }

    pub(super) fn add(&mut self, file: Complete) {
        self.open.bytes += file.size;
        self.open.cached_bytes += if file.cached { file.size } else { 0 };
        self.open.files.push(file);
    }

    /// Returns whether it is time for [`Committer::start`].
    pub(super) fn is_due(&self) -> bool {
        self.can_flush()
            && (self.open.is_full(&self.limits) || self.since.elapsed() >= self.limits.after)
    }

    /// Returns whether so many files have collected during a step that the owner should
    /// wait for the step to end.
    pub(super) fn is_behind(&self) -> bool {
        (self.flushing || self.naming) && self.open.is_full(&self.limits)
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.flushing && !self.naming && self.open.files.is_empty() && self.named.is_empty()
    }

    fn can_flush(&self) -> bool {
        let something = !self.open.files.is_empty() || (!self.named.is_empty() && !self.naming);
        something && !self.flushing && self.flushed.is_none() && !self.doubtful
    }

    /// Starts to flush the current batch, unless an earlier batch must be completed first.
    pub(super) fn start<T: From<Step> + Send + 'static>(&mut self, queue: &mut dyn Queue<T>) {
        if !self.can_flush() {
            return;
        }
        let mut batch = std::mem::take(&mut self.open).files;
        batch.sort_by_key(|file| file.slot);
        let named = std::mem::take(&mut self.named);
        self.since = Instant::now();
        self.flushing = true;
        self.run(queue, move |store| flush(store, batch, named));
    }

    fn start_naming<T: From<Step> + Send + 'static>(&mut self, queue: &mut dyn Queue<T>) {
        if self.naming {
            return;
        }
        if let Some(batch) = self.flushed.take() {
            self.naming = true;
            self.run(queue, move |store| name(store, batch));
        }
    }

    fn run<T: From<Step> + Send + 'static>(
        &self,
        queue: &mut dyn Queue<T>,
        step: impl FnOnce(&dyn Store) -> Step + Send + 'static,
    ) {
        let store = Arc::clone(&self.store);
        queue.run(Box::new(move || step(&*store).into()));
    }

    /// Handles the result of a step, and starts the next steps that are possible now.
    pub(super) fn complete<T: From<Step> + Send + 'static>(
        &mut self,
        step: Step,
        queue: &mut dyn Queue<T>,
    ) -> Committed {
        let committed = match step {
            Step::Flushed {
                batch,
                settled,
                result,
            } => {
                self.flushing = false;
                self.doubtful |= result.is_err();
                if result.is_ok() && !batch.is_empty() {
                    self.flushed = Some(batch);
                }
                Committed { settled, result }
            }
            Step::Named { named, result } => {
                self.naming = false;
                self.named.extend(named);
                Committed {
                    settled: Vec::new(),
                    result,
                }
            }
        };
        self.start_naming(queue);
        if self.open.is_full(&self.limits) {
            self.start(queue);
        }
        committed
    }
}

/// Gives these complete files their names, without a queue. For the few files that were recovered.
pub(super) fn commit_now(store: &dyn Store, batch: Vec<Complete>) -> Committed {
    let mut committed = Committed {
        settled: Vec::new(),
        result: Ok(()),
    };
    if batch.is_empty() {
        return committed;
    }
    let Step::Flushed { batch, result, .. } = flush(store, batch, Vec::new()) else {
        return committed;
    };
    committed.result = result;
    if committed.result.is_err() {
        return committed;
    }
    if let Step::Named { named, result } = name(store, batch) {
        committed.result = result;
        if let Step::Flushed {
            settled, result, ..
        } = flush(store, Vec::new(), named)
        {
            committed.settled = settled;
            committed.result = committed.result.and(result);
        }
    }
    committed
}

fn flush(store: &dyn Store, batch: Vec<Complete>, named: Vec<Complete>) -> Step {
    // A file that was created without a name is marked as deleted until it has one. ext4 without a
    // journal does not write that with the directory, so named files are flushed too.
    let flushed = if batch.is_empty() && named.is_empty() {
        Ok(())
    } else {
        inherit(store, &batch).and_then(|()| {
            store.flush().map_err(|e| {
                Error::io("sync the destination", e)
                    .advice("check the disk, then run the import again")
            })
        })
    };
    for file in batch.iter().filter(|file| file.cached) {
        store.forget(file.slot);
    }
    let settled = flushed.and_then(|()| {
        if named.is_empty() {
            return Ok(());
        }
        store
            .flush_names()
            .map_err(|e| Error::io("sync the destination's names", e))
    });
    Step::Flushed {
        batch,
        settled: if settled.is_ok() { named } else { Vec::new() },
        result: settled,
    }
}

fn inherit(store: &dyn Store, batch: &[Complete]) -> Result<()> {
    for file in batch.iter().filter(|file| file.replaces) {
        store.inherit(file.slot, &file.name).map_err(|e| {
            Error::io("copy the owner and mode of the old file to", e)
                .with_entry(file.slot, Some(&file.name))
        })?;
    }
    Ok(())
}

fn name(store: &dyn Store, batch: Vec<Complete>) -> Step {
    let mut named = Vec::with_capacity(batch.len());
    let mut result = Ok(());
    for file in batch {
        // A file that cannot get its name does not keep the others from getting theirs.
        match store.publish(file.slot, &file.name, file.replaces) {
            Ok(()) => named.push(file),
            Err(e) => result = result.and(Err(no_name(e, &file))),
        }
    }
    Step::Named { named, result }
}

fn no_name(e: std::io::Error, file: &Complete) -> Error {
    let appeared = e.kind() == std::io::ErrorKind::AlreadyExists;
    let error = Error::io("rename the complete file to", e).with_entry(file.slot, Some(&file.name));
    if appeared {
        error.advice(
            "run it again, a file of this name was created meanwhile (or the file system \
             ignores case)",
        )
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_full_when_it_reaches_any_limit() {
        let limits = BatchLimits {
            files: 2,
            bytes: 100,
            cached_bytes: 10,
            after: Duration::MAX,
        };
        let batch = |files: usize, bytes, cached_bytes| {
            let complete = |slot| Complete {
                slot,
                name: String::new(),
                size: 0,
                replaces: false,
                cached: false,
            };
            Batch {
                files: (0..files as u64).map(complete).collect(),
                bytes,
                cached_bytes,
            }
        };
        assert!(!batch(1, 99, 9).is_full(&limits));
        for full in [batch(2, 99, 9), batch(1, 100, 9), batch(1, 99, 10)] {
            assert!(full.is_full(&limits));
        }
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod every_order {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::io;

    use super::*;
    use crate::block::{Completion, Sink, ThreadQueue};
    use crate::durable::WriteMode;
    use crate::sync::Mutex;

    /// What a crash would leave, in each moment.
    #[derive(Default)]
    struct Disk {
        flushed: BTreeSet<u64>,
        named: BTreeSet<u64>,
        settled: BTreeSet<u64>,
    }

    /// A store whose files all exist. A flush takes what was added before it began.
    #[derive(Default)]
    struct Memory {
        added: Mutex<BTreeSet<u64>>,
        disk: Mutex<Disk>,
    }

    impl Store for Memory {
        fn mode(&self) -> WriteMode {
            WriteMode::Buffered
        }
        fn create(&self, _: u64, _: u64) -> io::Result<Arc<dyn Sink>> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn put(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn reopen(&self, _: u64, _: u64) -> io::Result<File> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn forget(&self, _: u64) {}
        fn discard(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn inherit(&self, _: u64, _: &str) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            let before = self.added.lock().unwrap().clone();
            crate::sync::thread::yield_now();
            self.disk.lock().unwrap().flushed.extend(before);
            Ok(())
        }
        fn publish(&self, slot: u64, _: &str, _: bool) -> io::Result<()> {
            let mut disk = self.disk.lock().unwrap();
            assert!(
                disk.flushed.contains(&slot),
                "{slot} has its name before it is flushed"
            );
            assert!(disk.named.insert(slot), "{slot} gets its name twice");
            Ok(())
        }
        fn flush_names(&self) -> io::Result<()> {
            let mut disk = self.disk.lock().unwrap();
            let named = disk.named.clone();
            disk.settled.extend(named);
            Ok(())
        }
    }

    struct Done(Step);

    impl From<Step> for Done {
        fn from(step: Step) -> Self {
            Self(step)
        }
    }

    #[test]
    fn a_file_is_flushed_then_named_then_reported() {
        crate::sync::orders(|| {
            let store = Arc::new(Memory::default());
            let limits = BatchLimits {
                files: 1,
                ..BatchLimits::default()
            };
            let mut committer = Committer::new(Arc::clone(&store) as Arc<dyn Store>, limits);
            let mut queue = ThreadQueue::<Done>::new(2).unwrap();
            let mut settled = Vec::new();
            for slot in 0..4 {
                store.added.lock().unwrap().insert(slot);
                committer.add(Complete {
                    slot,
                    name: slot.to_string(),
                    size: 1,
                    replaces: false,
                    cached: true,
                });
                if committer.is_due() {
                    committer.start(&mut queue);
                }
            }
            while !committer.is_idle() {
                committer.start(&mut queue);
                let Some(Completion::Job(Done(step))) = queue.wait() else {
                    panic!("nothing is in flight")
                };
                let committed = committer.complete(step, &mut queue);
                committed.result.unwrap();
                for file in committed.settled {
                    assert!(store.disk.lock().unwrap().settled.contains(&file.slot));
                    settled.push(file.slot);
                }
            }
            settled.sort();
            assert_eq!(settled, [0, 1, 2, 3]);
        });
    }
}
