//! One error for the whole library: a kind to act on, the context to print, and
//! what the system said.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of failure it was. The command line derives its exit status from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// The command line, or a combination of options, makes no sense.
    Usage,
    /// Probing found no payload.
    NotFound,
    /// Probing found several payloads where one is needed.
    Ambiguous,
    /// The image breaks the format.
    Format,
    /// A checksum does not match, or is missing where each is needed.
    Checksum,
    /// The operating system refused or failed.
    Io,
    /// The destination has too little room.
    Space,
    /// Somebody else holds it: a mount, another import, a stacked device.
    Busy,
    /// It could be done, and we do not do it.
    Refused,
    /// An input changed while it was read.
    Changed,
    /// A list, a manifest or a checksum file cannot be understood.
    Syntax,
    /// The user asked to stop.
    Interrupted,
    /// The reader of our output went away. For a filter that is success.
    ClosedPipe,
}

/// What was tried, on what, at which offset, what the system said, what to do next.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Detail>);

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
}

impl Error {
    /// An error that is ours: what is wrong, in a sentence without a full stop.
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
        }))
    }

    /// The system failed to do `doing` (a verb and its object, "read" or "sync the
    /// directory").
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::BrokenPipe => Kind::ClosedPipe,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Space,
            _ => Kind::Io,
        };
        let advice = (source.kind() == io::ErrorKind::OutOfMemory)
            .then(|| "lower --memory, or raise the limit (ulimit -v, or the cgroup's)".into());
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
            advice,
            line: None,
            notes: Vec::new(),
        }))
    }

    /// There is no memory to do `doing` (a verb and its object).
    pub fn no_memory(doing: impl Into<String>) -> Self {
        Self::io(doing, io::ErrorKind::OutOfMemory.into())
    }

    /// The user asked to stop.
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// Something that cannot happen has happened.
    pub(crate) fn bug(what: &str) -> Self {
        Self::new(Kind::Io, what)
            .with_code("bug")
            .advice("this is a bug in lbpayload, please report it")
    }

    /// Names what was being done, for an error made with [`Error::new`].
    #[must_use]
    pub fn doing(mut self, doing: impl Into<String>) -> Self {
        self.0.doing = Some(doing.into());
        self
    }

    /// Names the file or device.
    #[must_use]
    pub fn with_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_path_buf());
        self
    }

    /// Names the entry: its index from 0, and its name where known.
    #[must_use]
    pub fn with_entry(mut self, index: u64, name: Option<&str>) -> Self {
        self.0.entry = Some((index, name.map(str::to_owned)));
        self
    }

    /// Names a file that is in no entry.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.0.file = Some(name.to_owned());
        self
    }

    /// Names the byte offset.
    #[must_use]
    pub fn with_offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Says what is wrong in a first line of its own, in place of the one that is put
    /// together from what was being done, on what, and the cause.
    #[must_use]
    pub fn with_line(mut self, line: impl Into<String>) -> Self {
        self.0.line = Some(line.into());
        self
    }

    /// Adds a fact that helps to find the place.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.0.notes.push(note.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Names the file or device, where none is named.
    #[must_use]
    pub fn or_path(mut self, path: impl AsRef<Path>) -> Self {
        if self.0.kind != Kind::Interrupted {
            self.0
                .path
                .get_or_insert_with(|| path.as_ref().to_path_buf());
        }
        self
    }

    /// Says what to do next, where nothing says so. An interruption says enough.
    #[must_use]
    pub fn or_advice(mut self, advice: &str) -> Self {
        if self.0.kind != Kind::Interrupted {
            self.0.advice.get_or_insert_with(|| advice.to_owned());
        }
        self
    }

    /// Treats the failure as another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Gives it a code of its own in place of its kind's.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.0.code = Some(code);
        self
    }

    /// What sort of failure it was.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// A short word for programs, such as `cut-off` or `not-found`. Never renamed.
    pub fn code(&self) -> &'static str {
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

    /// What the system said, where it was the system.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }

    /// What was being done, where the error names it.
    pub fn named_doing(&self) -> Option<&str> {
        self.0.doing.as_deref()
    }

    /// What is wrong, without the context: our own words, and the system's.
    pub fn cause(&self) -> String {
        self.0.cause()
    }

    /// Facts that help to find the place, a line each.
    pub fn notes(&self) -> Vec<String> {
        let Detail { offset, entry, .. } = &*self.0;
        let place = match (offset, entry) {
            (Some(offset), Some((index, _))) => Some(format!("entry {index}, at offset {offset}")),
            (Some(offset), None) => Some(format!("at offset {offset}")),
            (None, Some((index, Some(_)))) => Some(format!("entry {index}")),
            (None, _) => None,
        };
        self.0.notes.iter().cloned().chain(place).collect()
    }

    /// What to do next, where the error says so.
    pub fn help(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }

    /// All of it in one line: for logs, tables and reports of many errors.
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

    /// The entry: its number, and its name where known.
    pub fn entry(&self) -> Option<(u64, Option<&str>)> {
        let (index, name) = self.0.entry.as_ref()?;
        Some((*index, name.as_deref()))
    }

    /// The file or device that it is about, where there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset, where there is one.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Whether the error already names an entry.
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
    /// What it is about: the name first, then where that is.
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

    /// What is wrong: our own words, and the system's.
    fn cause(&self) -> String {
        let source = self.source.as_ref().map(words_of_the_system);
        let said: Vec<String> = self.message.iter().cloned().chain(source).collect();
        said.join(": ")
    }
}

/// What the system said, without the number that std adds.
fn words_of_the_system(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// A text that may come from an image, made safe for a terminal and one line.
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

/// Characters that show as nothing, or turn the text around, and so let one name
/// look like another.
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
    fn a_full_disk_is_a_matter_of_space_and_a_closed_pipe_is_its_own_kind() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(Error::io("write", full).kind(), Kind::Space);
        let pipe = io::Error::from_raw_os_error(libc::EPIPE);
        assert_eq!(Error::io("write", pipe).kind(), Kind::ClosedPipe);
    }
}
