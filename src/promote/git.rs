//! The `git` command, asked in a way that only its own answer decides.
//!
//! A crate would have to follow everything that users configure (credentials, ssh,
//! filters, worktrees, alternates); the command does by definition.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::unistd::{Uid, User};

use crate::error::{Error, Kind, Result, printable};

/// Variables of git that say how to reach a server or where the user's own
/// configuration is. All others lead git to another repository than the one asked
/// about, and are taken away.
const KEPT: &[&str] = &[
    "GIT_ASKPASS",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
    "GIT_EXEC_PATH",
    "GIT_PROXY_COMMAND",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
];

/// A repository's working tree.
#[derive(Debug)]
pub(super) struct Git {
    dir: PathBuf,
    owner: Option<Owner>,
}

/// Whom git runs as where root asks about somebody's repository: its configuration
/// may name programs to run, and they are not to run as root.
#[derive(Debug)]
struct Owner {
    uid: u32,
    gid: u32,
    home: Option<PathBuf>,
}

impl Git {
    /// The repository whose working tree begins at `dir`. `Ok(None)` where `dir` is
    /// none, even if it lies inside one.
    ///
    /// # Errors
    /// There is no git command, or it fails.
    pub(super) fn at(dir: &Path) -> Result<Option<Self>> {
        let Ok(dir) = dir.canonicalize() else {
            return Ok(None);
        };
        // A linked worktree and a submodule have a file there.
        if !dir.join(".git").exists() {
            return Ok(None);
        }
        let owner = owner(&dir);
        let git = Self { dir, owner };
        let top = git.lines(&["rev-parse", "--show-toplevel"])?;
        let top = PathBuf::from(OsString::from_vec(top));
        Ok((top == git.dir).then_some(git))
    }

    /// The working tree, without symlinks in its path.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `git ARGS` prints.
    ///
    /// # Errors
    /// It cannot be started, or exits non-zero: with the last line it said.
    pub(super) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Vec<u8>> {
        let output = self.output(args)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with("fatal:") || line.starts_with("error:"))
            .or_else(|| said.lines().rev().find(|line| !line.trim().is_empty()))
            .map_or_else(|| output.status.to_string(), printable);
        let mut words = args.iter().map(|arg| arg.as_ref().to_string_lossy());
        let verb = match words.next() {
            Some(option) if option == "-c" => words.nth(1),
            other => other,
        };
        Err(Error::new(Kind::Refused, said)
            .doing(format!("git {} in", verb.unwrap_or_default()))
            .path(&self.dir))
    }

    /// What it prints, without the line feed at the end.
    pub(super) fn lines<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Vec<u8>> {
        let mut text = self.run(args)?;
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        Ok(text)
    }

    /// Whether `git ARGS` exits with 0.
    pub(super) fn succeeds<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<bool> {
        Ok(self.output(args)?.status.success())
    }

    fn output<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<std::process::Output> {
        let started = self.command(true).args(args).output();
        let output = match started {
            // The owner cannot come here: then nobody but root has put anything here.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && self.owner.is_some() => {
                self.command(false).args(args).output()
            }
            other => other,
        };
        output.map_err(|e| self.cannot_start(e))
    }

    fn cannot_start(&self, e: io::Error) -> Error {
        let advice = if e.kind() == io::ErrorKind::NotFound {
            "install git"
        } else {
            "check that git can be run there"
        };
        Error::io("starting git in", e)
            .path(&self.dir)
            .advice(advice)
    }

    fn command(&self, as_owner: bool) -> Command {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            let bytes = name.as_encoded_bytes();
            let kept = KEPT.iter().any(|kept| kept.as_bytes() == bytes)
                || bytes.starts_with(b"GIT_TRACE")
                || bytes.starts_with(b"GIT_SSL_")
                || bytes.starts_with(b"GIT_HTTP_");
            if bytes.starts_with(b"GIT_") && !kept {
                command.env_remove(name);
            }
        }
        let mut safe = OsString::from("safe.directory=");
        safe.push(&self.dir);
        command
            .current_dir(&self.dir)
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            // Looking writes nothing, not even a fresher index.
            .env("GIT_OPTIONAL_LOCKS", "0")
            .arg("-c")
            .arg(safe)
            .args(["-c", "core.fsmonitor=false"])
            .stdin(Stdio::null());
        if let Some(owner) = self.owner.as_ref().filter(|_| as_owner) {
            command.uid(owner.uid).gid(owner.gid);
            command.env_remove("XDG_CONFIG_HOME");
            match &owner.home {
                Some(home) => command.env("HOME", home),
                None => command.env_remove("HOME"),
            };
        }
        command
    }

    /// Starts to read objects by their ids.
    pub(super) fn objects(&self) -> Result<Objects> {
        let start = |as_owner| {
            self.command(as_owner)
                .args(["cat-file", "--batch"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        };
        let child = match start(true) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && self.owner.is_some() => {
                start(false)
            }
            other => other,
        };
        let mut child = child.map_err(|e| self.cannot_start(e))?;
        let output = child.stdout.take().map(io::BufReader::new);
        Ok(Objects {
            dir: self.dir.clone(),
            child,
            output,
        })
    }
}

fn owner(dir: &Path) -> Option<Owner> {
    let meta = dir.metadata().ok()?;
    if !Uid::effective().is_root() || meta.uid() == 0 {
        return None;
    }
    let user = User::from_uid(Uid::from_raw(meta.uid())).ok().flatten();
    Some(Owner {
        uid: meta.uid(),
        gid: user.as_ref().map_or(meta.gid(), |user| user.gid.as_raw()),
        home: user.map(|user| user.dir),
    })
}

/// A running `git cat-file --batch`.
#[derive(Debug)]
pub(super) struct Objects {
    dir: PathBuf,
    child: Child,
    output: Option<io::BufReader<ChildStdout>>,
}

impl Objects {
    /// Writes the bytes of the blob `oid` to `out`.
    ///
    /// # Errors
    /// There is no such blob, or reading or writing fails.
    pub(super) fn copy(&mut self, oid: &str, out: &mut dyn Write) -> Result<()> {
        let dir = self.dir.clone();
        self.try_copy(oid, out).map_err(|e| {
            Error::io(format!("reading the git object {oid} of"), e)
                .path(dir)
                .advice("check the repository with git fsck")
        })
    }

    fn try_copy(&mut self, oid: &str, out: &mut dyn Write) -> io::Result<()> {
        use std::io::BufRead;
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let input = self.child.stdin.as_mut().ok_or_else(broken)?;
        // Its end is no closed pipe, which would count as success.
        let ended = |e: io::Error| match e.kind() {
            io::ErrorKind::BrokenPipe => io::ErrorKind::UnexpectedEof.into(),
            _ => e,
        };
        let asked = writeln!(input, "{oid}").and_then(|()| input.flush());
        asked.map_err(ended)?;
        let output = self.output.as_mut().ok_or_else(broken)?;
        let mut head = String::new();
        output.read_line(&mut head)?;
        let words: Vec<&str> = head.split_whitespace().collect();
        let [_, "blob", size] = words[..] else {
            let what = format!("git says \"{}\"", printable(head.trim()));
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        };
        let size: u64 = size.parse().map_err(|_| broken())?;
        if io::copy(&mut output.by_ref().take(size), out)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut end = [0];
        output.read_exact(&mut end)
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.child.stdin.take());
        drop(self.output.take());
        let _ = self.child.wait();
    }
}
