//! `lbpayload list`

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};

use crate::block::{DirectPolicy, FileSource};
use crate::error::{Error, Result};
use crate::payload::{Entry, Payload, Problem};

use super::args::ListArgs;
use super::exit::Outcome;
use super::output::{Out, failed};
use super::verify::JsonProblem;

/// Entries stream out as they are walked to; nothing of them is kept.
pub(super) fn run(args: &ListArgs) -> Result<Outcome> {
    let payload = open(&args.source)?;
    let mut out = Out::new();
    let mut bad_names = BadNames::default();
    let ended = if args.json {
        json(&payload, &mut out, &mut bad_names)?
    } else {
        text(&payload, &mut out, &mut bad_names)?
    };
    out.end()?;
    if let Some(problem) = ended {
        return Err(problem.into_error(&**payload.source()));
    }
    match bad_names.first {
        None => Ok(Outcome::Done),
        Some(problem) => {
            if bad_names.count > 1 {
                log::warn!("{} names are refused; this is the first", bad_names.count);
            }
            Err(problem.into_error(&**payload.source()))
        }
    }
}

/// Opens what a command reads headers of. A device is read past the cache; a
/// regular file through it, where hopping costs least.
pub(super) fn open(path: &Path) -> Result<Payload> {
    let source = FileSource::open(path, DirectPolicy::Never)?;
    let source = if crate::block::Source::is_device(&source) {
        FileSource::open(path, DirectPolicy::Auto)?
    } else {
        source
    };
    Payload::open(Arc::new(source))
}

#[derive(Default)]
struct BadNames {
    first: Option<Problem>,
    count: u64,
}

impl BadNames {
    fn look_at(&mut self, entry: &Entry) {
        if let Err(fault) = entry.name() {
            self.count += 1;
            let cause = crate::payload::Cause::Fault(fault.into());
            self.first
                .get_or_insert_with(|| entry.problem(entry.header_offset, cause));
        }
    }
}

fn text(payload: &Payload, out: &mut Out, bad: &mut BadNames) -> Result<Option<Problem>> {
    for step in payload.walk()? {
        let entry = match step {
            Ok(entry) => entry,
            Err(problem) => return Ok(Some(problem)),
        };
        bad.look_at(&entry);
        out.line(&format!("{:>12} {}", entry.size, entry.shown_name()))?;
    }
    Ok(None)
}

#[derive(Serialize)]
struct JsonEntry<'a> {
    index: u64,
    name: &'a str,
    size: u64,
    data_offset: u64,
}

fn json(payload: &Payload, out: &mut Out, bad: &mut BadNames) -> Result<Option<Problem>> {
    let as_io = |e: serde_json::Error| failed(e.into());
    let mut serializer = serde_json::Serializer::pretty(out.writer());
    let mut map = serializer.serialize_map(None).map_err(as_io)?;
    map.serialize_entry("source", payload.source().path())
        .map_err(as_io)?;
    map.serialize_entry("dialect", &payload.dialect())
        .map_err(as_io)?;
    map.serialize_entry("files", &payload.claimed_files())
        .map_err(as_io)?;
    map.serialize_entry("source_bytes", &payload.source().len())
        .map_err(as_io)?;
    let streamed = StreamedEntries {
        payload,
        state: std::cell::RefCell::new(State {
            bad,
            end: payload.dialect().header_len(),
            ended: None,
        }),
    };
    map.serialize_entry("entries", &streamed).map_err(as_io)?;
    let state = streamed.state.into_inner();
    map.serialize_entry("payload_bytes", &state.end)
        .map_err(as_io)?;
    let problems: Vec<JsonProblem> = state
        .ended
        .iter()
        .chain(state.bad.first.iter())
        .map(JsonProblem::new)
        .collect();
    map.serialize_entry("problems", &problems).map_err(as_io)?;
    SerializeMap::end(map).map_err(as_io)?;
    out.put(b"\n")?;
    Ok(state.ended)
}

/// A sequence that serde pulls out of the walk.
struct StreamedEntries<'a> {
    payload: &'a Payload,
    state: std::cell::RefCell<State<'a>>,
}

struct State<'a> {
    bad: &'a mut BadNames,
    end: u64,
    ended: Option<Problem>,
}

impl Serialize for StreamedEntries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut state = self.state.borrow_mut();
        let walk = self
            .payload
            .walk()
            .map_err(|e: Error| serde::ser::Error::custom(e))?;
        let mut seq = serializer.serialize_seq(None)?;
        for step in walk {
            match step {
                Ok(entry) => {
                    state.bad.look_at(&entry);
                    state.end = entry.end();
                    seq.serialize_element(&JsonEntry {
                        index: entry.index,
                        name: &entry.shown_name(),
                        size: entry.size,
                        data_offset: entry.data_offset,
                    })?;
                }
                Err(problem) => state.ended = Some(problem),
            }
        }
        seq.end()
    }
}
