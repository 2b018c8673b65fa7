//! Runs the `git` command, so that only git's own answers decide.
//!
//! A crate would have to support everything that users configure (credentials, ssh, filters,
//! worktrees, alternates). The command supports it by definition.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::{Uid, User};

use super::invoker;
use crate::error::{Error, Kind, Result, printable};
use crate::promote::refused::shell_word;

/// The environment variables of git that say how to reach a server or where the user's
/// configuration is. All others can make git use another repository than the requested one, so
/// they are removed.
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

/// The working tree of a repository, or a directory in it.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    dir: PathBuf,
    /// The path of `dir` in the working tree. It is empty, or ends with `/`.
    prefix: OsString,
    runs_as: Option<Account>,
}

/// The user that git runs as if this process is root. The repository's configuration may name
/// programs to run, and they must not run as root.
#[derive(Debug, Clone)]
struct Account {
    uid: u32,
    gid: u32,
    home: Option<PathBuf>,
    /// Whether it is the user who ran sudo, and not the owner of the repository.
    by_sudo: bool,
}

impl Git {
    /// Opens the repository whose working tree starts at `dir`. Returns `Ok(None)` if there is no
    /// such repository, even if `dir` lies inside one.
    pub(crate) fn at(dir: &Path) -> Result<Option<Self>> {
        // In a linked worktree and in a submodule, this is a file.
        if !dir.join(".git").exists() {
            return Ok(None);
        }
        let git = Self::around(dir)?;
        Ok(git.filter(|git| git.prefix.is_empty()))
    }

    /// Opens the repository whose working tree contains `dir`. Returns `Ok(None)` if there is
    /// none.
    pub(crate) fn around(dir: &Path) -> Result<Option<Self>> {
        let Ok(dir) = dir.canonicalize() else {
            return Ok(None);
        };
        let runs_as = account(&dir);
        let mut git = Self {
            dir,
            prefix: OsString::new(),
            runs_as,
        };
        match git.lines(&["rev-parse", "--show-prefix"]) {
            Ok(prefix) => git.prefix = OsString::from_vec(prefix),
            Err(e) if e.cause().contains("not a git repository") => return Ok(None),
            Err(e) => return Err(e),
        }
        Ok(Some(git))
    }

    /// Returns the top of the working tree.
    pub(crate) fn top(&self) -> &Path {
        let depth = Path::new(&self.prefix).components().count();
        self.dir.ancestors().nth(depth).unwrap_or(&self.dir)
    }

    /// Returns the name of this directory in `commit`, as git commands take it.
    pub(crate) fn tree_of(&self, commit: &str) -> OsString {
        let mut name = OsString::from(commit);
        if !self.prefix.is_empty() {
            name.push(":");
            name.push(&self.prefix);
        }
        name
    }

    /// Returns the directory. Its path has no symlinks.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the output of `git ARGS`.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Vec<u8>> {
        let output = self.output(args)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if let Some((_, at)) = said.split_once("detected dubious ownership in repository at '") {
            return Err(self.not_trusted(at.split('\'').next().unwrap_or_default()));
        }
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
            .doing(format!("run git {} in", verb.unwrap_or_default()))
            .with_path(&self.dir)
            .with_code("git")
            .advice(format!("git -C {} status", shell_word(&self.dir))))
    }

    /// Creates the error for a repository that belongs to somebody else. Only the user can say
    /// that its programs may run.
    fn not_trusted(&self, at: &str) -> Error {
        let at = PathBuf::from(at);
        Error::new(
            Kind::Refused,
            "the repository belongs to another user, so git does not use it",
        )
        .with_path(&at)
        .with_code("foreign-repository")
        .advice(format!(
            "if you trust it: {}git config --global --add safe.directory {}",
            match &self.runs_as {
                Some(who) => format!("sudo -u '#{}' ", who.uid),
                None => String::new(),
            },
            shell_word(&at)
        ))
    }

    /// Returns the output without the line feed at the end.
    pub(crate) fn lines<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Vec<u8>> {
        let mut text = self.run(args)?;
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        Ok(text)
    }

    /// Returns the names that `git ARGS` prints. Each ends with a zero byte.
    pub(crate) fn names<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<HashSet<OsString>> {
        let out = self.run(args)?;
        let names = out.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names
            .map(|name| OsString::from_vec(name.to_vec()))
            .collect())
    }

    /// Returns whether `git ARGS` exits with 0.
    pub(crate) fn succeeds<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<bool> {
        Ok(self.output(args)?.status.success())
    }

    /// Starts `git ARGS`, with pipes for its input and its output.
    pub(crate) fn spawn(&self, args: &[&str]) -> Result<Child> {
        self.start(|command| {
            command
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        })
    }

    fn output<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<std::process::Output> {
        self.start(|command| command.args(args).output())
    }

    fn start<T>(&self, how: impl Fn(&mut Command) -> io::Result<T>) -> Result<T> {
        let started = match how(&mut self.command(true)) {
            // The owner cannot enter this directory, so only root can have written here.
            Err(e)
                if e.kind() == io::ErrorKind::PermissionDenied
                    && self.runs_as.as_ref().is_some_and(|who| !who.by_sudo) =>
            {
                how(&mut self.command(false))
            }
            other => other,
        };
        started.map_err(|e| self.cannot_start(e))
    }

    fn cannot_start(&self, e: io::Error) -> Error {
        let missing = e.kind() == io::ErrorKind::NotFound;
        let error = Error::io("start git in", e).with_path(&self.dir);
        match missing {
            true => error.with_code("no-git").advice("install git"),
            false => error
                .with_code("git")
                .advice("check that git can be run there"),
        }
    }

    fn command(&self, as_other: bool) -> Command {
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
        command
            .current_dir(&self.dir)
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            // Queries must not write anything, not even a refreshed index.
            .env("GIT_OPTIONAL_LOCKS", "0")
            .args(["-c", "core.fsmonitor=false"])
            .stdin(Stdio::null());
        if let Some(who) = self.runs_as.as_ref().filter(|_| as_other) {
            command.uid(who.uid).gid(who.gid);
            command.env_remove("XDG_CONFIG_HOME");
            match &who.home {
                Some(home) => command.env("HOME", home),
                None => command.env_remove("HOME"),
            };
        }
        command
    }
}

