//! A server of its own: the process that was called returns when the mount answers,
//! or with the reason why it never will.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};

use super::adapter::Look;
use super::answers::Answers;
use super::daemon::{Side, close_all_but, close_files, detach, fork, leave};
use super::point::{MountPoint, Users, is_dead, unmount_path};
use super::session::{Server, Settings, Stopper};

/// What the server says once it serves.
const READY: u8 = b'+';

/// Who returns from [`in_background`].
pub enum Served {
    /// The process that was called: the mount answers.
    Caller,
    /// The server, which is to wait for its end.
    Server(Server),
}

/// Mounts, and serves in a process of its own, where `hand_out` is called with what
/// ends it before anything is mounted, and `strangers` are closed: files that the caller
/// was started with (a lock perhaps) and nobody uses. Must be called with a single thread.
///
/// # Errors
/// As [`Server::start`]; no memory for a process.
pub fn in_background(
    answers: Arc<Answers>,
    point: MountPoint,
    look: Look,
    settings: &Settings,
    strangers: &[i32],
    hand_out: impl FnOnce(Stopper) -> Result<()>,
) -> Result<Served> {
    let failed = |e: io::Error| Error::io("starting the server", e);
    let (mut from_server, mut to_caller) = UnixStream::pair().map_err(failed)?;
    match fork().map_err(failed)? {
        Side::Parent(_) => {
            drop(to_caller);
            let mut said = [0];
            match from_server.read(&mut said).map_err(failed)? {
                1 if said == [READY] => Ok(Served::Caller),
                1.. => {
                    let mut why = said.to_vec();
                    from_server.read_to_end(&mut why).map_err(failed)?;
                    Err(Error::new(Kind::Refused, String::from_utf8_lossy(&why)))
                }
                0 => {
                    // It may have died before it mounted: what is there then is not ours.
                    if is_dead(point.path()) {
                        if let Err(e) = unmount_path(point.path(), Users::Leave) {
                            log::debug!("{e}");
                        }
                    }
                    point.forsake();
                    Err(
                        Error::new(Kind::Io, "the server died before the mount answered")
                            .doing("mounting")
                            .path(point.path())
                            .advice("run it with -f to see why"),
                    )
                }
            }
        }
        Side::Child => {
            drop(from_server);
            close_files(strangers);
            let started = with_watcher(answers, point, look, settings, hand_out)
                .and_then(|server| detach().map(|()| server).map_err(failed));
            // Where the caller is gone, nobody needs the answer.
            match started {
                Ok(server) => {
                    let _ = to_caller.write_all(&[READY]);
                    Ok(Served::Server(server))
                }
                Err(error) => {
                    let _ = to_caller.write_all(error.to_string().as_bytes());
                    leave(1)
                }
            }
        }
    }
}

/// Mounts, and serves in this process; `hand_out` as for [`in_background`].
///
/// # Errors
/// As [`Server::start`].
pub fn in_foreground(
    answers: Arc<Answers>,
    point: MountPoint,
    look: Look,
    settings: &Settings,
    hand_out: impl FnOnce(Stopper) -> Result<()>,
) -> Result<Server> {
    with_watcher(answers, point, look, settings, hand_out)
}

fn with_watcher(
    answers: Arc<Answers>,
    point: MountPoint,
    look: Look,
    settings: &Settings,
    hand_out: impl FnOnce(Stopper) -> Result<()>,
) -> Result<Server> {
    if settings.auto_unmount {
        // Before /dev/fuse is open: who holds that keeps the mount alive.
        watch(&point).map_err(|e| Error::io("starting the process that unmounts", e))?;
    }
    Server::start(answers, point, look, settings, hand_out)
}

/// Starts a process that unmounts `point` should this one be killed.
fn watch(point: &MountPoint) -> io::Result<()> {
    let (mut our_end, held) = UnixStream::pair()?;
    match fork()? {
        Side::Parent(_) => {
            // Open for as long as this process lives, whatever ends it.
            std::mem::forget(held);
            Ok(())
        }
        Side::Child => {
            // The image, which others want to have for themselves once the mount is
            // gone, and pipes whose readers wait for their end.
            close_all_but(&our_end);
            let watched = detach().and_then(|()| our_end.read_to_end(&mut Vec::new()));
            if watched.is_ok() && is_dead(point.path()) {
                let _ = unmount_path(point.path(), Users::Leave);
                point.forsake();
            }
            leave(0)
        }
    }
}
