//! What became of each file, and which source did what.

use std::time::Duration;

use serde::Serialize;

use crate::net::Url;

use super::download::Outcome;
use super::schedule::Ended;
use super::wanted::Wanted;

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// Every wanted file, in the order of the names.
    pub files: Vec<FileReport>,
    /// The time that it took.
    pub elapsed: Duration,
}

impl Report {
    /// Returns the number of files with this state.
    pub fn count(&self, state: State) -> usize {
        self.files.iter().filter(|f| f.state == state).count()
    }

    /// Returns the files that are missing.
    pub fn missing(&self) -> impl Iterator<Item = &FileReport> {
        self.files.iter().filter(|f| f.state == State::Missing)
    }

    /// Returns the number of bytes that were downloaded.
    pub fn fetched_bytes(&self) -> u64 {
        let kept = |f: &&FileReport| f.state == State::Kept;
        self.files
            .iter()
            .filter(|f| !kept(f))
            .map(|f| f.bytes)
            .sum()
    }
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was there with the right sum.
    Kept,
    /// It was downloaded.
    Fetched,
    /// It is not there, or with a wrong sum.
    Missing,
}

/// A file of the report.
#[derive(Debug, Serialize)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// Its SHA-256 sum in hexadecimal.
    pub sha256: String,
    /// What became of it.
    pub state: State,
    /// The source that it came from in the end.
    pub source: Option<String>,
    /// The number of bytes that were downloaded for it, or its size if it was kept.
    pub bytes: u64,
    /// The number of bytes of an earlier run that were used.
    pub resumed: u64,
    /// The time that its downloads took.
    pub seconds: f64,
    /// What each source did, in order.
    pub tries: Vec<Try>,
    /// Its own sources, for a file that is missing.
    #[serde(skip)]
    pub sources: Vec<String>,
}

/// An attempt to get a file.
#[derive(Debug, Serialize)]
pub struct Try {
    /// The URL, without user, password and query.
    pub source: String,
    /// What happened, as a clause.
    pub result: String,
    /// The host and port.
    #[serde(skip)]
    pub host: String,
    /// What the user can do.
    #[serde(skip)]
    pub help: Option<&'static str>,
}

impl FileReport {
    pub(super) fn new(wanted: &Wanted) -> Self {
        Self {
            name: wanted.name.as_str().to_owned(),
            sha256: wanted.sum.to_string(),
            state: State::Missing,
            source: None,
            bytes: 0,
            resumed: 0,
            seconds: 0.0,
            tries: Vec::new(),
            sources: wanted.sources.iter().map(Url::to_string).collect(),
        }
    }

    pub(super) fn kept(&mut self, bytes: u64) {
        (self.state, self.bytes) = (State::Kept, bytes);
    }

    pub(super) fn add(&mut self, url: &Url, outcome: Outcome, time: Duration) {
        self.bytes += outcome.bytes;
        self.seconds += time.as_secs_f64();
        if self.tries.is_empty() {
            self.resumed = outcome.resumed;
        }
        if outcome.ended == Ended::Complete {
            (self.state, self.source) = (State::Fetched, Some(url.to_string()));
        }
        self.tries.push(Try {
            source: url.to_string(),
            result: outcome.words,
            host: url.host_and_port(),
            help: outcome.help,
        });
    }
}
