//! The threads that wait for the disk, so that the threads that answer the kernel never do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::sync::{Condvar, Mutex, thread, wait_timeout};

use super::lock::lock;

/// The time without work after which a thread ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// Threads that are started when there is work for them.
#[derive(Default)]
pub(super) struct ReadPool {
    max_threads: usize,
    state: Mutex<State>,
    work: Condvar,
}

impl ReadPool {
    pub(super) fn new(max_threads: usize) -> Self {
        Self {
            max_threads,
            ..Self::default()
        }
    }

    /// Runs `job` in a thread of the pool, as soon as one is free.
    pub(super) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.state);
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            drop(state);
            self.work.notify_one();
            return;
        }
        if state.threads >= self.max_threads {
            return;
        }
        state.threads += 1;
        drop(state);
        let this = Arc::clone(self);
        let thread = thread::Builder::new().name("read".into());
        if let Err(e) = thread.spawn(move || this.work()) {
            let mut state = lock(&self.state);
            state.threads -= 1;
            if state.threads > 0 {
                return;
            }
            // Without any thread, the work is done here.
            log::warn!("{}", Error::io("start a thread for reads", e));
            let jobs = std::mem::take(&mut state.jobs);
            drop(state);
            jobs.into_iter().for_each(|job| job());
        }
    }

    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let (woken, timed_out) = wait_timeout(&self.work, &self.state, state, IDLE);
            state = woken;
            state.idle -= 1;
            if timed_out && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_that_wait_for_each_other_run_at_the_same_time() {
        let pool = Arc::new(ReadPool::new(5));
        let all = Arc::new(Barrier::new(6));
        for _ in 0..5 {
            let all = Arc::clone(&all);
            pool.run(move || {
                all.wait();
            });
        }
        all.wait();
    }

    #[test]
    fn no_more_threads_run_than_the_limit_and_no_job_is_lost() {
        let pool = Arc::new(ReadPool::new(3));
        let (send, done) = mpsc::channel();
        for n in 0..1000 {
            let send = send.clone();
            pool.run(move || send.send(n).unwrap());
            assert!(lock(&pool.state).threads <= 3);
        }
        drop(send);
        assert_eq!(done.iter().count(), 1000);
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod every_order {
    use super::*;
    use crate::sync::mpsc;

    #[test]
    fn every_job_runs_once_and_no_more_threads_than_allowed() {
        crate::sync::orders(|| {
            let pool = Arc::new(ReadPool::new(2));
            let (send, done) = mpsc::channel();
            let callers: Vec<_> = (0..2)
                .map(|caller| {
                    let (pool, send) = (Arc::clone(&pool), send.clone());
                    thread::spawn(move || {
                        for n in 0..2 {
                            let send = send.clone();
                            pool.run(move || send.send(caller * 2 + n).unwrap());
                        }
                    })
                })
                .collect();
            let mut seen: Vec<u8> = (0..4).map(|_| done.recv().unwrap()).collect();
            seen.sort();
            assert_eq!(seen, [0, 1, 2, 3]);
            assert!(lock(&pool.state).threads <= 2);
            for caller in callers {
                caller.join().unwrap();
            }
        });
    }
}
