//! The error type of the whole library: a kind that the program can act on, the context to print,
//! and the error of the system.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The result type of all functions in this library that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of a failure. The command line derives its exit status from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// The command line is wrong, or its options do not fit together.
    Usage,
    /// Probing found no payload.
    NotFound,
    /// Probing found several payloads where one is needed.
    Ambiguous,
    /// The image violates the format.
    Format,
    /// A checksum does not match, or is missing where every file needs one.
    Checksum,
    /// A system call failed.
    Io,
    /// The destination has not enough space.
    Space,
    /// The file or device is in use: by a mount, another import or a stacked device.
    Busy,
    /// The operation is possible but refused by policy.
    Refused,
    /// An input changed while it was read.
    Changed,
    /// A list, a manifest or a checksum file has invalid syntax.
    Syntax,
    /// The user asked to stop.
    Interrupted,
    /// The reader of our output closed the pipe. For a filter that is success.
    ClosedPipe,
}

/// An error with its context: what was attempted, on which file, at which offset, what the system
/// reported, and what to do next.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Detail>);

/// What gives any error its code and its help: a limit that was reached, or a source that says
/// itself why it cannot be read.
struct Limit {
    code: &'static str,
    help: &'static str,
}

/// Why a source cannot be read, where that is no error of the system: the content of an
/// [`io::Error`]. An error made from it has this code and this help, whatever was being done.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{words}")]
pub struct SourceFailure {
    /// What happened, as a clause.
    pub words: String,
    /// The code of the error.
    pub code: &'static str,
    /// What to do next.
    pub help: &'static str,
}

impl SourceFailure {
    /// Converts the failure to an error of that kind.
    pub fn into_io(self, kind: io::ErrorKind) -> io::Error {
        io::Error::new(kind, self)
    }

    /// Returns the failure that `error` holds, if it holds one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Returns whether `error` holds one: then nothing can be read now, and nothing is damaged.
    pub fn is_in(error: &io::Error) -> bool {
        Self::of(error).is_some()
    }
}

#[derive(Debug)]
struct Detail {
    kind: Kind,
    code: Option<&'static str>,
    doing: Option<String>,
    path: Option<PathBuf>,
    entry: Option<(u64, Option<String>)>,
    file: Option<String>,
    offset: Option<u64>,
    message: Option<String>,
    source: Option<io::Error>,
    advice: Option<String>,
    line: Option<String>,
    notes: Vec<String>,
    missing: Vec<MissingFile>,
}

/// A file that is missing, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct MissingFile {
    /// The name of the file.
    pub name: String,
    /// The URL of the file.
    pub url: String,
}