/// Returns the user that git runs as: the one who ran sudo, or the owner of the repository.
fn account(dir: &Path) -> Option<Account> {
    if !Uid::effective().is_root() {
        return None;
    }
    let home = |uid| User::from_uid(Uid::from_raw(uid)).ok().flatten();
    if let Some((uid, gid)) = invoker::by_sudo() {
        return Some(Account {
            uid,
            gid,
            home: home(uid).map(|user| user.dir),
            by_sudo: true,
        });
    }
    let meta = dir.metadata().ok()?;
    if meta.uid() == 0 {
        return None;
    }
    let user = home(meta.uid());
    Some(Account {
        uid: meta.uid(),
        gid: user.as_ref().map_or(meta.gid(), |user| user.gid.as_raw()),
        home: user.map(|user| user.dir),
        by_sudo: false,
    })
}

/// The output of `git status` for a working tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// The commit of HEAD, or `None` before the first commit.
    pub(crate) head: Option<String>,
    /// Whether the branch of HEAD tracks another one.
    pub(crate) has_upstream: bool,
    /// A path with an uncommitted change, and the number of such paths.
    pub(crate) changed: Option<(String, usize)>,
}

impl Status {
    /// Runs `git status`. With `untracked`, untracked files count as changes.
    pub(crate) fn probe(git: &Git, untracked: bool) -> Result<Self> {
        let untracked = if untracked { "normal" } else { "no" };
        let out = git.run(&[
            "status",
            "--porcelain=v2",
            "--branch",
            "-z",
            &format!("--untracked-files={untracked}"),
            // Nested repositories are queried on their own.
            "--ignore-submodules=dirty",
            "--",
            ".",
        ])?;
        Ok(Self::detect(&out))
    }

    fn detect(out: &[u8]) -> Self {
        let mut status = Self::default();
        let mut records = out.split(|byte| *byte == 0).filter(|r| !r.is_empty());
        let mut count = 0;
        while let Some(record) = records.next() {
            let text = String::from_utf8_lossy(record);
            if let Some(id) = text.strip_prefix("# branch.oid ") {
                status.head = (id != "(initial)").then(|| id.to_owned());
            } else if text.starts_with("# branch.upstream ") {
                status.has_upstream = true;
            } else if !text.starts_with('#') {
                // The number of fields before the path, see "Porcelain Format Version 2" in
                // git-status(1).
                let fields = match text.as_bytes()[0] {
                    b'1' => 8,
                    b'2' => 9,
                    b'u' => 10,
                    _ => 1,
                };
                let path = text.splitn(fields + 1, ' ').last().unwrap_or_default();
                status.changed.get_or_insert((printable(path), 0));
                count += 1;
                if text.starts_with('2') {
                    // This is the name before a rename.
                    records.next();
                }
            }
        }
        if let Some(changed) = &mut status.changed {
            changed.1 = count;
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_head_upstream_and_the_first_change() {
        let clean = b"# branch.oid 0123456\0# branch.head main\0# branch.upstream origin/main\0";
        let status = Status::detect(clean);
        assert_eq!(status.head.as_deref(), Some("0123456"));
        assert!(status.has_upstream && status.changed.is_none());
        let new = Status::detect(b"# branch.oid (initial)\0# branch.head main\0");
        assert_eq!(new, Status::default());
        let out = b"# branch.oid 1\0\
            2 R. N... 100644 100644 100644 a b R100 new name\0old name\0\
            1 .M N... 100644 100644 100644 a b with blank\0? un\ntracked\0";
        let changed = Status::detect(out).changed.unwrap();
        assert_eq!(changed, ("new name".to_owned(), 3));
    }
}
