//! Downloads files whose SHA-256 sums are known, from mirrors and from their own URLs.
//!
//! A [`Wanted`] file has sources. The schedule decides which file comes from which source next,
//! and the download gets it: into an incomplete file that a later attempt can continue, and
//! that gets its name only when the sum is right. So no source has to be trusted.

mod download;
mod report;
mod schedule;
mod wanted;

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::durable::{Directory, Lookup, Partial};
use crate::error::{Error, Kind, Result};
use crate::net::Client;
use crate::payload::Sha256Sum;
use crate::progress::Progress;

use download::download;
use schedule::{Next, Schedule, Task};

pub use report::{FileReport, Report, State};
pub use wanted::{Wanted, mirrors, of_checkout, of_list};

/// How to fetch.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of the files. It is made if it is missing.
    pub dest: PathBuf,
    /// The number of files that are downloaded at once.
    pub jobs: NonZeroUsize,
    /// A source that sends no byte for so long is given up.
    pub stall: Duration,
    /// Whether nothing is downloaded, and the report only says what is missing.
    pub offline: bool,
}

/// How often a waiting run looks whether it should stop.
const LOOK: Duration = Duration::from_millis(100);

/// Gets every wanted file that is not in the destination yet.
///
/// A file that no source has is in the report, and does not end the run.
///
/// # Errors
/// The destination cannot be written, or the run is stopped. What is complete stays, and the
/// next run continues what is not.
pub fn fetch(wanted: &[Wanted], options: &Options, progress: &dyn Progress) -> Result<Report> {
    let started = Instant::now();
    let dest = if options.offline && !options.dest.exists() {
        None
    } else if options.offline {
        Some(Directory::open(&options.dest)?)
    } else {
        Some(Directory::open_or_make(&options.dest, true)?)
    };
    let mut files: Vec<FileReport> = wanted.iter().map(FileReport::new).collect();
    if let Some(dest) = &dest {
        if !options.offline && !dest.try_lock()? {
            return Err(
                Error::new(Kind::Busy, "another fetch or import is writing to it")
                    .with_path(&options.dest)
                    .advice("wait until it has ended"),
            );
        }
        check(wanted, dest, &mut files, progress)?;
        if !options.offline {
            get(wanted, dest, options, &mut files, progress)?;
            if files.iter().all(|file| file.state != State::Missing) {
                Partial::discard_all(dest)?;
            }
        }
    }
    Ok(Report {
        files,
        elapsed: started.elapsed(),
    })
}

/// Finds out which files are there with the right sum.
fn check(
    wanted: &[Wanted],
    dest: &Directory,
    files: &mut [FileReport],
    progress: &dyn Progress,
) -> Result<()> {
    if dest.is_empty()? {
        return Ok(());
    }
    let sizes = wanted
        .iter()
        .map(|w| std::fs::metadata(dest.path().join(w.name.as_str())));
    progress.begin("check", sizes.flatten().map(|meta| meta.len()).sum());
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = wanted.get(number) else {
                return Ok(());
            };
            if let Some(len) = length_if_right(file, dest, progress)? {
                lock(&found).push((number, len));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(8)).map(|_| scope.spawn(work)).collect();
        let ends = workers.into_iter().map(|worker| worker.join());
        ends.map(|end| end.unwrap_or_else(|_| Err(Error::bug("a check panicked"))))
            .collect::<Result<Vec<()>>>()
    })?;
    progress.end();
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (number, len) in found {
        files[number].kept(len);
    }
    Ok(())
}

