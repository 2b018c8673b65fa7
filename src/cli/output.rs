//! Standard output and standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::error::{Error, Result};

/// Whether a report in JSON has been written: a second document would spoil it.
static REPORTED: AtomicBool = AtomicBool::new(false);

/// Whether a command has written its report in JSON.
pub(super) fn has_reported() -> bool {
    REPORTED.load(Ordering::Relaxed)
}

/// What a line on standard error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Error,
    Warning,
    Note,
    Help,
}

/// A line for standard error. Off a terminal the program's name stands before it, so that
/// logs of several programs can be told apart; on one it has colors, as far as --color and
/// NO_COLOR allow.
pub(super) fn labelled(program: &str, level: Level, text: &str) -> String {
    let (word, color) = match level {
        Level::Error => ("error", AnsiColor::Red),
        Level::Warning => ("warning", AnsiColor::Yellow),
        Level::Note => ("note", AnsiColor::Cyan),
        Level::Help => ("help", AnsiColor::Green),
    };
    let stderr = io::stderr();
    let style = match anstream::AutoStream::choice(&stderr) {
        anstream::ColorChoice::Never => Style::new(),
        _ => color.on_default().bold(),
    };
    let before = if stderr.is_terminal() {
        String::new()
    } else {
        format!("{program}: ")
    };
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{before}{style}{word}:{style:#} {text}{end}")
}

/// Standard output, buffered. A reader that goes away is [`Kind::ClosedPipe`].
///
/// [`Kind::ClosedPipe`]: crate::error::Kind::ClosedPipe
pub(super) struct Out(io::BufWriter<io::StdoutLock<'static>>);

impl Out {
    pub(super) fn new() -> Self {
        Self(io::BufWriter::with_capacity(64 * 1024, io::stdout().lock()))
    }

    /// Writes `bytes`.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(failed)
    }

    /// Writes `text` and a line feed.
    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        self.put(text.as_bytes())?;
        self.put(b"\n")
    }

    /// Writes `value` as JSON and a line feed.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer_pretty(&mut self.0, value).map_err(|e| failed(io::Error::from(e)))?;
        REPORTED.store(true, Ordering::Relaxed);
        self.put(b"\n")
    }

    /// Sends what is buffered on its way.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.0.flush().map_err(failed)
    }

    /// Ends the output: an error that only shows now is an error all the same.
    pub(super) fn end(mut self) -> Result<()> {
        self.flush()
    }
}

pub(super) fn failed(e: io::Error) -> Error {
    Error::io("write", e).with_path("standard output")
}

/// Writes `bytes` and flushes.
pub(super) fn to_stdout(bytes: &[u8]) -> Result<()> {
    let mut out = Out::new();
    out.put(bytes)?;
    out.end()
}

/// Writes to standard error. Where that is closed there is nobody left to tell.
pub(super) fn to_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// A number of bytes for people: "1.5 MiB".
pub(super) fn human_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A path in a report: what is not UTF-8 is replaced, since JSON has no other.
pub(super) fn lossy<S: serde::Serializer>(
    path: &std::path::Path,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
