//! `lbpayload list`

use std::path::Path;

use serde::Serialize;
use serde::ser::{Error as _, SerializeSeq, Serializer};

use crate::block::SourceOptions;
use crate::error::{Result, printable};
use crate::format::Dialect;
use crate::payload::{Index, Payload, Problems};
use crate::progress::Silent;

use super::args::ListArgs;
use super::exit::Outcome;
use super::output::{Out, lossy};
use super::protection::{JsonProtection, Protected, default_memory};
use super::source::SourceArgs;
use super::verify::JsonProblem;

#[derive(Serialize)]
struct JsonReport<'a> {
    #[serde(serialize_with = "lossy")]
    source: &'a Path,
    dialect: Dialect,
    files: u64,
    payload_bytes: u64,
    source_bytes: u64,
    entries: JsonEntries<'a>,
    problems: Vec<JsonProblem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protection: Option<JsonProtection>,
}

/// The entries, serialized one by one.
struct JsonEntries<'a>(&'a Index);

#[derive(Serialize)]
struct JsonEntry<'a> {
    index: u64,
    name: &'a str,
    size: u64,
    data_offset: u64,
}

impl Serialize for JsonEntries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.files() as usize))?;
        for entry in self.0.entries().map_err(S::Error::custom)? {
            let entry = entry.map_err(S::Error::custom)?;
            seq.serialize_element(&JsonEntry {
                index: entry.index,
                name: &entry.shown_name(),
                size: entry.size,
                data_offset: self.0.payload().source().start() + entry.data_offset,
            })?;
        }
        seq.end()
    }
}

pub(super) fn run(args: &ListArgs) -> Result<Outcome> {
    let (payload, protected) = open(&[&args.source], &args.input)?;
    let mut problems = Problems::default();
    let index = Index::scan(&payload, &Silent, &mut |problem| {
        problems.add(problem);
        Ok(())
    })?;
    let mut out = Out::new();
    if args.json {
        out.json(&JsonReport {
            source: payload.source().path(),
            dialect: payload.dialect(),
            files: payload.claimed_files(),
            payload_bytes: index.payload_bytes(),
            source_bytes: protected.source_len(),
            entries: JsonEntries(&index),
            problems: JsonProblem::all(&problems, &**payload.source()),
            protection: protected.json(),
        })?;
    } else {
        for entry in index.entries()? {
            let entry = entry?;
            out.line(&format!(
                "{:>12} {}",
                entry.size,
                printable(&entry.shown_name())
            ))?;
        }
    }
    out.end()?;
    protected.warn();
    // The entries have been listed even if there are problems. The problems decide the exit
    // status.
    let count = problems.count();
    match problems.into_iter().next() {
        None => Ok(Outcome::Done),
        Some(first) => {
            if count > 1 {
                log::warn!(
                    "{count} problems, `lbpayload verify` lists more of them, the first is:"
                );
            }
            Err(first.into_error(&**payload.source()))
        }
    }
}

/// Opens the source of a command that reads headers. A device is read past the page cache; a
/// regular file through the page cache, where skipping from header to header is cheapest.
pub(super) fn open<P: AsRef<Path>>(paths: &[P], args: &SourceArgs) -> Result<(Payload, Protected)> {
    let options = SourceOptions {
        cached_files: true,
        ..SourceOptions::default()
    };
    let source = args.open(paths, options)?;
    args.confine(paths, &[]);
    let protected = args.protected(source, default_memory(), None, None)?;
    Ok((protected.payload()?, protected))
}
