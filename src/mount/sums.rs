//! Computes checksums of whole files: for the attribute `sha256`, by a few threads, and before the
//! first read of a file whose checksum was signed, by the threads for reads. Each block looks
//! whether anybody still waits for the result.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::payload::Sha256Sum;
use crate::sync::{Mutex, thread};

use super::caller::{Caller, CallerState};
use super::errno::Refusal;
use super::filesystem::{Answer, Filesystem};
use super::lock::lock;
use super::mount_table::own_mounts;
use super::read_pool::ReadPool;

/// The number of checksums that are computed at the same time for attributes.
const WORKERS: usize = 2;

/// The number of requests for attributes that may wait. More are refused.
const WAITING: usize = 128;

/// The interval for checking the callers.
const CHECK: Duration = Duration::from_millis(50);

/// The number of these intervals after which it is checked whether the mount is still there.
const CHECKS_OF_MOUNT: u64 = 10;

/// The time after which a caller that cannot be seen gets an answer, since it may have been
/// killed. For the same time the sum is computed further, in case the caller asks again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Receives the result.
type Reply = Box<dyn FnOnce(Answer<Sha256Sum>) + Send>;

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The attribute. A signal ends the wait.
    Attribute,
    /// To read the file. As with any file system, only the end of the process ends the wait.
    Read,
}

struct Waiter {
    purpose: Purpose,
    caller: Caller,
    since: Instant,
    reply: Reply,
}

/// The sum of one file.
struct Job {
    ino: u64,
    is_running: bool,
    stop: Arc<AtomicBool>,
    waiters: Vec<Waiter>,
    /// Until when it is computed even if nobody waits.
    keep_until: Instant,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    workers: usize,
    is_watched: bool,
    is_stopped: bool,
}

impl State {
    /// Returns the number of callers that wait for an attribute.
    fn waiting(&self) -> usize {
        let waiters = self.jobs.iter().flat_map(|job| &job.waiters);
        waiters
            .filter(|waiter| waiter.purpose == Purpose::Attribute)
            .count()
    }

    /// Stops the job at `position`. The worker removes it if it runs.
    fn cancel(&mut self, position: usize) {
        if self.jobs[position].is_running {
            self.jobs[position].stop.store(true, Ordering::Relaxed);
        } else {
            self.jobs.remove(position);
        }
    }
}

/// Computes the sums of a filesystem's files.
pub(super) struct Sums {
    filesystem: Arc<Filesystem>,
    pool: Arc<ReadPool>,
    patience: Duration,
    /// The device number of the mount, or 0 if it is not known.
    device: AtomicU64,
    state: Mutex<State>,
}

impl Sums {
    pub(super) fn new(filesystem: Arc<Filesystem>, pool: Arc<ReadPool>) -> Self {
        Self::with_patience(filesystem, pool, PATIENCE)
    }

