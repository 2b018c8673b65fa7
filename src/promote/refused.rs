//! Refusals: what is wrong, where, and what to do next.

use std::path::Path;

use crate::error::{Error, Kind};

/// Refuses because of what is at `path`.
pub(crate) fn refused(
    message: impl Into<String>,
    path: impl AsRef<Path>,
    advice: impl Into<String>,
) -> Error {
    Error::new(Kind::Refused, message)
        .with_path(path)
        .advice(advice)
}
