//! Standard output and standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::error::{Error, Result};

/// Whether a JSON report has been written. A second document would make the output invalid.
static REPORTED: AtomicBool = AtomicBool::new(false);

/// Returns whether a command has written its JSON report.
pub(super) fn has_reported() -> bool {
    REPORTED.load(Ordering::Relaxed)
}

/// The level of a line on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Error,
    Warning,
    Note,
    Help,
}

/// Formats a line for standard error. If standard error is not a terminal, the program's name
/// comes first, so that logs of several programs can be told apart. On a terminal the line has
/// colors, as far as --color and NO_COLOR allow.
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

/// Standard output, buffered. If the reader goes away, the error is [`Kind::ClosedPipe`].
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

    /// Writes the buffered bytes.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.0.flush().map_err(failed)
    }

    /// Flushes the output. An error that is found only now must be reported too.
    pub(super) fn end(mut self) -> Result<()> {
        self.flush()
    }
}

pub(super) fn failed(e: io::Error) -> Error {
    Error::io("write", e).with_path("standard output")
}

/// Writes `bytes` to standard output and flushes it.
pub(super) fn to_stdout(bytes: &[u8]) -> Result<()> {
    let mut out = Out::new();
    out.put(bytes)?;
    out.end()
}

/// Writes to standard error. If that fails, the error is ignored, since it cannot be reported.
pub(super) fn to_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Formats a number of bytes for people, such as "1.5 MiB".
pub(super) fn human_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Serializes a path. Invalid UTF-8 is replaced, because JSON cannot represent it.
pub(super) fn lossy<S: serde::Serializer>(
    path: &std::path::Path,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