    fn with_patience(filesystem: Arc<Filesystem>, pool: Arc<ReadPool>, patience: Duration) -> Self {
        Self {
            filesystem,
            pool,
            patience,
            device: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Stops all sums when no mount has the device number `device` any more.
    pub(super) fn end_with(&self, device: u64) {
        self.device.store(device, Ordering::Relaxed);
    }

    /// Passes the sum of the file `ino` to `reply`, later and from another thread. If the caller
    /// gets a signal before, it gets [`Refusal::Interrupted`]. With too much to do already, it
    /// gets [`Refusal::TryAgain`].
    pub(super) fn give(
        self: &Arc<Self>,
        ino: u64,
        caller: Caller,
        reply: impl FnOnce(Answer<Sha256Sum>) + Send + 'static,
    ) {
        if let Some(refused) = self.enqueue(Purpose::Attribute, ino, caller, Box::new(reply)) {
            let (reply, refusal) = refused;
            reply(Err(refusal));
        }
    }

    /// Calls `reply` once the file `ino` was compared with what was signed, later and from another
    /// thread. All readers of a file wait for the same comparison. If the caller is killed before,
    /// it gets [`Refusal::Interrupted`].
    pub(super) fn check(
        self: &Arc<Self>,
        ino: u64,
        caller: Caller,
        reply: impl FnOnce(Answer<()>) + Send + 'static,
    ) {
        let reply = Box::new(|sum: Answer<Sha256Sum>| reply(sum.map(drop)));
        if let Some((reply, refusal)) = self.enqueue(Purpose::Read, ino, caller, reply) {
            reply(Err(refusal));
        }
    }

    fn enqueue(
        self: &Arc<Self>,
        purpose: Purpose,
        ino: u64,
        caller: Caller,
        reply: Reply,
    ) -> Option<(Reply, Refusal)> {
        let mut state = lock(&self.state);
        if state.is_stopped {
            return Some((reply, Refusal::Stopped));
        }
        if purpose == Purpose::Attribute && state.waiting() >= WAITING {
            return Some((reply, Refusal::TryAgain));
        }
        if !state.is_watched {
            if let Err(e) = self.start("sum-callers", Self::watch) {
                log::error!("{e}");
                return Some((reply, Refusal::TryAgain));
            }
            state.is_watched = true;
        }
        if purpose == Purpose::Attribute && state.workers < WORKERS {
            match self.start("sum", Self::work) {
                Ok(()) => state.workers += 1,
                Err(e) if state.workers == 0 => {
                    log::error!("{e}");
                    return Some((reply, Refusal::TryAgain));
                }
                Err(e) => log::warn!("{e}"),
            }
        }
        let waiter = Waiter {
            purpose,
            caller,
            since: Instant::now(),
            reply,
        };
        let mut jobs = state.jobs.iter_mut();
        let known = jobs.position(|job| job.ino == ino && !job.stop.load(Ordering::Relaxed));
        let position = known.unwrap_or(state.jobs.len());
        match known {
            Some(known) => state.jobs[known].waiters.push(waiter),
            None => state.jobs.push(Job {
                ino,
                is_running: false,
                stop: Arc::default(),
                waiters: vec![waiter],
                keep_until: Instant::now(),
            }),
        }
        let job = &mut state.jobs[position];
        if purpose == Purpose::Read && !job.is_running {
            // A read does not wait until the sums of other files are known.
            job.is_running = true;
            let (this, stop) = (Arc::clone(self), Arc::clone(&job.stop));
            drop(state);
            self.pool.run(move || this.compute(ino, &stop));
        }
        None
    }

    /// Stops all sums, now and later.
    pub(super) fn stop(&self) {
        let mut state = lock(&self.state);
        state.is_stopped = true;
        let mut waiters = Vec::new();
        for position in (0..state.jobs.len()).rev() {
            waiters.append(&mut state.jobs[position].waiters);
            state.cancel(position);
        }
        drop(state);
        answer(waiters, || Err(Refusal::Stopped));
    }

    fn start(self: &Arc<Self>, name: &str, run: fn(&Self)) -> Result<(), Error> {
        let this = Arc::clone(self);
        thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&this))
            .map(drop)
            .map_err(|e| Error::io("start a thread for a checksum", e))
    }

    /// Computes sums until none is left to do.
    fn work(&self) {
        let mut state = lock(&self.state);
        while let Some(job) = state.jobs.iter_mut().find(|job| !job.is_running) {
            job.is_running = true;
            let (ino, stop) = (job.ino, Arc::clone(&job.stop));
            drop(state);
            self.compute(ino, &stop);
            state = lock(&self.state);
        }
        state.workers -= 1;
    }

    /// Computes the sum of the running job that `stop` belongs to, and answers its callers.
    fn compute(&self, ino: u64, stop: &Arc<AtomicBool>) {
        let sum = self.filesystem.sum_until(ino, stop);
        let mut state = lock(&self.state);
        let mut jobs = state.jobs.iter();
        let position = jobs.position(|job| Arc::ptr_eq(&job.stop, stop));
        let job = position.map(|position| state.jobs.swap_remove(position));
        drop(state);
        let waiters = job.map_or_else(Vec::new, |job| job.waiters);
        answer(waiters, || match &sum {
            Ok(sum) => Ok(*sum),
            Err(Refusal::Stopped) => Err(Refusal::TryAgain),
            Err(_) => Err(Refusal::Unreadable),
        });
    }

