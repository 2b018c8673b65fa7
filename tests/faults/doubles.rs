//! Test doubles: a store that fails or records its calls, and queues that complete
//! operations in a chosen order.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lbpayload::block::{
    AlignedBuf, Completion, DirectPolicy, FileSource, Job, Queue, Sink, Source, ThreadQueue,
    UringQueue, read_exact_at,
};
use lbpayload::durable::{Directory, Staging, Store, WriteMode};
use lbpayload::error::Error;
use lbpayload::import::{
    BatchLimits, Copied, CopyJob, Done, ExistingPolicy, Plan, Recovery, Selection, Tuning,
};
use lbpayload::payload::{Checksums, Index, Payload};
use lbpayload::progress::Silent;

use crate::support::{Lacks, skip};

/// The operations on a store, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Create(u64),
    Write(u64),
    Finish(u64),
    Put(u64),
    Discard(u64),
    FlushStarts,
    Flush,
    Publish(u64, String),
    FlushNamesStarts,
    FlushNames,
    /// The caller was told that this file is complete.
    Told(u64),
}

impl Op {
    pub fn kind(&self) -> &'static str {
        match self {
            Op::Create(_) => "create",
            Op::Write(_) => "write",
            Op::Finish(_) => "finish",
            Op::Put(_) => "put",
            Op::Discard(_) => "discard",
            Op::FlushStarts => "flush starts",
            Op::Flush => "flush",
            Op::Publish(..) => "publish",
            Op::FlushNamesStarts => "flush names starts",
            Op::FlushNames => "flush names",
            Op::Told(_) => "told",
        }
    }
}

/// The real store, with a log and a failure at one operation.
pub struct Watched {
    inner: Staging,
    by_queue: bool,
    log: Arc<Log>,
}

pub struct Log {
    pub ops: Mutex<Vec<Op>>,
    /// The n-th operation of this kind fails.
    fail: Option<(&'static str, usize)>,
    seen: AtomicUsize,
}

impl Log {
    /// An operation is logged when it has succeeded.
    fn step<T>(&self, op: Op, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some((kind, n)) = self.fail {
            if kind == op.kind() && self.seen.fetch_add(1, Ordering::SeqCst) == n {
                let errno = if kind == "flush" {
                    libc::EIO
                } else {
                    libc::ENOSPC
                };
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        let result = act()?;
        self.ops.lock().unwrap().push(op);
        Ok(result)
    }
}

struct WatchedSink {
    slot: u64,
    by_queue: bool,
    inner: Arc<dyn Sink>,
    log: Arc<Log>,
}

impl Sink for WatchedSink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.log.step(Op::Write(self.slot), || {
            self.inner.write_all_at(buf, offset)
        })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // With a descriptor the queue writes the data itself, and `Counting` logs
        // that.
        if self.by_queue { self.inner.fd() } else { None }
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        self.log
            .step(Op::Finish(self.slot), || self.inner.finish(len))
    }
}

impl Store for Watched {
    fn mode(&self) -> WriteMode {
        self.inner.mode()
    }

    fn create(&self, slot: u64, size: u64) -> io::Result<Arc<dyn Sink>> {
        let inner = self
            .log
            .step(Op::Create(slot), || self.inner.create(slot, size))?;
        Ok(Arc::new(WatchedSink {
            slot,
            by_queue: self.by_queue,
            inner,
            log: Arc::clone(&self.log),
        }))
    }

    fn put(&self, slot: u64, bytes: &[u8]) -> io::Result<()> {
        self.log.step(Op::Put(slot), || self.inner.put(slot, bytes))
    }

    fn reopen(&self, slot: u64, size: u64) -> io::Result<File> {
        self.inner.reopen(slot, size)
    }

    fn forget(&self, slot: u64) {
        self.inner.forget(slot);
    }

    fn discard(&self, slot: u64) -> io::Result<()> {
        self.log
            .step(Op::Discard(slot), || self.inner.discard(slot))
    }

    fn inherit(&self, slot: u64, name: &str) -> io::Result<()> {
        self.inner.inherit(slot, name)
    }

    fn flush(&self) -> io::Result<()> {
        self.log.step(Op::FlushStarts, || Ok(()))?;
        self.log.step(Op::Flush, || self.inner.flush())
    }

    fn publish(&self, slot: u64, name: &str, replace: bool) -> io::Result<()> {
        let op = Op::Publish(slot, name.to_owned());
        self.log
            .step(op, || self.inner.publish(slot, name, replace))
    }

