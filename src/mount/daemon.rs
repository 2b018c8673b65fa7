//! A process of its own for the server: forked, not started anew, since the image
//! is open and the mount answered by then, and /proc may not be there to find
//! ourselves in.
#![allow(unsafe_code)] // fork(2); ARCHITECTURE.md names this file.

use std::fs::OpenOptions;
use std::io;

use nix::unistd::{ForkResult, Pid};

/// Which of the two processes we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Who was called; the other one's number.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Makes a second process of this one, which must have a single thread.
///
/// # Errors
/// There are several threads, or no memory for another process.
pub(super) fn fork() -> io::Result<Side> {
    if threads() > 1 {
        return Err(io::Error::other("several threads are running"));
    }
    // SAFETY: the child may do all that the parent might, because no other thread
    // exists that could hold a lock at this moment.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(child)),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// Leaves the terminal, the working directory and the standard streams to others.
///
/// # Errors
/// What the system says.
pub(super) fn detach() -> io::Result<()> {
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    // Without /dev/null, as on the barest systems, the streams stay as they are.
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        nix::unistd::dup2_stderr(&null)?;
    }
    Ok(())
}

/// Ends this process at once, with nothing of the caller's run or flushed twice.
pub(super) fn leave(status: i32) -> ! {
    // SAFETY: _exit(2) touches no memory of ours and does not return.
    unsafe { libc::_exit(status) }
}

/// How many threads this process has; 1 where nobody can tell.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}