impl Error {
    /// Creates an error with a message of our own: what is wrong, in a sentence without a full
    /// stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Detail {
            kind,
            code: None,
            doing: None,
            path: None,
            entry: None,
            file: None,
            offset: None,
            message: Some(message.into()),
            source: None,
            advice: None,
            line: None,
            notes: Vec::new(),
            missing: Vec::new(),
        }))
    }

    /// Creates an error for a failed system call. `doing` is a verb and its object, such as
    /// "read" or "sync the directory".
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::BrokenPipe => Kind::ClosedPipe,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Space,
            io::ErrorKind::StaleNetworkFileHandle => Kind::Changed,
            _ => Kind::Io,
        };
        Self(Box::new(Detail {
            kind,
            code: None,
            doing: Some(doing.into()),
            path: None,
            entry: None,
            file: None,
            offset: None,
            message: None,
            source: Some(source),
            advice: None,
            line: None,
            notes: Vec::new(),
            missing: Vec::new(),
        }))
    }

    /// Creates an error for a lack of memory. `doing` is a verb and its object.
    pub fn no_memory(doing: impl Into<String>) -> Self {
        Self::io(doing, io::ErrorKind::OutOfMemory.into())
    }

    /// Creates the error for a request of the user to stop.
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// Creates an error for a state that should be impossible.
    pub(crate) fn bug(what: &str) -> Self {
        Self::new(Kind::Io, what)
            .with_code("bug")
            .advice("this is a bug in lbpayload, please report it")
    }

    /// Adds what was being done, for an error made with [`Error::new`].
    #[must_use]
    pub fn doing(mut self, doing: impl Into<String>) -> Self {
        self.0.doing = Some(doing.into());
        self
    }

    /// Adds the path of the file or device.
    #[must_use]
    pub fn with_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_path_buf());
        self
    }

    /// Adds the entry: its index from 0, and its name if known.
    #[must_use]
    pub fn with_entry(mut self, index: u64, name: Option<&str>) -> Self {
        self.0.entry = Some((index, name.map(str::to_owned)));
        self
    }

    /// Adds the name of a file that does not belong to an entry.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.0.file = Some(name.to_owned());
        self
    }

    /// Adds the byte offset.
    #[must_use]
    pub fn with_offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Replaces the first line, which is otherwise composed of what was being done, the file and
    /// the cause.
    #[must_use]
    pub fn with_line(mut self, line: impl Into<String>) -> Self {
        self.0.line = Some(line.into());
        self
    }

    /// Adds a fact that helps to find the place of the error.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.0.notes.push(note.into());
        self
    }

    /// Adds the files that are missing.
    #[must_use]
    pub(crate) fn with_missing(mut self, missing: Vec<MissingFile>) -> Self {
        self.0.missing = missing;
        self
    }

    /// Sets the advice on what to do next.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Adds the path of the file or device if there is none yet.
    #[must_use]
    pub fn or_path(mut self, path: impl AsRef<Path>) -> Self {
        if self.0.kind != Kind::Interrupted {
            self.0
                .path
                .get_or_insert_with(|| path.as_ref().to_path_buf());
        }
        self
    }

    /// Sets the advice on what to do next if there is none yet. An interruption needs none.
    #[must_use]
    pub fn or_advice(mut self, advice: &str) -> Self {
        if self.0.kind != Kind::Interrupted {
            self.0.advice.get_or_insert_with(|| advice.to_owned());
        }
        self
    }

    /// Changes the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Sets a code that is more specific than that of the kind.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.0.code = Some(code);
        self
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Returns a short word for programs, such as `cut-off` or `not-found`. It is never renamed.
    pub fn code(&self) -> &'static str {
        if let Some(limit) = self.limit() {
            return limit.code;
        }
        self.0.code.unwrap_or(match self.0.kind {
            Kind::Usage => "usage",
            Kind::NotFound => "not-found",
            Kind::Ambiguous => "ambiguous",
            Kind::Format => "format",
            Kind::Checksum => "checksum",
            Kind::Io => "io",
            Kind::Space => "no-space",
            Kind::Busy => "busy",
            Kind::Refused => "refused",
            Kind::Changed => "changed",
            Kind::Syntax => "syntax",
            Kind::Interrupted => "interrupted",
            Kind::ClosedPipe => "closed-pipe",
        })
    }

    /// Returns the error of the system, if the system caused the failure.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }

    /// Returns what was being done, if the error names it.
    pub fn named_doing(&self) -> Option<&str> {
        self.0.doing.as_deref()
    }

    /// Returns what is wrong without the context: our own message and that of the system.
    pub fn cause(&self) -> String {
        self.0.cause()
    }

    /// Returns facts that help to find the place of the error, one per line.
    pub fn notes(&self) -> Vec<String> {
        let Detail {
            offset,
            entry,
            source,
            ..
        } = &*self.0;
        let place = match (offset, entry) {
            (Some(offset), Some((index, _))) => Some(format!("entry {index}, at offset {offset}")),
            // A wrong header needs no place.
            (Some(0), None) if source.is_none() => None,
            (Some(offset), None) => Some(format!("at offset {offset}")),
            (None, Some((index, Some(_)))) => Some(format!("entry {index}")),
            (None, _) => None,
        };
        place
            .into_iter()
            .chain(self.0.notes.iter().cloned())
            .collect()
    }

    /// Returns the advice on what to do next, if the error has one.
    pub fn help(&self) -> Option<&str> {
        match self.limit() {
            Some(limit) => Some(limit.help),
            None => self.0.advice.as_deref(),
        }
    }

    /// The limit of the process or the system that was reached, whatever was being done, or why
    /// the source could not be read.
    fn limit(&self) -> Option<Limit> {
        let source = self.0.source.as_ref()?;
        if let Some(failure) = SourceFailure::of(source) {
            return Some(Limit {
                code: failure.code,
                help: failure.help,
            });
        }
        match source.raw_os_error() {
            Some(libc::EMFILE) => Some(Limit {
                code: "too-many-open-files",
                help: "raise the limit of open files, for example `ulimit -n 1024`",
            }),
            Some(libc::ENFILE) => Some(Limit {
                code: "too-many-open-files",
                help: "raise the system's limit of open files (`sysctl fs.file-max`)",
            }),
            Some(libc::EFBIG) => Some(Limit {
                code: "file-too-large",
                help: "raise the file size limit (`ulimit -f unlimited`), or use a file system \
                       that stores files of this size",
            }),
            _ if source.kind() == io::ErrorKind::OutOfMemory => Some(Limit {
                code: "no-memory",
                help: "raise the memory limit (`ulimit -v`, or the cgroup's)",
            }),
            _ => None,
        }
    }

    /// Returns the whole error as one line, for logs, tables and reports of many errors.
    pub fn one_line(&self) -> String {
        let mut line = self.to_string();
        let notes = self.notes();
        if !notes.is_empty() {
            line.push_str(&format!(" ({})", notes.join(", ")));
        }
        if let Some(help) = self.help() {
            line.push_str(&format!(". {help}"));
        }
        line
    }

    /// Returns the entry: its index, and its name if known.
    pub fn entry(&self) -> Option<(u64, Option<&str>)> {
        let (index, name) = self.0.entry.as_ref()?;
        Some((*index, name.as_deref()))
    }

    /// Returns the path of the file or device, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Returns the files that are missing, if this is what the error is about.
    pub fn missing(&self) -> &[MissingFile] {
        &self.0.missing
    }

    /// Returns the byte offset, if there is one.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Returns whether the error already names an entry.
    pub fn names_entry(&self) -> bool {
        self.0.entry.is_some()
    }
}

