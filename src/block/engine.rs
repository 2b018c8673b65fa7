//! Chooses the queue that performs reads and writes.

use std::fmt;
use std::io;
use std::str::FromStr;

use super::queue::Queue;
use super::threads::ThreadQueue;
use super::uring::UringQueue;

/// What performs reads and writes in parallel. The choice does not affect the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoEngine {
    /// Uses io_uring if it works, else threads.
    #[default]
    Auto,
    /// Uses io_uring, or fails.
    Uring,
    /// Uses threads.
    Threads,
}

impl FromStr for IoEngine {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "threads" => Ok(Self::Threads),
            _ => Err("expected auto, uring or threads".into()),
        }
    }
}

impl fmt::Display for IoEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Threads => "threads",
        })
    }
}

/// Opens a queue for `in_flight` reads and writes and `jobs` jobs at a time. Also returns
/// which engine it uses.
///
/// # Errors
/// Threads cannot be started, or io_uring is required and not available.
pub fn open_queue<T: Send + 'static>(
    engine: IoEngine,
    in_flight: usize,
    jobs: usize,
) -> io::Result<(Box<dyn Queue<T>>, IoEngine)> {
    if engine != IoEngine::Threads {
        match UringQueue::new(jobs) {
            Ok(queue) => return Ok((Box::new(queue), IoEngine::Uring)),
            Err(e) if engine == IoEngine::Uring => return Err(e),
            // An old kernel, a seccomp filter or a sysctl: none of them is a problem.
            Err(e) => log::info!("using threads, io_uring is not available ({e})"),
        }
    }
    Ok((
        Box::new(ThreadQueue::new(in_flight + jobs)?),
        IoEngine::Threads,
    ))
}
