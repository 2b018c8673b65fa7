//! Reads the journal: what was promoted, and what the image should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, printable};
use crate::promote::path::Place;
use crate::promote::plan::union::Channel;
use crate::promote::record::journal::{After, Begin, End, Entry, FORMAT, Line};
use crate::promote::record::sidecar::Sidecar;
use crate::promote::refused::{refused, shell_word};

/// A run, as recorded in the journal.
#[derive(Debug, Clone)]
pub struct Record {
    /// The description of the run.
    pub begin: Begin,
    /// The changes that it made, or may have made if it was cut off.
    pub(crate) entries: Vec<Entry>,
    /// The directories that it created.
    pub(crate) made: Vec<Place>,
    /// How it ended, or `None` if it was cut off.
    pub end: Option<End>,
    /// The log of the initramfs tool, if the run started it and the log is still kept.
    pub log: Option<PathBuf>,
    /// The number of files that it is known to have created, replaced or removed.
    named: u64,
    /// The number of further files for which the record itself says that this is not known.
    unsure: u64,
}

impl Record {
    /// Returns the number of files that it is known to have created, replaced or removed.
    pub fn changed(&self) -> u64 {
        self.named
    }

    /// Returns the number of further files that it may have changed, because it or the helper was
    /// cut off.
    pub fn unsure(&self) -> u64 {
        self.planned() - self.named
    }

    /// Returns the number of files that already were as they should be.
    pub fn kept(&self) -> u64 {
        self.entries.len() as u64 - self.planned()
    }

    fn planned(&self) -> u64 {
        self.entries.iter().filter(|entry| !entry.kept).count() as u64
    }

    /// Removes the changes that the run had not reached when it ended.
    fn ended(&mut self, end: End) {
        if end.state == "done" {
            self.named = self.planned();
        }
        let mut at = 0;
        self.entries.retain(|entry| {
            at += u64::from(!entry.kept);
            entry.kept || at <= self.named + self.unsure
        });
        self.end = Some(end);
    }

    /// Returns how it ended, as one word.
    pub fn state(&self) -> &str {
        self.end.as_ref().map_or("interrupted", |end| &end.state)
    }
}

/// Returns the files of the records, by their numbers, oldest first.
fn files(sidecar: &Sidecar) -> Result<Vec<(u64, PathBuf)>> {
    let dir = sidecar.records();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e, &dir)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| failed(e, &dir))?.path();
        let id = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(id), Some("jsonl")) = (id, path.extension().and_then(|e| e.to_str())) {
            files.push((id, path));
        }
    }
    files.sort();
    Ok(files)
}

fn failed(e: io::Error, path: &Path) -> Error {
    Error::io("read the journal", e)
        .with_path(path)
        .advice("run as the owner of the image, or as root")
}

/// Returns the number of the last record, or 0 if there is none.
pub(crate) fn last(sidecar: &Sidecar) -> Result<u64> {
    Ok(files(sidecar)?.last().map_or(0, |(id, _)| *id))
}

/// Reads all records, oldest first, and the number of the next run.
pub(crate) fn read(sidecar: &Sidecar) -> Result<(Vec<Record>, u64)> {
    let files = files(sidecar)?;
    // A number whose record was moved away may still have backups.
    let last = files.last().map_or(0, |(id, _)| *id);
    let next = last
        .max(sidecar.runs_with_backups().max().unwrap_or(0))
        .saturating_add(1);
    let mut records = Vec::new();
    for (_, path) in files {
        let text = std::fs::read(&path).map_err(|e| failed(e, &path))?;
        refuse_newer(&text, &path)?;
        let parsed = parse(&text).map_err(|e| {
            Error::new(Kind::Syntax, printable(&e.to_string()))
                .doing("read the journal")
                .with_path(&path)
                .with_code("bad-record")
                .advice(format!("mv {0} {0}.bad", shell_word(&path)))
        })?;
        records.extend(parsed.map(|mut record| {
            let log = sidecar.log(record.begin.id);
            record.log = log.is_file().then_some(log);
            record
        }));
    }
    Ok((records, next))
}

/// Refuses a record that a newer version of this program has written.
fn refuse_newer(text: &[u8], path: &Path) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct First {
        format: u32,
        version: String,
    }
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // A record without a format is one of the first ones.
    let Ok(First { format, version }) = serde_json::from_slice(first) else {
        return Ok(());
    };
    if format <= FORMAT {
        return Ok(());
    }
    let version = printable(&version);
    Err(refused(
        format!("a newer version of lbpayload ({version}) has written this record"),
        path,
        format!("this image needs version {version} or later"),
    )
    .with_code("newer-record"))
}

/// Parses the lines of a record. The last line may be incomplete. Without a complete first line,
/// the run had not begun.
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
                    made: Vec::new(),
                    end: None,
                    log: None,
                    named: 0,
                    unsure: 0,
                });
            }
            (Line::File(entry), Some(record)) => {
                let zone = entry.place.zone;
                let made = entry.made.iter().map(|made| Place {
                    zone,
                    path: made.0.clone(),
                });
                record.made.extend(made);
                record.entries.push(*entry);
            }
            (Line::Named { files, unsure }, Some(record)) => {
                record.named = files.min(record.planned());
                record.unsure = unsure.min(record.planned() - record.named);
            }
            (Line::End(end), Some(record)) => record.ended(end),
            _ => return Err(serde::de::Error::custom("unexpected line")),
        }
    }
    Ok(record)
}

/// What a run wrote to a place.
#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub(crate) entry: Entry,
    /// The number of the run.
    pub(crate) id: u64,
}

impl Put {
    /// Returns the state before the run.
    pub(crate) fn before(&self) -> Option<After> {
        let backup = self.entry.backup.as_ref();
        After::of(&self.entry.before, backup.map(|b| b.sha256.clone()))
    }
}

/// The content that a place should have, according to the journal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// The last content that is known to have been written.
    pub(crate) sure: Option<Put>,
    /// The contents that runs that were cut off may have written after that, oldest first.
    pub(crate) unsure: Vec<Put>,
}

impl Held {
    /// Returns all possible contents, the most likely one first.
    pub(crate) fn puts(&self) -> impl Iterator<Item = &Put> {
        self.unsure.iter().rev().chain(&self.sure)
    }
}

/// Returns the content that each place should have after all of `records`. Does no I/O.
pub(crate) fn held(records: &[Record]) -> BTreeMap<Place, Held> {
    let mut held: BTreeMap<Place, Held> = BTreeMap::new();
    for record in records {
        let mut at = 0;
        for entry in &record.entries {
            at += u64::from(!entry.kept);
            let put = Put {
                entry: entry.clone(),
                id: record.begin.id,
            };
            let there = held.entry(entry.place.clone()).or_default();
            if entry.kept || at <= record.named {
                *there = Held {
                    sure: Some(put),
                    unsure: Vec::new(),
                };
            } else {
                there.unsure.push(put);
            }
        }
    }
    held
}

/// Returns the places of the files that promotes made executable, and did not undo. Does no I/O.
pub(crate) fn made_executable(records: &[Record]) -> BTreeSet<Place> {
    let mut made = BTreeSet::new();
    for entry in records.iter().flat_map(|record| &record.entries) {
        match (entry.channel, entry.executable) {
            (_, Some(true)) => {
                made.insert(entry.place.clone());
            }
            // A rollback puts the old mode back.
            (_, Some(false)) | (Channel::Rollback, None) => {
                made.remove(&entry.place);
            }
            (_, None) => {}
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_was_cut_off_has_its_complete_lines() {
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