    fn flush_names(&self) -> io::Result<()> {
        self.log.step(Op::FlushNamesStarts, || Ok(()))?;
        self.log.step(Op::FlushNames, || self.inner.flush_names())
    }
}

/// Collects all operations in flight and completes them in reverse order.
pub struct LastFirst {
    inner: ThreadQueue<Done>,
    back: Vec<Completion<Done>>,
}

impl LastFirst {
    pub fn new(threads: usize) -> Self {
        Self {
            inner: ThreadQueue::new(threads).unwrap(),
            back: Vec::new(),
        }
    }
}

impl Queue<Done> for LastFirst {
    fn read(&mut self, id: u64, source: &Arc<dyn Source>, buf: AlignedBuf, len: usize, at: u64) {
        self.inner.read(id, source, buf, len, at);
    }

    fn write(&mut self, id: u64, sink: &Arc<dyn Sink>, buf: AlignedBuf, len: usize, at: u64) {
        self.inner.write(id, sink, buf, len, at);
    }

    fn write_shared(
        &mut self,
        id: u64,
        sink: &Arc<dyn Sink>,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        offset: u64,
    ) {
        self.inner.write_shared(id, sink, block, range, offset);
    }

    fn run(&mut self, job: Job<Done>) {
        self.inner.run(job);
    }

    fn wait(&mut self) -> Option<Completion<Done>> {
        while let Some(completion) = self.inner.wait() {
            self.back.push(completion);
        }
        self.back.pop()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.back.len()
    }
}

/// Runs every operation in the order of submission, and only when the caller waits
/// for it. Data that is read ahead thus arrives as late as possible. There is only
/// one thread, so every run is the same.
#[derive(Default)]
pub struct FirstFirst(VecDeque<Box<dyn FnOnce() -> Completion<Done>>>);

impl FirstFirst {
    fn later(&mut self, act: impl FnOnce() -> Completion<Done> + 'static) {
        self.0.push_back(Box::new(act));
    }
}

impl Queue<Done> for FirstFirst {
    fn read(
        &mut self,
        id: u64,
        source: &Arc<dyn Source>,
        mut buf: AlignedBuf,
        len: usize,
        at: u64,
    ) {
        let source = Arc::clone(source);
        self.later(move || {
            let result = read_exact_at(&*source, &mut buf[..len], at);
            Completion::Read { id, buf, result }
        });
    }

    fn write(&mut self, id: u64, sink: &Arc<dyn Sink>, buf: AlignedBuf, len: usize, at: u64) {
        let sink = Arc::clone(sink);
        self.later(move || {
            let result = sink.write_all_at(&buf[..len], at);
            Completion::Write { id, buf, result }
        });
    }

    fn write_shared(
        &mut self,
        id: u64,
        sink: &Arc<dyn Sink>,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        offset: u64,
    ) {
        let (sink, block) = (Arc::clone(sink), Arc::clone(block));
        self.later(move || {
            let result = sink.write_all_at(&block[range], offset);
            Completion::WriteShared { id, result }
        });
    }

    fn run(&mut self, job: Job<Done>) {
        self.later(move || Completion::Job(job()));
    }

    fn wait(&mut self) -> Option<Completion<Done>> {
        self.0.pop_front().map(|act| act())
    }

    fn in_flight(&self) -> usize {
        self.0.len()
    }
}

/// io_uring. Writes are logged when they complete, and the failure is injected there.
struct Counting {
    inner: UringQueue<Done>,
    log: Arc<Log>,
}

impl Queue<Done> for Counting {
    fn read(&mut self, id: u64, source: &Arc<dyn Source>, buf: AlignedBuf, len: usize, at: u64) {
        assert!(source.fd().is_some(), "this double is only for io_uring");
        self.inner.read(id, source, buf, len, at);
    }

    fn write(&mut self, id: u64, sink: &Arc<dyn Sink>, buf: AlignedBuf, len: usize, at: u64) {
        assert!(sink.fd().is_some(), "this double is only for io_uring");
        self.inner.write(id, sink, buf, len, at);
    }

    fn write_shared(
        &mut self,
        id: u64,
        sink: &Arc<dyn Sink>,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        offset: u64,
    ) {
        self.inner.write_shared(id, sink, block, range, offset);
    }

    fn run(&mut self, job: Job<Done>) {
        self.inner.run(job);
    }

