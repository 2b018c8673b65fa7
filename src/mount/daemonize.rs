//! Runs the server in a process of its own. The command returns when the mount answers, or
//! reports why the mount failed.
//!
//! The process is forked, not started anew: at that point the image is already open and indexed,
//! and without /proc the program could not find its own executable.
#![allow(unsafe_code)] // fork(2), _exit(2), closing files; ARCHITECTURE.md names this file.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::unistd::ForkResult;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::sys::{Inherited, open_files};

use super::filesystem::Filesystem;
use super::mount_point::{IfBusy, MountPoint, is_dead, unmount_path};
use super::session::{Server, Stopper};
use super::settings::Settings;

/// The byte that the server sends once it serves. If it fails, it sends a [`Failure`] instead.
const READY: u8 = b'+';

/// An error in a form that the server can send to the command.
#[derive(Serialize, Deserialize)]
struct Failure {
    kind: Kind,
    code: String,
    doing: Option<String>,
    path: Option<Vec<u8>>,
    cause: String,
    help: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            code: error.code().to_owned(),
            doing: error.named_doing().map(str::to_owned),
            path: error.path().map(|path| path.as_os_str().as_bytes().into()),
            cause: error.cause(),
            help: error.help().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        // The leak is harmless: the program ends with this error.
        let mut error = Self::new(failure.kind, failure.cause).with_code(failure.code.leak());
        if let Some(doing) = failure.doing {
            error = error.doing(doing);
        }
        if let Some(path) = failure.path {
            error = error.with_path(OsString::from_vec(path));
        }
        match failure.help {
            Some(help) => error.advice(help),
            None => error,
        }
    }
}

/// Mounts, and serves in a process of its own. That process closes the `inherited` files, since
/// one of them may be a lock that the caller wants to release. Returns twice: the server in the
/// new process, and `None` in this one once the mount answers. Before the mount is made,
/// `give_stopper` receives the [`Stopper`] that ends the server.
/// `give_stopper` gets what ends the server.
///
/// # Errors
/// The errors of [`Server::start`]. Also, another thread is running, or there is no memory for a
/// process.
pub fn in_background(
    filesystem: Arc<Filesystem>,
    point: MountPoint,
    settings: &Settings,
    inherited: Inherited,
    give_stopper: impl FnOnce(Stopper) -> Result<()>,
) -> Result<Option<Server>> {
    let failed = |e: io::Error| Error::io("start the server", e);
    let (mut from_server, mut to_caller) = UnixStream::pair().map_err(failed)?;
    match fork().map_err(failed)? {
        ForkResult::Parent { .. } => {
            drop(to_caller);
            let mut said = [0];
            match from_server.read(&mut said).map_err(failed)? {
                1 if said == [READY] => Ok(None),
                1.. => {
                    let mut why = said.to_vec();
                    from_server.read_to_end(&mut why).map_err(failed)?;
                    let failure: Failure =
                        serde_json::from_slice(&why).map_err(|e| failed(io::Error::other(e)))?;
                    Err(failure.into())
                }
                0 => {
                    // If the server died before it mounted, another mount may be on the
                    // directory.
                    if is_dead(point.path()) {
                        if let Err(e) = unmount_path(point.path(), IfBusy::Detach) {
                            log::debug!("{e}");
                        }
                    }
                    point.remove_if_made();
                    Err(
                        Error::new(Kind::Io, "the server died before the mount was ready")
                            .with_code("server-died")
                            .doing("mount on")
                            .with_path(point.path()),
                    )
                }
            }
        }
        ForkResult::Child => {
            drop(inherited);
            let started = in_foreground(filesystem, point, settings, give_stopper)
                .and_then(|server| detach(&from_server).map(|()| server).map_err(failed));
            // If the caller has ended, this write fails, and nobody needs the answer.
            match started {
                Ok(server) => {
                    let _ = to_caller.write_all(&[READY]);
                    Ok(Some(server))
                }
                Err(error) => {
                    let _ = serde_json::to_writer(to_caller, &Failure::from(&error));
                    exit_now(1)
                }
            }
        }
    }
}

