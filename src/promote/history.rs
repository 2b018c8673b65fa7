//! Reading the journal back: what was promoted, and what the image should hold.

use std::collections::BTreeMap;
use std::io;

use crate::error::{Error, Kind, Result, printable};

use super::bytes::link_sum;
use super::hands::Was;
use super::journal::{After, Begin, End, Entry, Line, Sidecar};
use super::path::Place;

/// A run, as the journal tells of it.
#[derive(Debug, Clone)]
pub struct Record {
    /// What it was.
    pub begin: Begin,
    pub(super) entries: Vec<Entry>,
    /// How it ended; `None` where it was cut off.
    pub end: Option<End>,
}

impl Record {
    /// How many files it made, replaced or removed.
    pub fn changed(&self) -> u64 {
        self.entries.iter().filter(|entry| !entry.kept).count() as u64
    }

    /// How many it found as they should be.
    pub fn kept(&self) -> u64 {
        self.entries.len() as u64 - self.changed()
    }

    /// How it ended, in a word.
    pub fn state(&self) -> &str {
        self.end.as_ref().map_or("interrupted", |end| &end.state)
    }
}

/// All records, oldest first, and the number of the next.
///
/// # Errors
/// One cannot be read, or a line of it cannot be understood.
pub(super) fn read(sidecar: &Sidecar) -> Result<(Vec<Record>, u64)> {
    let dir = sidecar.records();
    let failed = |e| {
        Error::io("reading the journal", e)
            .path(&dir)
            .advice("make it readable, or run as whom the image belongs to")
    };
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 1)),
        Err(e) => return Err(failed(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let id = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(id), Some("jsonl")) = (id, path.extension().and_then(|e| e.to_str())) {
            files.push((id, path));
        }
    }
    files.sort();
    let next = files.last().map_or(1, |(id, _)| id + 1);
    let mut records = Vec::new();
    for (_, path) in files {
        let text = std::fs::read(&path).map_err(failed)?;
        let parsed = parse(&text).map_err(|e| {
            Error::new(Kind::Syntax, printable(&e.to_string()))
                .doing("reading the journal")
                .path(&path)
                .advice("move the record away")
        })?;
        records.extend(parsed);
    }
    Ok((records, next))
}

/// A record of its lines. The last one may be cut off; without a first one the run
/// had not begun.
fn parse(text: &[u8]) -> serde_json::Result<Option<Record>> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let mut record: Option<Record> = None;
    for line in text[..whole].split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        match (serde_json::from_slice(line)?, &mut record) {
            (Line::Begin(begin), None) => {
                record = Some(Record {
                    begin: *begin,
                    entries: Vec::new(),
                    end: None,
                });
            }
            (Line::File(entry), Some(record)) => record.entries.push(*entry),
            (Line::End(end), Some(record)) => record.end = Some(end),
            _ => return Err(serde::de::Error::custom("a line in the wrong place")),
        }
    }
    Ok(record)
}

/// What a place should hold, by the journal.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) entry: Entry,
    /// The run that put it there.
    pub(super) id: u64,
    /// Whether that run was cut off, so that it may not have come to it.
    pub(super) unsure: bool,
}

impl Held {
    /// The sums that what is there may have; none where nothing may be there.
    pub(super) fn sums(&self) -> Vec<Option<String>> {
        let after = match &self.entry.after {
            After::File { sha256, .. } => Some(sha256.clone()),
            After::Symlink { target } => Some(link_sum(&target.0)),
            After::Nothing => None,
        };
        let mut sums = vec![after];
        if self.unsure {
            sums.push(match &self.entry.before {
                Was::Symlink { target, .. } => Some(link_sum(&target.0)),
                _ => self.entry.backup.as_ref().map(|b| b.sha256.clone()),
            });
        }
        sums
    }
}

/// What each place should hold after all of `records`. Pure.
pub(super) fn held(records: &[Record]) -> BTreeMap<Place, Held> {
    let mut held = BTreeMap::new();
    for record in records {
        for entry in &record.entries {
            let what = Held {
                entry: entry.clone(),
                id: record.begin.id,
                unsure: record.state() != "done",
            };
            held.insert(entry.place.clone(), what);
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_was_cut_off_tells_what_was_written_whole() {
        let begin = Begin {
            id: 3,
            action: "promote".into(),
            ..Begin::default()
        };
        let mut text = serde_json::to_vec(&Line::Begin(Box::new(begin))).unwrap();
        text.push(b'\n');
        let whole = text.len();
        text.extend_from_slice(b"{\"line\":\"file\",\"pla");
        for cut in [whole, text.len()] {
            let record = parse(&text[..cut]).unwrap().unwrap();
            assert_eq!(record.begin.id, 3);
            assert_eq!(record.state(), "interrupted");
        }
        assert!(parse(&text[..whole - 2]).unwrap().is_none());
        text.push(b'\n');
        assert!(parse(&text).is_err());
    }
}