    fn wait(&mut self) -> Option<Completion<Done>> {
        Some(match self.inner.wait()? {
            Completion::Write { id, buf, result } => {
                let result = result.and_then(|()| self.log.step(Op::Write(id), || Ok(())));
                Completion::Write { id, buf, result }
            }
            other => other,
        })
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }
}

/// The queue that runs a trial's reads, writes and jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Threads,
    LastFirst,
    FirstFirst,
    Uring,
}

/// A copy of `source` into `dest` that uses the test doubles.
pub struct Trial<'a> {
    pub source: Arc<dyn Source>,
    pub dest: &'a Path,
    /// The files to copy. Empty means all.
    pub files: &'a [&'a str],
    pub sums: &'a str,
    pub tuning: Tuning,
    pub fail: Option<(&'static str, usize)>,
    pub engine: Engine,
    pub recovery: Option<Recovery>,
    /// Called after the headers are read and before the copy starts.
    pub before_copy: &'a dyn Fn(),
}

impl<'a> Trial<'a> {
    pub fn new(source: Arc<dyn Source>, dest: &'a Path) -> Self {
        Self {
            source,
            dest,
            files: &[],
            sums: "",
            tuning: tiny(),
            fail: None,
            engine: Engine::Threads,
            recovery: None,
            before_copy: &|| (),
        }
    }

    /// Runs the copy, and returns its result and the operations.
    pub fn run(self) -> (Result<Copied, Error>, Vec<Op>) {
        let payload = Payload::open(self.source).unwrap().recording_faults();
        let index = Index::strict(&payload, &Silent).unwrap();
        let dest = Directory::open(self.dest).unwrap();
        let mut sums = Checksums::new();
        sums.add_lines(self.sums.as_bytes(), "sums").unwrap();
        let files: Vec<String> = self.files.iter().map(|&name| name.into()).collect();
        let selection = Selection::find(&index, &files).unwrap();
        let policy = ExistingPolicy::Replace;
        let plan = Plan::make(&index, &selection, Some(&dest), &mut sums, policy, &Silent).unwrap();
        let inner = Staging::prepare(&dest, DirectPolicy::Auto).unwrap();
        let log = Arc::new(Log {
            ops: Mutex::default(),
            fail: self.fail,
            seen: 0.into(),
        });
        let store = Arc::new(Watched {
            inner,
            by_queue: self.engine == Engine::Uring,
            log: Arc::clone(&log),
        });
        let threads = self.tuning.in_flight() + self.tuning.jobs();
        let queue: Box<dyn Queue<Done>> = match self.engine {
            Engine::Threads => Box::new(ThreadQueue::new(threads).unwrap()),
            Engine::LastFirst => Box::new(LastFirst::new(threads)),
            Engine::FirstFirst => Box::new(FirstFirst::default()),
            Engine::Uring => Box::new(Counting {
                inner: UringQueue::new(self.tuning.jobs()).expect("io_uring on this kernel"),
                log: Arc::clone(&log),
            }),
        };
        (self.before_copy)();
        let job = CopyJob {
            index: &index,
            plan: &plan,
            sums: &sums,
            store: Arc::clone(&store) as Arc<dyn Store>,
            queue,
            tuning: self.tuning,
            recovery: self.recovery,
            progress: &Silent,
        };
        let result = job.run(&mut |slot, _| log.ops.lock().unwrap().push(Op::Told(slot)));
        Arc::into_inner(store)
            .expect("the store is not in use any more")
            .inner
            .remove()
            .unwrap();
        let ops = log.ops.lock().unwrap().clone();
        (result.map_err(|(error, _)| error), ops)
    }
}

/// Small blocks and few buffers, so that a small payload reaches every limit.
pub fn tiny() -> Tuning {
    Tuning {
        block_bytes: 4096,
        reads: 2,
        held: 1,
        writes: 2,
        small_max: 1000,
        small_writers: 1,
        hashers: 2,
        batch: BatchLimits {
            files: 3,
            ..BatchLimits::default()
        },
    }
}

/// A file with these bytes in `dir`, to be read with io_uring. `None` (with a skip
/// message) where the kernel has no io_uring or the directory does not support direct
/// I/O.
pub fn direct_source(dir: &Path, bytes: &[u8]) -> Option<Arc<dyn Source>> {
    let path = dir.join("image");
    std::fs::write(&path, bytes).unwrap();
    let source = FileSource::open(&path, DirectPolicy::Auto).unwrap();
    let uring = UringQueue::<()>::new(1);
    if source.fd().is_none() || uring.is_err() {
        skip(Lacks::Machine, "no io_uring here, or no direct I/O");
        return None;
    }
    Some(Arc::new(source))
}
