//! What the checks found.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Error;

/// The largest number of problems of one check that are kept. The others are only counted.
const MAX_PROBLEMS: usize = 1000;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// It is as it should be.
    Ok,
    /// It could not be checked, at least not completely. What could be checked is right.
    Unchecked,
    /// Something is wrong.
    Failed,
}

/// Something that is wrong, or that could not be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path below `Linux_for_Tegra/`.
    pub path: PathBuf,
    /// Whether it is wrong or could not be checked.
    pub state: CheckState,
    /// What is wrong with it, without the path.
    pub message: String,
}

/// One check, and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name, which never changes.
    pub name: &'static str,
    /// The result.
    pub state: CheckState,
    /// What was found, in a few words.
    pub message: String,
    /// The problems, at most 1,000 of them.
    pub problems: Vec<Problem>,
    /// The number of further problems.
    pub more: u64,
}

/// Whether an image fits together.
#[derive(Debug)]
pub struct CoherenceReport {
    /// The image.
    pub image: PathBuf,
    /// The release of the kernel, if it is known.
    pub release: Option<String>,
    /// All checks, in a fixed order.
    pub checks: Vec<Check>,
}

impl CoherenceReport {
    /// Returns whether everything was checked and is as it should be.
    pub fn is_ok(&self) -> bool {
        self.checks.iter().all(|c| c.state == CheckState::Ok)
    }
}

/// Collects the problems of one check.
#[derive(Debug, Default, Clone)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    failed: u64,
    unchecked: u64,
}

impl Findings {
    /// Adds something that is wrong.
    pub(super) fn failed(&mut self, path: impl Into<PathBuf>, message: impl Into<String>) {
        self.add(path.into(), CheckState::Failed, message.into());
    }

    /// Adds something that could not be checked.
    pub(super) fn unchecked(&mut self, path: impl Into<PathBuf>, message: impl Into<String>) {
        self.add(path.into(), CheckState::Unchecked, message.into());
    }

    /// Adds the failure to read `path`. It is wrong if it is missing or damaged, and could not be
    /// checked if the system or this program cannot read it.
    pub(super) fn error(&mut self, path: impl Into<PathBuf>, error: &io::Error) {
        let state = match error.kind() {
            io::ErrorKind::NotFound => CheckState::Failed,
            io::ErrorKind::Unsupported | io::ErrorKind::OutOfMemory => CheckState::Unchecked,
            _ => match error.raw_os_error() {
                // A symlink or a file in the path is wrong.
                None | Some(libc::EXDEV | libc::ELOOP | libc::ENOTDIR) => CheckState::Failed,
                Some(_) => CheckState::Unchecked,
            },
        };
        self.add(path.into(), state, words(error));
    }

    fn add(&mut self, path: PathBuf, state: CheckState, message: String) {
        match state {
            CheckState::Failed => self.failed += 1,
            _ => self.unchecked += 1,
        }
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                path,
                state,
                message,
            });
        }
    }

    /// Returns the number of things that are wrong.
    pub(super) fn count_failed(&self) -> u64 {
        self.failed
    }

    /// Returns the check with its result. `message` gets the state, and says what was found.
    pub(super) fn check(
        self,
        name: &'static str,
        message: impl FnOnce(&Self, CheckState) -> String,
    ) -> Check {
        let state = match (self.failed, self.unchecked) {
            (0, 0) => CheckState::Ok,
            (0, _) => CheckState::Unchecked,
            _ => CheckState::Failed,
        };
        Check {
            name,
            state,
            message: message(&self, state),
            more: self.failed + self.unchecked - self.problems.len() as u64,
            problems: self.problems,
        }
    }
}

/// Returns what an error says, in the words of the system or of this program.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EXDEV) => "a symlink leads out of the image".into(),
        Some(libc::ELOOP) => "the symlinks in its path form a loop".into(),
        Some(number) => Error::io("", io::Error::from_raw_os_error(number)).cause(),
        None => match error.kind() {
            io::ErrorKind::NotFound => "no such file".into(),
            io::ErrorKind::UnexpectedEof => "it is cut off".into(),
            _ => error.to_string(),
        },
    }
}

/// Returns a number with its noun: "1 module", "2 modules".
pub(super) fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Returns a path below `rootfs/`, as a path below `Linux_for_Tegra/`.
pub(super) fn in_rootfs(path: &Path) -> PathBuf {
    Path::new(crate::promote::path::ROOTFS).join(path)
}