    /// Answers callers that were interrupted, as long as there are any sums.
    fn watch(&self) {
        for round in 1_u64.. {
            thread::sleep(CHECK);
            if round % CHECKS_OF_MOUNT == 0 && self.is_unmounted() {
                return self.stop();
            }
            let mut state = lock(&self.state);
            let (mut interrupted, mut late) = (Vec::new(), Vec::new());
            let now = Instant::now();
            for job in &mut state.jobs {
                let waiters = std::mem::take(&mut job.waiters);
                for waiter in waiters {
                    let attribute = waiter.purpose == Purpose::Attribute;
                    match waiter.caller.state() {
                        CallerState::Killed => interrupted.push(waiter),
                        CallerState::Interrupted if attribute => interrupted.push(waiter),
                        CallerState::Unseen if attribute && now >= waiter.since + self.patience => {
                            job.keep_until = now + self.patience;
                            late.push(waiter);
                        }
                        _ => job.waiters.push(waiter),
                    }
                }
            }
            for position in (0..state.jobs.len()).rev() {
                let job = &state.jobs[position];
                if job.waiters.is_empty() && now >= job.keep_until {
                    state.cancel(position);
                }
            }
            // A sum that was stopped but still waits for the disk needs nobody.
            let is_idle = |job: &Job| job.stop.load(Ordering::Relaxed);
            let ends = state.jobs.iter().all(is_idle);
            state.is_watched = !ends;
            drop(state);
            answer(interrupted, || Err(Refusal::Interrupted));
            answer(late, || Err(Refusal::TryAgain));
            if ends {
                return;
            }
        }
    }

    /// Returns whether the mount was detached while a caller uses it.
    fn is_unmounted(&self) -> bool {
        let device = self.device.load(Ordering::Relaxed);
        let mounts = own_mounts();
        device != 0 && !mounts.is_empty() && mounts.iter().all(|mount| mount.device != device)
    }
}

