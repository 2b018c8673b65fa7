//! `lbpayload unmount`: unmounts, and waits until the server has ended.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

use crate::error::{Error, Kind, Result};

use super::attributes::{PID_NAMESPACE, pid_namespace};
use super::mount_point::{IfBusy, means_dead, server_of, unmount_path};
use super::mount_table::{KIND, OtherMount, mounts_everywhere, own_mounts, topmost};

/// The interval for checking whether the server still runs, on kernels without pidfd (before
/// 5.3).
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// The number of other mounts that a warning names.
const NAMED_MOUNTS: usize = 5;

/// Unmounts the payload on `dir`.
///
/// With [`IfBusy::Fail`], this waits up to `timeout` until the server has ended. After that,
/// nothing uses the image or the device any more. A mount whose server has died is removed. With
/// [`IfBusy::Detach`], the server is neither asked nor waited for, so this works with a server
/// that is stuck.
///
/// Returns a warning if `dir` is unmounted but the server still runs, because the payload is
/// mounted at other places too or because the server is in another PID namespace.
///
/// # Errors
/// No payload is mounted on `dir`, it is in use ([`Kind::Busy`]), permission is missing, or the
/// server does not answer or does not end.
pub fn unmount(dir: &Path, if_busy: IfBusy, timeout: Duration) -> Result<Option<Error>> {
    // The path is resolved here, since umount2 is told not to follow symbolic links. A slash at
    // the end would make the system ask the server.
    let dir: PathBuf = dir.components().collect();
    let dir = match dir.canonicalize() {
        Ok(resolved) => resolved,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::io("unmount", e)
                .with_path(dir)
                .advice("`findmnt -t fuse.lbpayload` lists the mount points of payloads"));
        }
        Err(_) => dir,
    };
    let mount = topmost(&dir);
    match &mount {
        Some(mount) if mount.kind == KIND.as_bytes() => {}
        // Without /proc, only the server can tell what is mounted.
        None if own_mounts().is_empty() => {}
        _ => return Err(not_mounted(&dir)),
    }
    if mount.is_some() && if_busy == IfBusy::Detach {
        return unmount_path(&dir, IfBusy::Detach).map(|()| None);
    }
    let until = Instant::now() + timeout;
    let (pid, is_elsewhere) = match asked(&dir, timeout) {
        Some(Ok(answer)) => answer,
        Some(Err(e)) if e.raw_os_error().is_some_and(means_dead) => {
            log::info!("the server of `{}` has died", dir.display());
            return unmount_path(&dir, IfBusy::Detach).map(|()| None);
        }
        Some(Err(e)) if e.kind() == io::ErrorKind::PermissionDenied => {
            let advice = format!(
                "run it as the user that mounted it, or as root: `umount {}`",
                dir.display()
            );
            let error = Error::io("unmount", e).with_path(dir);
            return Err(error.with_code("not-mounter").advice(advice));
        }
        Some(Err(e)) => {
            log::debug!("{}: {e}", dir.display());
            return Err(not_mounted(&dir));
        }
        None => return Err(silent(&dir, timeout)),
    };
    if is_elsewhere {
        unmount_path(&dir, if_busy)?;
        let message = format!(
            "did not wait for the server of `{}` (process {pid} of another PID namespace), which \
             may use the image a moment longer",
            dir.display()
        );
        return Ok(Some(Error::new(Kind::Busy, message)));
    }
    // This must come before the unmount: afterwards another process may have this number.
    let handle = pidfd_open(pid, PidfdFlags::empty());
    unmount_path(&dir, if_busy)?;
    let has_ended = match handle {
        Ok(handle) => {
            let mut fds = [PollFd::new(&handle, PollFlags::IN)];
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let left = Timespec::try_from(left).ok();
                match poll(&mut fds, left.as_ref()) {
                    Err(rustix::io::Errno::INTR) => {}
                    ready => break ready.is_ok_and(|n| n > 0),
                }
            }
        }
        Err(rustix::io::Errno::SRCH) => true,
        Err(_) => loop {
            if test_kill_process(pid).is_err() {
                break true;
            }
            if Instant::now() >= until {
                break false;
            }
            std::thread::sleep(ASK_AGAIN);
        },
    };
    if has_ended {
        return Ok(None);
    }
    let others = mount.map_or_else(Vec::new, |mount| mounts_everywhere(mount.device, &dir));
    if others.is_empty() {
        return Err(still_runs(&dir, pid, timeout));
    }
    Ok(Some(mounted_elsewhere(&dir, pid, &others)))
}

/// Asks the server on `dir` for its process ID, and whether that is one of another PID namespace.
/// Returns `None` if there is no answer in time: then the thread that asked stays behind, since a
/// request to a server that is stuck cannot be taken back.
fn asked(dir: &Path, timeout: Duration) -> Option<io::Result<(Pid, bool)>> {
    let (send, answer) = mpsc::channel();
    let dir = dir.to_owned();
    let ask = move || {
        let pid = server_of(&dir);
        // This fails only if nobody waits any more.
        let _ = send.send(pid.map(|pid| (pid, is_of_another_namespace(&dir))));
    };
    match std::thread::Builder::new().name("ask".into()).spawn(ask) {
        Ok(_) => answer.recv_timeout(timeout).ok(),
        Err(e) => Some(Err(e)),
    }
}

fn not_mounted(dir: &Path) -> Error {
    Error::new(Kind::Refused, "no payload is mounted there")
        .with_code("not-mounted")
        .doing("unmount")
        .with_path(dir)
        .advice("`findmnt -t fuse.lbpayload` lists the mount points of payloads")
}

fn silent(dir: &Path, timeout: Duration) -> Error {
    let message = format!(
        "its server has not answered for {} s",
        timeout.as_secs_f32()
    );
    Error::new(Kind::Busy, message)
        .with_code("server-silent")
        .doing("unmount")
        .with_path(dir)
}

fn still_runs(dir: &Path, pid: Pid, timeout: Duration) -> Error {
    let message = format!(
        "`{}` is unmounted, but its server still runs after {} s",
        dir.display(),
        timeout.as_secs_f32()
    );
    let pid = pid.as_raw_nonzero();
    Error::new(Kind::Busy, message)
        .with_code("server-runs")
        .with_path(dir)
        .note(format!("the server is process {pid}"))
        .advice(format!(
            "wait until the disk has answered its last read, or end it with `kill -9 {pid}`"
        ))
}

fn mounted_elsewhere(dir: &Path, pid: Pid, others: &[OtherMount]) -> Error {
    let message = format!(
        "`{}` is unmounted, but the payload is still mounted elsewhere",
        dir.display()
    );
    let mut warning = Error::new(Kind::Busy, message)
        .with_code("mounted-elsewhere")
        .note(format!("the server is process {}", pid.as_raw_nonzero()));
    for other in others.iter().take(NAMED_MOUNTS) {
        warning = warning.note(format!(
            "process {} ({}) has it on `{}`",
            other.process,
            other.program,
            other.point.display()
        ));
    }
    if others.len() > NAMED_MOUNTS {
        warning = warning.note(format!("{} more mounts", others.len() - NAMED_MOUNTS));
    }
    warning.advice("unmount it there too, or end these processes")
}

/// Returns whether the server runs in another PID namespace, so that its number means nothing
/// here. Returns `false` if that is unknown.
fn is_of_another_namespace(dir: &Path) -> bool {
    let mut theirs = [0; 64];
    let Ok(len) = rustix::fs::getxattr(dir, PID_NAMESPACE, &mut theirs) else {
        return false;
    };
    pid_namespace().is_some_and(|ours| ours != theirs[..len])
}
