//! Standard output and standard error.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::{Error, Result};

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
    Error::io("writing", e).with_path("standard output")
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
