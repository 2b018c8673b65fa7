//! The queue for every kernel: threads that make one system call at a time.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use super::buffer::AlignedBuf;
use super::queue::{Completion, Job, Queue, Sink, check, guarded};
use super::source::{Source, read_exact_at};
use crate::sync::mpsc::{self, Receiver, Sender};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};

/// Small stacks, because on a machine of 64 MiB sixteen of the default size would be too much.
const STACK_BYTES: usize = 128 * 1024;

enum Request<T> {
    Read(u64, Arc<dyn Source>, AlignedBuf, usize, u64),
    Write(u64, Arc<dyn Sink>, AlignedBuf, usize, u64),
    WriteShared(u64, Arc<dyn Sink>, Arc<AlignedBuf>, Range<usize>, u64),
    Job(Job<T>),
}

/// A function that the threads call after each completion.
type Notice = Arc<dyn Fn() + Send + Sync>;

/// The requests that wait for a thread, and whether more can follow.
struct Inbox<T> {
    state: Mutex<(VecDeque<Request<T>>, bool)>,
    changed: Condvar,
}

impl<T> Inbox<T> {
    fn put(&self, request: Request<T>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.push_back(request);
        drop(state);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }

    fn take(&self) -> Option<Request<T>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(request) = state.0.pop_front() {
                return Some(request);
            }
            if state.1 {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A [`Queue`] that consists of threads.
pub struct ThreadQueue<T> {
    inbox: Arc<Inbox<T>>,
    done: Receiver<Completion<T>>,
    in_flight: usize,
    threads: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> ThreadQueue<T> {
    /// Starts `threads` threads, but at least one.
    ///
    /// # Errors
    /// Not even one thread can be started. Fewer threads than requested are no error.
    pub fn new(threads: usize) -> io::Result<Self> {
        Self::with_notice(threads, Arc::new(|| ()))
    }

    /// Does the same as [`ThreadQueue::new`], and calls `notice` after each completion, for an
    /// owner that waits elsewhere.
    pub(super) fn with_notice(threads: usize, notice: Notice) -> io::Result<Self> {
        let inbox = Arc::new(Inbox {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (send, done) = mpsc::channel();
        let mut started = Vec::new();
        for n in 0..threads.max(1) {
            let (inbox, send, notice) = (Arc::clone(&inbox), send.clone(), Arc::clone(&notice));
            let thread = thread::Builder::new()
                .name(format!("io-{n}"))
                .stack_size(STACK_BYTES)
                .spawn(move || work(&inbox, &send, &*notice));
            match thread {
                Ok(thread) => started.push(thread),
                Err(e) if started.is_empty() => return Err(e),
                Err(e) => {
                    log::warn!(
                        "going on with {} threads instead of {threads}: {e}",
                        started.len()
                    );
                    break;
                }
            }
        }
        Ok(Self {
            inbox,
            done,
            in_flight: 0,
            threads: started,
        })
    }
}

impl<T> ThreadQueue<T> {
    /// Returns the completions that are available already.
    #[cfg_attr(
        not(target_pointer_width = "64"),
        expect(
            dead_code,
            reason = "only the io_uring queue calls it, which 32-bit processors do not have"
        )
    )]
    pub(super) fn ready(&mut self) -> Vec<Completion<T>> {
        let ready: Vec<Completion<T>> = self.done.try_iter().collect();
        self.in_flight -= ready.len();
        ready
    }

    fn put(&mut self, request: Request<T>) {
        self.in_flight += 1;
        self.inbox.put(request);
    }
}

fn work<T>(inbox: &Inbox<T>, done: &Sender<Completion<T>>, notice: &(dyn Fn() + Send + Sync)) {
    while let Some(request) = inbox.take() {
        let completion = match request {
            Request::Read(id, source, mut buf, len, offset) => {
                let result = check(&(0..len), buf.len(), offset)
                    .and_then(|()| guarded(|| read_exact_at(&*source, &mut buf[..len], offset)));
                Completion::Read { id, buf, result }
            }
            Request::Write(id, sink, buf, len, offset) => {
                let result = write(&*sink, &buf, 0..len, offset);
                Completion::Write { id, buf, result }
            }
            Request::WriteShared(id, sink, block, range, offset) => {
                let result = write(&*sink, &block, range, offset);
                drop(block);
                Completion::WriteShared { id, result }
            }
            Request::Job(job) => match guarded(|| Ok(job())) {
                Ok(done) => Completion::Job(done),
                Err(_) => Completion::Panicked,
            },
        };
        if done.send(completion).is_err() {
            return;
        }
        notice();
    }
}

fn write(sink: &dyn Sink, block: &[u8], range: Range<usize>, offset: u64) -> io::Result<()> {
    check(&range, block.len(), offset)?;
    guarded(|| sink.write_all_at(&block[range], offset))
}

impl<T> Queue<T> for ThreadQueue<T> {
    fn read(
        &mut self,
        id: u64,
        source: &Arc<dyn Source>,
        buf: AlignedBuf,
        len: usize,
        offset: u64,
    ) {
        self.put(Request::Read(id, Arc::clone(source), buf, len, offset));
    }

    fn write(&mut self, id: u64, sink: &Arc<dyn Sink>, buf: AlignedBuf, len: usize, offset: u64) {
        self.put(Request::Write(id, Arc::clone(sink), buf, len, offset));
    }

    fn write_shared(
        &mut self,
        id: u64,
        sink: &Arc<dyn Sink>,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        offset: u64,
    ) {
        let block = Arc::clone(block);
        let sink = Arc::clone(sink);
        self.put(Request::WriteShared(id, sink, block, range, offset));
    }

    fn run(&mut self, job: Job<T>) {
        self.put(Request::Job(job));
    }

    fn wait(&mut self) -> Option<Completion<T>> {
        if self.in_flight == 0 {
            return None;
        }
        let completion = self.done.recv().ok()?;
        self.in_flight -= 1;
        Some(completion)
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl<T> Drop for ThreadQueue<T> {
    fn drop(&mut self) {
        self.inbox.close();
        for thread in self.threads.drain(..) {
            // It can fail only if the thread panicked, and the panic message is printed already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_with_nothing_in_flight_returns_none() {
        let mut queue = ThreadQueue::new(2).unwrap();
        assert!(queue.wait().is_none());
        queue.run(Box::new(|| 7));
        assert!(matches!(queue.wait(), Some(Completion::Job(7))));
        assert!(queue.wait().is_none());
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod every_order {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::block::ReadMode;

    struct Zeros;

    impl Source for Zeros {
        fn path(&self) -> &Path {
            Path::new("zeros")
        }
        fn len(&self) -> u64 {
            1 << 30
        }
        fn alignment(&self) -> usize {
            1
        }
        fn read_at(&self, buf: &mut [u8], _offset: u64) -> io::Result<usize> {
            buf.fill(0);
            Ok(buf.len())
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Buffered
        }
    }

    #[test]
    fn every_request_completes_once() {
        crate::sync::orders(|| {
            let notices = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&notices);
            let notice = move || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            let mut queue = ThreadQueue::with_notice(2, Arc::new(notice)).unwrap();
            let source: Arc<dyn Source> = Arc::new(Zeros);
            for id in 0..2 {
                queue.read(id, &source, AlignedBuf::new(1).unwrap(), 1, id);
                queue.run(Box::new(move || id));
            }
            let (mut reads, mut jobs) = (Vec::new(), Vec::new());
            while let Some(completion) = queue.wait() {
                match completion {
                    Completion::Read { id, .. } => reads.push(id),
                    Completion::Job(id) => jobs.push(id),
                    other => panic!("{other:?}"),
                }
            }
            (reads.sort(), jobs.sort());
            assert_eq!((&reads[..], &jobs[..]), (&[0, 1][..], &[0, 1][..]));
            drop(queue);
            assert_eq!(notices.load(Ordering::Relaxed), 4);
        });
    }

    #[test]
    fn a_queue_is_dropped_with_requests_in_flight() {
        crate::sync::orders(|| {
            let run = Arc::new(AtomicUsize::new(0));
            let mut queue = ThreadQueue::new(2).unwrap();
            for _ in 0..3 {
                let run = Arc::clone(&run);
                queue.run(Box::new(move || {
                    run.fetch_add(1, Ordering::Relaxed);
                }));
            }
            queue.wait();
            drop(queue);
            assert!((1..=3).contains(&run.load(Ordering::Relaxed)));
        });
    }
}