fn answer(waiters: Vec<Waiter>, result: impl Fn() -> Answer<Sha256Sum>) {
    for waiter in waiters {
        (waiter.reply)(result());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::{io, thread};

    use crate::block::{ReadMode, Source};
    use crate::format::{Dialect, Name};
    use crate::mount::Strictness;
    use crate::payload::Payload;
    use crate::progress::Silent;

    use super::*;

    /// A payload of one file that never ends, as far as a test can tell.
    struct Endless(Vec<u8>);

    impl Source for Endless {
        fn path(&self) -> &Path {
            Path::new("endless")
        }

        fn len(&self) -> u64 {
            1 << 50
        }

        fn alignment(&self) -> usize {
            1
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            buf.fill(0);
            if let Some(head) = self.0.get(offset as usize..) {
                let n = head.len().min(buf.len());
                buf[..n].copy_from_slice(&head[..n]);
            }
            Ok(buf.len())
        }

        fn mode(&self) -> ReadMode {
            ReadMode::Direct
        }
    }

    fn endless(patience: Duration) -> Arc<Sums> {
        let mut head = Vec::new();
        Dialect::U64.put_header(1, &mut head).unwrap();
        let name = Name::new(b"a").unwrap();
        Dialect::U64.put_entry(&name, 1 << 49, &mut head).unwrap();
        let payload = Payload::open(Arc::new(Endless(head))).ok().unwrap();
        let mut report = |_: &_| {};
        let filesystem = Filesystem::new(payload, Strictness::Strict, &Silent, &mut report);
        let pool = Arc::new(ReadPool::new(2));
        Arc::new(Sums::with_patience(
            Arc::new(filesystem.unwrap()),
            pool,
            patience,
        ))
    }

    fn ends(sums: &Sums) {
        while lock(&sums.state).workers > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_caller_that_cannot_be_seen_gets_an_answer_and_the_sum_ends() {
        let sums = endless(Duration::from_millis(20));
        let (send, answers) = mpsc::channel();
        sums.give(2, Caller::new(0), move |sum| send.send(sum).unwrap());
        assert!(matches!(answers.recv().unwrap(), Err(Refusal::TryAgain)));
        ends(&sums);
    }

    #[test]
    fn too_many_requests_are_refused_and_take_no_threads() {
        let sums = endless(PATIENCE);
        let (send, answers) = mpsc::channel();
        for _ in 0..WAITING + 5 {
            let send = send.clone();
            sums.give(2, Caller::new(0), move |sum| send.send(sum).unwrap());
        }
        for _ in 0..5 {
            assert!(matches!(answers.recv().unwrap(), Err(Refusal::TryAgain)));
        }
        assert!(lock(&sums.state).workers <= WORKERS);
        sums.stop();
        for _ in 0..WAITING {
            assert!(matches!(answers.recv().unwrap(), Err(Refusal::Stopped)));
        }
        ends(&sums);
    }

    #[test]
    fn readers_of_one_file_wait_for_one_check_that_does_not_wait_for_other_sums() {
        let sums = endless(Duration::from_millis(1));
        let (send, answers) = mpsc::channel();
        // No attribute is asked for, so there is no thread for sums.
        for _ in 0..WAITING + 5 {
            let send = send.clone();
            sums.check(2, Caller::new(0), move |checked| {
                send.send(checked).unwrap();
            });
        }
        {
            let state = lock(&sums.state);
            assert_eq!((state.jobs.len(), state.workers), (1, 0));
            assert!(state.jobs[0].is_running);
        }
        // A caller that cannot be seen waits on, however long it takes.
        thread::sleep(CHECK * 3);
        assert!(answers.try_recv().is_err());
        sums.stop();
        for _ in 0..WAITING + 5 {
            assert!(matches!(answers.recv().unwrap(), Err(Refusal::Stopped)));
        }
        while !lock(&sums.state).jobs.is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod every_order {
    use super::*;
    use crate::block::SourceOptions;
    use crate::mount::Strictness;
    use crate::payload::Payload;
    use crate::progress::Silent;
    use crate::sync::mpsc;

    /// Files that a sum is asked for at the same time, by an attribute or a read, while somebody
    /// unmounts: each caller gets one answer, and nothing stays behind.
    #[test]
    fn every_caller_gets_one_answer() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let mut bytes = Vec::new();
        let dialect = crate::format::Dialect::U64;
        dialect.put_header(1, &mut bytes).unwrap();
        let name = crate::format::Name::new(b"a").unwrap();
        dialect.put_entry(&name, 3, &mut bytes).unwrap();
        std::fs::write(&image, [&bytes[..], b"abc"].concat()).unwrap();
        crate::sync::random_orders(move || {
            let source = SourceOptions::default().open(&image).unwrap();
            let payload = Payload::open(source).unwrap();
            let strict = Strictness::Strict;
            let filesystem = Filesystem::new(payload, strict, &Silent, &mut |_| {}).unwrap();
            let pool = Arc::new(ReadPool::new(1));
            let sums = Arc::new(Sums::new(Arc::new(filesystem), pool));
            let (send, answers) = mpsc::channel();
            let asks: Vec<_> = (0..2)
                .map(|caller| {
                    let (sums, send) = (Arc::clone(&sums), send.clone());
                    thread::spawn(move || match caller {
                        0 => sums.give(2, Caller::new(0), move |sum| {
                            send.send(sum.is_ok()).unwrap();
                        }),
                        _ => sums.check(2, Caller::new(0), move |sum| {
                            send.send(sum.is_ok()).unwrap();
                        }),
                    })
                })
                .collect();
            let stopping = Arc::clone(&sums);
            let stops = thread::spawn(move || stopping.stop());
            for thread in asks.into_iter().chain([stops]) {
                thread.join().unwrap();
            }
            drop(send);
            let count = (0..2).filter(|_| answers.recv().is_ok()).count();
            assert_eq!(count, 2);
            let waiters = lock(&sums.state)
                .jobs
                .iter()
                .map(|job| job.waiters.len())
                .sum::<usize>();
            assert_eq!(waiters, 0);
        });
    }
}