impl std::error::Error for Detail {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = &self.line {
            return f.write_str(line);
        }
        let mut context = false;
        if let Some(doing) = &self.doing {
            write!(f, "could not {doing}")?;
            context = true;
        }
        if let Some(subject) = self.subject() {
            let space = if context { " " } else { "" };
            write!(f, "{space}{subject}")?;
            context = true;
        }
        let said = self.cause();
        match (context, said.is_empty()) {
            (_, true) => Ok(()),
            (true, false) => write!(f, ": {said}"),
            (false, false) => f.write_str(&said),
        }
    }
}

impl Detail {
    /// Returns what the error is about: the name first, then the path.
    fn subject(&self) -> Option<String> {
        let quoted = |text: &str| format!("`{}`", printable(text));
        let path = self.path.as_ref().map(|p| quoted(&p.to_string_lossy()));
        let name = match &self.entry {
            Some((_, Some(name))) => Some(quoted(name)),
            Some((index, None)) => Some(format!("entry {index}")),
            None => self.file.as_deref().map(quoted),
        };
        match (name, path) {
            (Some(name), Some(path)) => Some(format!("{name} of {path}")),
            (name, path) => name.or(path),
        }
    }

    /// Returns what is wrong: our own message and that of the system.
    fn cause(&self) -> String {
        let source = self.source.as_ref().map(words_of_the_system);
        let said: Vec<String> = self.message.iter().cloned().chain(source).collect();
        said.join(": ")
    }
}

/// Returns the message of the system, without the number that std appends.
fn words_of_the_system(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// Makes a text that may come from an image safe for a terminal and fit for one line.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns whether a character is invisible or changes the direction of the text, so that one
/// name could look like another.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_what_is_wrong_and_the_place_is_a_note() {
        let error = Error::io("read", io::Error::from_raw_os_error(libc::EIO))
            .with_path("/dev/sdb")
            .with_entry(3, Some("a\nb"))
            .with_offset(4096)
            .advice("copy the disk with ddrescue");
        assert_eq!(
            error.to_string(),
            "could not read `a\\nb` of `/dev/sdb`: Input/output error"
        );
        assert_eq!(error.notes(), ["entry 3, at offset 4096"]);
        assert_eq!(error.help(), Some("copy the disk with ddrescue"));
        assert_eq!(
            error.one_line(),
            "could not read `a\\nb` of `/dev/sdb`: Input/output error (entry 3, at offset 4096). \
             copy the disk with ddrescue"
        );
        assert_eq!(error.kind(), Kind::Io);
    }

    #[test]
    fn a_limit_that_was_reached_decides_the_code_and_the_help() {
        for (errno, code, help) in [
            (libc::EMFILE, "too-many-open-files", "ulimit -n"),
            (libc::ENFILE, "too-many-open-files", "fs.file-max"),
            (libc::ENOMEM, "no-memory", "ulimit -v"),
            (libc::EFBIG, "file-too-large", "ulimit -f"),
        ] {
            let error = Error::io("open", io::Error::from_raw_os_error(errno))
                .with_code("format")
                .advice("check the disk");
            assert_eq!(error.code(), code);
            assert!(error.help().is_some_and(|h| h.contains(help)), "{error:?}");
        }
        assert_eq!(Error::no_memory("read").code(), "no-memory");
    }

    #[test]
    fn a_full_disk_and_a_closed_pipe_have_their_own_kinds() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(Error::io("write", full).kind(), Kind::Space);
        let pipe = io::Error::from_raw_os_error(libc::EPIPE);
        assert_eq!(Error::io("write", pipe).kind(), Kind::ClosedPipe);
    }
}
