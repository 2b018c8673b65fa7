//! A process of its own for the server: forked, not started anew, since the image
//! is open and the mount answered by then, and /proc may not be there to find
//! ourselves in.
#![allow(unsafe_code)] // fork(2); ARCHITECTURE.md names this file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use nix::unistd::{ForkResult, Pid};

/// Which of the two processes we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Who was called; the other one's number.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Makes a second process of this one.
///
/// # Errors
/// Another thread runs, or nobody can tell; there is no memory for a process.
pub(super) fn fork() -> io::Result<Side> {
    if !is_single_threaded()? {
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
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    // The barest systems have none. A directory can be neither read nor written, and
    // whoever waits for the end of our output sees it all the same.
    if let Ok(null) = null.or_else(|_| File::open("/")) {
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

/// The files above the standard streams that are open, where /proc can tell: called
/// before any is opened, those that were inherited.
pub fn open_files() -> Vec<i32> {
    const OURS: &str = "/proc/self/fd";
    let numbers: Vec<i32> = std::fs::read_dir(OURS).map_or_else(
        |_| Vec::new(),
        |list| {
            let names = list.flatten().map(|entry| entry.file_name());
            names.filter_map(|n| n.to_str()?.parse().ok()).collect()
        },
    );
    // One of them was the directory's.
    let is_open = |fd: &i32| std::fs::symlink_metadata(format!("{OURS}/{fd}")).is_ok();
    numbers
        .into_iter()
        .filter(|fd| *fd > 2 && is_open(fd))
        .collect()
}

/// Closes `files`: of [`open_files`], those that nobody here uses.
pub(super) fn close_files(files: &[i32]) {
    for fd in files {
        // SAFETY: touches no memory; they were open before anything here could own
        // them, and whoever took one has left it out.
        unsafe { libc::close(*fd) };
    }
}

/// Closes what this process has inherited but for the standard streams and `kept`:
/// whoever owns it here must never use or drop it again, only [`leave`].
pub(super) fn close_all_but(kept: &impl AsRawFd) {
    let numbers = std::fs::read_dir("/proc/self/fd").map_or_else(
        |_| (0..1024).collect(),
        |list| {
            let names = list.flatten().map(|entry| entry.file_name());
            names.filter_map(|n| n.to_str()?.parse().ok()).collect()
        },
    );
    let others = |fd: &i32| *fd > 2 && *fd != kept.as_raw_fd();
    for fd in Vec::into_iter(numbers).filter(others) {
        // SAFETY: touches no memory; the numbers' owners are never used again, which
        // this function demands.
        unsafe { libc::close(fd) };
    }
}

/// Whether no other thread runs in this process. Where /proc is missing, unshare(2) tells:
/// with CLONE_THREAD it changes nothing, and fails with EINVAL if there is another thread.
fn is_single_threaded() -> io::Result<bool> {
    if let Ok(threads) = std::fs::read_dir("/proc/self/task") {
        return Ok(threads.count() == 1);
    }
    // SAFETY: with this flag the call succeeds only where it has nothing to do.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        e => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::mount::{MsFlags, mount};

    use super::*;

    #[test]
    fn it_does_not_fork_beside_another_thread_even_without_proc() {
        // A thread can have mounts of its own: here, nothing at /proc.
        let without_proc = std::thread::spawn(|| {
            // SAFETY: takes no memory and no descriptor away from anybody.
            if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
                return false;
            }
            let no = None::<&str>;
            mount(no, "/", no, MsFlags::MS_REC | MsFlags::MS_PRIVATE, no).unwrap();
            mount(Some("tmpfs"), "/proc", Some("tmpfs"), MsFlags::empty(), no).unwrap();
            assert!(!std::path::Path::new("/proc/self").exists());
            match fork() {
                Ok(Side::Child) => leave(0),
                forked => assert!(forked.is_err(), "{forked:?}"),
            }
            true
        });
        if !without_proc.join().unwrap() {
            let _ = writeln!(io::stderr(), "SKIPPED: no mount namespace");
        }
    }
}