/// Returns the length of the file if it is there with the right sum.
fn length_if_right(
    wanted: &Wanted,
    dest: &Directory,
    progress: &dyn Progress,
) -> Result<Option<u64>> {
    let name = wanted.name.as_str();
    let path = dest.path().join(name);
    let mut file = match dest.lookup(name)? {
        Lookup::File(file, _) => file,
        Lookup::Symlink(..) => match File::open(&path) {
            Ok(file) if file.metadata().is_ok_and(|meta| meta.is_file()) => file,
            _ => return Ok(None),
        },
        Lookup::Directory => {
            return Err(
                Error::new(Kind::Refused, "expected a file, found a directory")
                    .with_code("directory-in-the-way")
                    .with_path(path)
                    .advice("move it away, or name another destination"),
            );
        }
        Lookup::Nothing | Lookup::Unreadable(_) | Lookup::Special => return Ok(None),
    };
    let (mut hash, mut len) = (Sha256::new(), 0);
    let mut buf = vec![0; 256 * 1024];
    loop {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        match file.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => {
                hash.update(&buf[..n]);
                len += n as u64;
                progress.advance(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // It is replaced.
            Err(_) => return Ok(None),
        }
    }
    Ok((Sha256Sum::from_hasher(hash) == wanted.sum).then_some(len))
}

/// What the workers share.
struct Board<'a> {
    schedule: Schedule,
    files: Vec<&'a mut FileReport>,
    /// What ends the run.
    fatal: Option<Error>,
}

/// Downloads all files that are missing.
fn get(
    wanted: &[Wanted],
    dest: &Directory,
    options: &Options,
    files: &mut [FileReport],
    progress: &dyn Progress,
) -> Result<()> {
    let missing = wanted.iter().zip(files.iter_mut());
    let missing = missing.filter(|(_, report)| report.state == State::Missing);
    let (wanted, files): (Vec<&Wanted>, Vec<_>) = missing.unzip();
    if wanted.is_empty() {
        return Ok(());
    }
    let client = Client::new(options.stall);
    let hosts = |w: &&Wanted| w.sources.iter().map(|url| url.host_and_port()).collect();
    let board = Mutex::new(Board {
        schedule: Schedule::new(wanted.iter().map(hosts)),
        files,
        fatal: None,
    });
    let changed = Condvar::new();
    let running = AtomicUsize::new(options.jobs.get().min(wanted.len()));
    progress.begin("fetch", 0);
    let work = || {
        while let Some(task) = next_task(&board, &changed) {
            let file = wanted[task.file];
            let url = &file.sources[task.source];
            let started = Instant::now();
            let result = download(&client, file, url, dest, progress);
            progress.file_stopped(file.name.as_str());
            let mut board = lock(&board);
            match result {
                Ok(outcome) => {
                    log::info!("{}: {url}: {}", file.name, outcome.words);
                    if outcome.ended == schedule::Ended::Complete {
                        progress.file_done(file.name.as_str());
                    }
                    let ended = outcome.ended;
                    board.files[task.file].add(url, outcome, started.elapsed());
                    board.schedule.ended(task, ended, Instant::now());
                }
                Err(e) => drop(board.fatal.get_or_insert(e)),
            }
            changed.notify_all();
        }
        running.fetch_sub(1, Ordering::Release);
        changed.notify_all();
    };
    std::thread::scope(|scope| {
        for _ in 0..running.load(Ordering::Relaxed) {
            scope.spawn(work);
        }
        let mut guard = lock(&board);
        while running.load(Ordering::Acquire) > 0 {
            if guard.fatal.is_none() && progress.cancelled() {
                guard.fatal = Some(Error::interrupted());
            }
            if guard.fatal.is_some() {
                client.stop();
                changed.notify_all();
            }
            guard = wait(&changed, guard, LOOK);
        }
    });
    progress.end();
    let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
    match board.fatal {
        Some(error) => Err(error.or_path(dest.path())),
        None => Ok(()),
    }
}

/// Waits for the next task. `None` ends the worker.
fn next_task(board: &Mutex<Board<'_>>, changed: &Condvar) -> Option<Task> {
    let mut guard = lock(board);
    loop {
        if guard.fatal.is_some() {
            return None;
        }
        match guard.schedule.next(Instant::now()) {
            Next::Start(task) => return Some(task),
            Next::Done => return None,
            Next::Wait(until) => {
                let longest = Duration::from_secs(1);
                let time = until.map_or(longest, |at| at.saturating_duration_since(Instant::now()));
                guard = wait(
                    changed,
                    guard,
                    time.clamp(Duration::from_millis(1), longest),
                );
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(changed: &Condvar, guard: MutexGuard<'a, T>, time: Duration) -> MutexGuard<'a, T> {
    match changed.wait_timeout(guard, time) {
        Ok((guard, _)) => guard,
        Err(poisoned) => poisoned.into_inner().0,
    }
}
