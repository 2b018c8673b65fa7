//! What was the same when it was last looked at, and has not been touched since.
//!
//! Comparing bytes takes reading all of them, twice. So each run that writes notes the
//! inode, size, modification and change time of both sides, as git's index does; the
//! next one reads only what was touched. The kernel sets the change time whenever a
//! file changes, and nobody can set it back. One that is so young that another change
//! could have the same time is not noted.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::durable::StatKey;
use crate::error::Result;

use super::content::{Content, Opener};
use super::journal::Sidecar;
use super::path::Place;
use super::plan::Item;
use super::trees::Trees;

const NAME: &str = "stamps.json";

/// Longer than a tick of any kernel's clock for files (10 ms at 100 Hz).
const TICK: Duration = Duration::from_millis(25);

#[derive(Serialize, Deserialize)]
struct Line {
    place: Place,
    source: Option<StatKey>,
    there: StatKey,
}

/// The stamps of both sides, by place; of the image's alone where the source is made for
/// each run.
#[derive(Debug, Default)]
pub(super) struct Stamps(HashMap<Place, (Option<StatKey>, StatKey)>);

impl Stamps {
    /// Those that the last run noted; none where they cannot be read, which only takes
    /// longer.
    pub(super) fn read(sidecar: &Sidecar) -> Self {
        let Ok(text) = std::fs::read(sidecar.path(NAME)) else {
            return Self::default();
        };
        let lines: Vec<Line> = match serde_json::from_slice(&text) {
            Ok(lines) => lines,
            Err(e) => {
                log::warn!(
                    "{}: {e}; comparing everything",
                    sidecar.path(NAME).display()
                );
                return Self::default();
            }
        };
        let pair = |line: Line| (line.place, (line.source, line.there));
        Self(lines.into_iter().map(pair).collect())
    }

    /// The length in bytes of what is at `place`, if both sides are as they were when
    /// they were the same.
    pub(super) fn vouch(&self, place: &Place, before: &Before) -> Option<u64> {
        let (source, there) = self.0.get(place)?;
        let (source_now, there_now) = before.stamps.get(place)?;
        let bytes = source.as_ref()?.bytes;
        (source_now == source && there_now.as_ref() == Some(there)).then_some(bytes)
    }

    /// Whether what is at `place` now is what was there when it was the same.
    pub(super) fn is_untouched(&self, place: &Place, now: Option<&StatKey>) -> bool {
        let noted = self.0.get(place).map(|(_, there)| there);
        noted.is_some() && noted == now
    }

    /// Notes `items`, all of which are in the image now; `before` is from before they
    /// were compared.
    pub(super) fn write(
        sidecar: &Sidecar,
        trees: &Trees,
        items: &[Item],
        before: &Before,
    ) -> Result<()> {
        // What was named just now could change within the same tick of the clock.
        std::thread::sleep(TICK * 2);
        let now = SystemTime::now();
        // Others stay: each vouches for itself.
        let mut known = Self::read(sidecar).0;
        for item in items {
            known.remove(&item.place);
            let Some((source, was)) = before.stamps.get(&item.place) else {
                continue;
            };
            let there = trees.tree(item.place.zone)?.stat_key(&item.place.path);
            let Ok(there) = there else { continue };
            let is_same = if item.is_to_be_written() {
                // What somebody wrote into since has the time of that, not its source's.
                Some(there.modified) == modified(&item.content, source.as_ref())
                    && there.is_older_than(now, TICK)
            } else {
                Some(there) == *was && there.is_older_than(before.time, TICK)
            };
            if is_same && there.bytes == source.map_or(item.bytes, |source| source.bytes) {
                let source = source.filter(|source| source.is_older_than(before.time, TICK));
                known.insert(item.place.clone(), (source, there));
            }
        }
        let line = |(place, (source, there))| Line {
            place,
            source,
            there,
        };
        let mut lines: Vec<Line> = known.into_iter().map(line).collect();
        lines.sort_by(|a, b| a.place.cmp(&b.place));
        let text = serde_json::to_vec(&lines).unwrap_or_default();
        sidecar.put(NAME, &text)
    }
}

/// The stamps of both sides before anything is read.
pub(super) struct Before {
    time: SystemTime,
    stamps: HashMap<Place, (Option<StatKey>, Option<StatKey>)>,
}

impl Before {
    pub(super) fn probe(items: &[Item], opener: &Opener, trees: &Trees) -> Self {
        let both = |item: &Item| {
            let source = of_source(&item.content, opener);
            let tree = trees.tree(item.place.zone).ok();
            let there = tree.and_then(|tree| tree.stat_key(&item.place.path).ok());
            (item.place.clone(), (source, there))
        };
        Self {
            time: SystemTime::now(),
            stamps: items.iter().map(both).collect(),
        }
    }

    /// That of what was at `place`.
    pub(super) fn there(&self, place: &Place) -> Option<&StatKey> {
        self.stamps.get(place)?.1.as_ref()
    }
}

/// The modification time that a file is given which is written from `content`.
fn modified(content: &Content, source: Option<&StatKey>) -> Option<(i64, i64)> {
    match content {
        Content::Blob { time, .. } => Some((*time, 0)),
        Content::Backup(_, attributes) => {
            let (seconds, nanoseconds) = attributes.mtime;
            Some((seconds, nanoseconds.into()))
        }
        _ => source.map(|source| source.modified),
    }
}

fn of_source(content: &Content, opener: &Opener) -> Option<StatKey> {
    match content {
        Content::Tracked(rel) => opener.tracker.as_ref()?.stat_key(rel).ok(),
        Content::Built(path) => StatKey::of(&path.metadata().ok()?),
        Content::StagedKernel(place) => opener.image.stat_key(place).ok(),
        // These are made anew for each run, or cost nothing to compare.
        Content::Blob { .. } | Content::Backup(..) | Content::Link(..) | Content::Absent => None,
    }
}
