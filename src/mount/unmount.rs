//! `lbpayload unmount`: unmounts, and waits until the server has ended.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open, test_kill_process};

use crate::error::{Error, Kind, Result};

use super::attributes::{PID_NAMESPACE, pid_namespace};
use super::mount_point::{IfBusy, means_dead, server_of, unmount_path};

/// The interval for checking whether the server still runs, on kernels without pidfd (before
/// 5.3).
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// Unmounts the payload on `dir` and waits until its server has ended. After that, nothing uses
/// the image or the device any more. A mount whose server has died is removed. A server in
/// another PID namespace is not waited for.
///
/// # Errors
/// No payload is mounted on `dir`, it is in use ([`Kind::Busy`]), or permission is missing.
pub fn unmount(dir: &Path, if_busy: IfBusy) -> Result<()> {
    // The path is resolved here, since umount2 is told not to follow symbolic links.
    let resolved = dir.canonicalize();
    let dir = resolved.as_deref().unwrap_or(dir);
    let pid = match server_of(dir) {
        Ok(pid) => pid,
        Err(e) if e.raw_os_error().is_some_and(means_dead) => {
            log::info!("the server of `{}` has died", dir.display());
            return unmount_path(dir, IfBusy::Detach);
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::io("unmount", e)
                .with_path(dir)
                .advice("`findmnt -t fuse.lbpayload` lists the mount points of payloads"));
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let advice = format!(
                "run it as the user that mounted it, or as root: `umount {}`",
                dir.display()
            );
            let error = Error::io("unmount", e).with_path(dir);
            return Err(error.with_code("not-mounter").advice(advice));
        }
        Err(e) => {
            log::debug!("{}: {e}", dir.display());
            return Err(Error::new(Kind::Refused, "no payload is mounted there")
                .with_code("not-mounted")
                .doing("unmount")
                .with_path(dir)
                .advice("`findmnt -t fuse.lbpayload` lists the mount points of payloads"));
        }
    };
    if is_of_another_namespace(dir) {
        unmount_path(dir, if_busy)?;
        log::warn!(
            "did not wait for the server of `{}` (process {pid} of another PID namespace), which \
             may use the image a moment longer",
            dir.display()
        );
        return Ok(());
    }
    // This must come before the unmount: afterwards another process may have this number.
    let handle = pidfd_open(pid, PidfdFlags::empty());
    unmount_path(dir, if_busy)?;
    match handle {
        Ok(handle) => {
            let mut fds = [PollFd::new(&handle, PollFlags::IN)];
            while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
        }
        Err(rustix::io::Errno::SRCH) => {}
        Err(_) => {
            while test_kill_process(pid).is_ok() {
                std::thread::sleep(ASK_AGAIN);
            }
        }
    }
    Ok(())
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