/// Mounts, and serves in this process. `give_stopper` works as in [`in_background`].
///
/// # Errors
/// The errors of [`Server::start`]; with `auto_unmount`, also those of [`in_background`].
pub fn in_foreground(
    filesystem: Arc<Filesystem>,
    point: MountPoint,
    settings: &Settings,
    give_stopper: impl FnOnce(Stopper) -> Result<()>,
) -> Result<Server> {
    if settings.auto_unmount {
        // This must come before /dev/fuse is opened: the mount lives as long as any process has
        // that file open.
        watch(&point).map_err(|e| Error::io("start the process that unmounts", e))?;
    }
    Server::start(filesystem, point, settings, give_stopper)
}

/// Starts a process that unmounts `point` if this process is killed.
fn watch(point: &MountPoint) -> io::Result<()> {
    let (mut our_end, held) = UnixStream::pair()?;
    if let ForkResult::Parent { .. } = fork()? {
        // This end stays open as long as this process lives, however it ends.
        std::mem::forget(held);
        return Ok(());
    }
    log::set_max_level(log::LevelFilter::Off);
    // Closes the image, which others may need exclusively once the mount has ended, and pipes
    // whose readers wait for end of file.
    for fd in open_files() {
        if fd != our_end.as_raw_fd() {
            // SAFETY: the owners of these descriptors are not used again: this process runs only
            // the code below, which does not log, and drops nothing.
            unsafe { libc::close(fd) };
        }
    }
    let watched = detach(&our_end).and_then(|()| our_end.read_to_end(&mut Vec::new()));
    if watched.is_ok() && is_dead(point.path()) {
        let _ = unmount_path(point.path(), IfBusy::Detach);
        point.remove_if_made();
    }
    exit_now(0)
}

/// Forks this process.
///
/// # Errors
/// Another thread is running, or this cannot be determined; or there is no memory for a process.
fn fork() -> io::Result<ForkResult> {
    if !is_single_threaded()? {
        return Err(io::Error::other("several threads are running"));
    }
    // SAFETY: no other thread exists that could hold a lock at this moment, so the child may do
    // everything that the parent may do.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// Returns whether this process has only one thread. Without /proc, unshare(2) tells: with
/// CLONE_THREAD it changes nothing, and fails with EINVAL if there is another thread.
fn is_single_threaded() -> io::Result<bool> {
    if let Ok(threads) = std::fs::read_dir("/proc/self/task") {
        return Ok(threads.count() == 1);
    }
    // SAFETY: with this flag, the call either does nothing or fails.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        e => Err(e),
    }
}

/// Leaves the terminal and the working directory, and replaces the standard streams, so that a
/// reader of our output sees end of file. `spare` replaces them if no file can be opened.
///
/// # Errors
/// A system call failed.
fn detach(spare: &UnixStream) -> io::Result<()> {
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    // A minimal system may have no /dev/null. A directory works too: it can be neither read nor
    // written.
    let null = null.or_else(|_| File::open("/"));
    let instead = null.as_ref().map_or(spare.as_fd(), AsFd::as_fd);
    nix::unistd::dup2_stdin(instead)?;
    nix::unistd::dup2_stdout(instead)?;
    nix::unistd::dup2_stderr(instead)?;
    Ok(())
}

/// Ends this process at once, without running exit handlers or flushing buffers a second time.
fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) does not touch our memory and does not return.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;

    #[test]
    fn fork_fails_if_another_thread_runs_even_without_proc() {
        // A thread can have its own mount namespace; here it hides /proc.
        let without_proc = std::thread::spawn(|| {
            // SAFETY: unshare changes neither memory nor descriptors that others use.
            if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
                return false;
            }
            let no = None::<&str>;
            mount(no, "/", no, MsFlags::MS_REC | MsFlags::MS_PRIVATE, no).unwrap();
            mount(Some("tmpfs"), "/proc", Some("tmpfs"), MsFlags::empty(), no).unwrap();
            assert!(!std::path::Path::new("/proc/self").exists());
            match fork() {
                Ok(ForkResult::Child) => exit_now(0),
                forked => assert!(forked.is_err(), "{forked:?}"),
            }
            true
        });
        if !without_proc.join().unwrap() {
            let _ = writeln!(io::stderr(), "SKIPPED: no mount namespace");
        }
    }
}
