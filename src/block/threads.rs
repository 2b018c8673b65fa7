//! The queue for every kernel: threads that each make one system call at a time.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::buffer::AlignedBuf;
use super::queue::{Completion, Job, Outcome, Queue, Sink};
use super::source::{Source, read_exact_at};

/// Small stacks: on a machine of 64 MiB sixteen of the default size would count.
const STACK_BYTES: usize = 128 * 1024;

enum Request {
    Read(Arc<dyn Source>, AlignedBuf, usize, u64),
    Write(Arc<dyn Sink>, AlignedBuf, usize, u64),
    WriteShared(Arc<dyn Sink>, Arc<AlignedBuf>, Range<usize>, u64),
    Job(Job),
}

/// Called from the threads.
type Notice = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Inbox {
    state: Mutex<(VecDeque<(u64, Request)>, bool)>,
    changed: Condvar,
}

impl Inbox {
    fn put(&self, token: u64, request: Request) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.push_back((token, request));
        drop(state);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }

    fn take(&self) -> Option<(u64, Request)> {
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

/// A [`Queue`] made of threads.
pub struct ThreadQueue {
    inbox: Arc<Inbox>,
    done: Receiver<Completion>,
    in_flight: usize,
    threads: Vec<JoinHandle<()>>,
}

impl ThreadQueue {
    /// Starts `threads` threads, at least one.
    ///
    /// # Errors
    /// When not even one can be started. With fewer than asked for it goes on.
    pub fn new(threads: usize) -> io::Result<Self> {
        Self::with_notice(threads, Arc::new(|| ()))
    }

    /// As [`ThreadQueue::new`]; `notice` is called after each completion, for an
    /// owner that waits elsewhere.
    pub(super) fn with_notice(threads: usize, notice: Notice) -> io::Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let (send, done) = mpsc::channel();
        let mut started = Vec::new();
        for n in 0..threads.max(1) {
            let (inbox, send, notice) = (Arc::clone(&inbox), send.clone(), Arc::clone(&notice));
            let thread = std::thread::Builder::new()
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

    /// Completions that are there already.
    #[cfg_attr(
        not(target_pointer_width = "64"),
        expect(dead_code, reason = "the io_uring queue asks, which is not there")
    )]
    pub(super) fn ready(&mut self) -> Vec<Completion> {
        let ready: Vec<Completion> = self.done.try_iter().collect();
        self.in_flight -= ready.len();
        ready
    }

    fn put(&mut self, token: u64, request: Request) {
        self.in_flight += 1;
        self.inbox.put(token, request);
    }
}

fn work(inbox: &Inbox, done: &Sender<Completion>, notice: &(dyn Fn() + Send + Sync)) {
    while let Some((token, request)) = inbox.take() {
        let outcome = match request {
            Request::Read(source, mut buf, len, offset) => {
                let result = read_exact_at(&*source, &mut buf[..len], offset);
                Outcome::Read(buf, result)
            }
            Request::Write(sink, buf, len, offset) => {
                let result = sink.write_all_at(&buf[..len], offset);
                Outcome::Write(buf, result)
            }
            Request::WriteShared(sink, block, range, offset) => {
                let result = sink.write_all_at(&block[range], offset);
                drop(block);
                Outcome::WriteShared(result)
            }
            Request::Job(job) => {
                // A job that panics must still come back, or its owner would
                // wait for ever; what it did not send tells the owner.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    log::error!("a job panicked; this is a bug in lbpayload");
                }
                Outcome::Job
            }
        };
        if done.send(Completion { token, outcome }).is_err() {
            return;
        }
        notice();
    }
}

impl Queue for ThreadQueue {
    fn read(
        &mut self,
        token: u64,
        source: &Arc<dyn Source>,
        buf: AlignedBuf,
        len: usize,
        offset: u64,
    ) {
        self.put(token, Request::Read(Arc::clone(source), buf, len, offset));
    }

    fn write(
        &mut self,
        token: u64,
        sink: &Arc<dyn Sink>,
        buf: AlignedBuf,
        len: usize,
        offset: u64,
    ) {
        self.put(token, Request::Write(Arc::clone(sink), buf, len, offset));
    }

    fn write_shared(
        &mut self,
        token: u64,
        sink: &Arc<dyn Sink>,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        offset: u64,
    ) {
        let block = Arc::clone(block);
        self.put(
            token,
            Request::WriteShared(Arc::clone(sink), block, range, offset),
        );
    }

    fn run(&mut self, token: u64, job: Job) {
        self.put(token, Request::Job(job));
    }

    fn wait(&mut self) -> Option<Completion> {
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

impl Drop for ThreadQueue {
    fn drop(&mut self) {
        self.inbox.close();
        for thread in self.threads.drain(..) {
            // The only way for it to fail is a panic, which is printed already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_with_nothing_in_flight_says_so_instead_of_waiting() {
        let mut queue = ThreadQueue::new(2).unwrap();
        assert!(queue.wait().is_none());
        queue.run(7, Box::new(|| ()));
        assert_eq!(queue.wait().unwrap().token, 7);
        assert!(queue.wait().is_none());
    }

    #[test]
    fn a_job_that_panics_still_comes_back() {
        let mut queue = ThreadQueue::new(1).unwrap();
        queue.run(1, Box::new(|| panic!("expected by this test")));
        queue.run(2, Box::new(|| ()));
        assert_eq!(queue.wait().unwrap().token, 1);
        assert_eq!(queue.wait().unwrap().token, 2);
    }
}
