//! Starts the helper and sends it requests.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Serialize;

use super::wire::{self, Greeting};
use crate::error::{Error, Kind, Result};
use crate::promote::refused::{refused, shell_word};
use crate::promote::tree::executor::Answer;
use crate::promote::tree::protocol::{Reply, Request};

/// The name of the hidden command that runs the helper.
pub const COMMAND: &str = "promote-helper";

/// A running helper.
#[derive(Debug)]
pub(crate) struct Helper {
    socket: Option<OwnedFd>,
    child: Child,
}

impl Helper {
    /// Starts the helper for `rootfs`. This may cause sudo to ask for a password.
    pub(crate) fn start(rootfs: &impl AsFd, shown: &Path) -> Result<Self> {
        let failed = |e: io::Error| {
            Error::io("start the helper for", e)
                .with_path(shown)
                .advice("run promote as root")
        };
        let program = std::env::current_exe().map_err(failed)?;
        // The path must not contain symlinks, which the helper does not follow.
        let named = shown.canonicalize().map_err(failed)?;
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| failed(e.into()))?;
        let started = sudo()
            .arg("--")
            .arg(&program)
            .arg(COMMAND)
            .arg(&named)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn();
        let child = started.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                Kind::Refused,
                "it belongs to root, and sudo is not installed",
            )
            .doing("write to")
            .with_path(shown)
            .with_code("no-privilege")
            .advice("install sudo, or run promote as root"),
            _ => failed(e),
        })?;
        let mut helper = Self {
            socket: Some(ours),
            child,
        };
        let greeting = Greeting {
            rootfs: shown.to_path_buf(),
        };
        match helper.exchange(&greeting, Some(rootfs.as_fd())) {
            Ok(Some((Reply::Done, _))) => Ok(helper),
            Ok(Some(_)) => Err(failed(io::ErrorKind::InvalidData.into())),
            Ok(None) | Err(_) => Err(helper.refused(shown, &named)),
        }
    }

    /// Returns the error if the helper did not start. sudo has printed the reason on the
    /// terminal.
    fn refused(&mut self, shown: &Path, named: &Path) -> Error {
        self.socket = None;
        let how = match self.child.wait() {
            Ok(status) => format!("sudo did not start the helper ({status})"),
            Err(e) => format!("sudo did not start the helper ({e})"),
        };
        Error::new(Kind::Refused, how)
            .doing("write to")
            .with_path(shown)
            .with_code("no-privilege")
            .advice(format!(
                "run promote as root, or allow this with sudo: {} {COMMAND} {}",
                shell_word(&std::env::current_exe().unwrap_or_default()),
                shell_word(named)
            ))
    }

    fn exchange(
        &mut self,
        message: &impl Serialize,
        file: Option<BorrowedFd<'_>>,
    ) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        wire::send(socket, message, file)?;
        wire::receive(socket)
    }
}

impl Helper {
    /// Sends `request` with `file` to the helper, and returns its reply.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Answer> {
        // The error must not have the kind of a closed pipe, which would count as success.
        let gone = |e: io::Error| {
            Error::io("ask the helper", e)
                .with_kind(Kind::Io)
                .advice("promote again (what was copied is kept)")
        };
        match self.exchange(request, file).map_err(gone)? {
            Some((Reply::Failed(failure), _)) => Err(failure.into()),
            Some(answer) => Ok(answer),
            None => Err(gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // The helper ends when the socket is closed, and sudo ends with it.
        self.socket = None;
        let _ = self.child.wait();
    }
}

/// Returns a command that runs sudo. sudo asks for a password on the terminal. Without a
/// terminal, it is told to use SUDO_ASKPASS if that is set, which it does by itself only under X.
pub(crate) fn sudo() -> Command {
    let mut command = Command::new("sudo");
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    if terminal.is_err() && std::env::var_os("SUDO_ASKPASS").is_some() {
        command.arg("-A");
    }
    command
}

/// Checks whether sudo lets this user run `program`. sudo may ask for a password.
pub(crate) fn probe_sudo(program: &Path) -> Result<()> {
    let asked = sudo()
        .args(["-l", "--"])
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    match asked {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(refused(
            "sudo does not let you run this tool",
            program,
            "allow it in sudoers, or run promote as root",
        )
        .with_code("no-privilege")),
        Err(e) => Err(Error::io("run sudo for", e)
            .with_path(program)
            .with_code("no-privilege")
            .advice("install sudo, or run promote as root")),
    }
}
