//! Compares the headers of several copies of a payload.

use crate::block::Source;
use crate::error::{Error, Kind, Result, printable};
use crate::progress::Progress;

use super::index::Index;
use super::problem::Cause;
use super::walk::{Entry, Payload};

/// Refuses copies whose headers differ from those of `index`, wherever a copy can be read. A
/// source that does not consist of copies is fine.
///
/// # Errors
/// A copy differs; an interruption; the headers cannot be read again.
pub fn refuse_other_headers(index: &Index, progress: &dyn Progress) -> Result<()> {
    for copy in index.payload().source().copies() {
        let payload = index.payload().over(copy);
        match Payload::open_whatever_its_count(copy.clone()) {
            Ok(own) if !own.is_like(&payload) => return Err(differs(index, &**copy, None)),
            Err(problem) if !matches!(problem.cause, Cause::Io(_)) => {
                return Err(differs(index, &**copy, None));
            }
            _ => {}
        }
        refuse_other_entries(index, &payload, progress)?;
    }
    Ok(())
}

fn refuse_other_entries(index: &Index, copy: &Payload, progress: &dyn Progress) -> Result<()> {
    let mut walker = copy.walk()?;
    for entry in index.entries()? {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        let entry = entry?;
        match walker.next() {
            Some(Ok(own)) if own == entry => {}
            Some(Err(problem)) if matches!(problem.cause, Cause::Io(_)) => {
                walker = copy.walk_from(entry.index + 1, entry.end())?;
            }
            // A copy may be cut off. What it lacks comes from another one.
            Some(Err(_)) if entry.end() > copy.source().len() => return Ok(()),
            _ => return Err(differs(index, &**copy.source(), Some(&entry))),
        }
    }
    Ok(())
}

fn differs(index: &Index, copy: &dyn Source, entry: Option<&Entry>) -> Error {
    let shown = |source: &dyn Source| printable(&source.path().to_string_lossy());
    let (first, other) = (shown(&**index.payload().source()), shown(copy));
    let from = match entry {
        Some(entry) => format!(" from `{}` on", printable(&entry.shown_name())),
        None => String::new(),
    };
    let line = format!("`{other}` is not a copy of `{first}`: the headers differ{from}");
    let error = Error::new(Kind::Refused, "the headers differ")
        .with_code("copies-differ")
        .with_line(line)
        .with_path(copy.path())
        .advice("name only devices that hold the same payload");
    match entry {
        Some(entry) => error
            .with_entry(entry.index, Some(&entry.shown_name()))
            .with_offset(copy.start() + entry.header_offset),
        None => error.with_offset(copy.start()),
    }
}
