//! Remembers files that were equal when they were last compared and have not been touched since.
//!
//! Comparing two files means reading both of them completely. Therefore each run that writes
//! saves the inode, size, modification time and change time of both sides, as git's index does
//! (for a file of the overlay, the git object ID of its bytes and its mode). The next run reads only files
//! that were touched. The kernel sets the change time whenever a file changes, and no program can
//! set it back. If the change time is so recent that another change could get the same time, the
//! file is not saved.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::sidecar::Sidecar;
use crate::durable::StatKey;
use crate::error::Result;
use crate::promote::inputs::content::{Content, Sources};
use crate::promote::parallel::try_map;
use crate::promote::path::Place;
use crate::promote::plan::union::Item;
use crate::promote::trees::Trees;

const NAME: &str = "stamps.json";

/// Longer than a tick of the clock that the kernel uses for files (10 ms at 100 Hz).
const TICK: Duration = Duration::from_millis(25);

/// The key of one version of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Version {
    File(StatKey),
    Object(String),
}

#[derive(Serialize, Deserialize)]
struct Line {
    place: Place,
    source: Option<Version>,
    there: StatKey,
}

/// The keys of both sides, by place. Only the image's side is there if the source is created anew
/// for each run.
#[derive(Debug, Default)]
pub(crate) struct Stamps(HashMap<Place, (Option<Version>, StatKey)>);

impl Stamps {
    /// Reads the keys that the last run saved. If they cannot be read, the result is empty, and
    /// the run only takes longer.
    pub(crate) fn read(sidecar: &Sidecar) -> Self {
        let Ok(text) = std::fs::read(sidecar.path(NAME)) else {
            return Self::default();
        };
        let lines: Vec<Line> = serde_json::from_slice(&text).unwrap_or_else(|e| {
            let path = sidecar.path(NAME);
            log::warn!("{}: {e} (comparing all files)", path.display());
            Vec::new()
        });
        let pair = |line: Line| (line.place, (line.source, line.there));
        Self(lines.into_iter().map(pair).collect())
    }

    /// Returns the length in bytes of the file at `place`, if both sides are unchanged since they
    /// were equal.
    pub(crate) fn vouch(&self, place: &Place, before: &Before) -> Option<u64> {
        let (source, there) = self.0.get(place)?;
        let (source_now, there_now) = before.sides.get(place)?;
        let same = source.is_some() && source == source_now && there_now.as_ref() == Some(there);
        same.then_some(there.bytes)
    }

    /// Returns whether the file at `place` is unchanged since it was equal.
    pub(crate) fn is_untouched(&self, place: &Place, now: Option<&StatKey>) -> bool {
        let noted = self.0.get(place).map(|(_, there)| there);
        noted.is_some() && noted == now
    }

    /// Saves the keys of `items`, all of which are now in the image. `before` has the keys from
    /// before the comparison. The last file was written at `since`.
    pub(crate) fn write(
        sidecar: &Sidecar,
        trees: &Trees,
        items: &[Item],
        before: &Before,
        since: Instant,
    ) -> Result<()> {
        // A file that has just got its name could change again within the same tick of the clock.
        std::thread::sleep((TICK * 2).saturating_sub(since.elapsed()));
        let now = SystemTime::now();
        // The other entries stay valid, since each describes one file.
        let mut known = Self::read(sidecar).0;
        for item in items {
            known.remove(&item.place);
            let Some((source, was)) = before.sides.get(&item.place) else {
                continue;
            };
            let there = trees.tree(item.place.zone)?.stat_key(&item.place.path);
            let Ok(there) = there else { continue };
            let is_same = if item.is_to_be_written() {
                // If the file was changed since, its time differs from that of its source.
                Some(there.modified) == modified(&item.content, source.as_ref())
                    && there.is_older_than(now, TICK)
            } else {
                Some(there) == *was && there.is_older_than(before.time, TICK)
            };
            let bytes = match source {
                Some(Version::File(stamp)) => stamp.bytes,
                _ => item.bytes,
            };
            if is_same && there.bytes == bytes {
                let source = source.clone().filter(|source| match source {
                    Version::File(stamp) => stamp.is_older_than(before.time, TICK),
                    Version::Object(_) => true,
                });
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

/// The keys of both sides before anything is read.
pub(crate) struct Before {
    time: SystemTime,
    sides: HashMap<Place, (Option<Version>, Option<StatKey>)>,
}

impl Before {
    /// Asks for the keys of `items`, on all processors: most of a run with nothing to do is this.
    pub(crate) fn probe(items: &[Item], sources: &Sources, trees: &Trees) -> Result<Self> {
        let time = SystemTime::now();
        let both = |item: &Item| {
            let source = match &item.content {
                Content::Committed(blob, given) => {
                    Some(Version::Object(format!("{} {:o}", blob.oid, given.mode)))
                }
                // The checksum of a backup is checked each time.
                Content::Backup(..) => None,
                content => sources.stamp(content).map(Version::File),
            };
            let tree = trees.tree(item.place.zone).ok();
            let there = tree.and_then(|tree| tree.stat_key(&item.place.path).ok());
            Ok((item.place.clone(), (source, there)))
        };
        let sides = try_map(items, both)?.into_iter().collect();
        Ok(Self { time, sides })
    }

    /// Returns the key of the file at `place`.
    pub(crate) fn there(&self, place: &Place) -> Option<&StatKey> {
        self.sides.get(place)?.1.as_ref()
    }
}

/// Returns the modification time that a file gets if it is written from `content`.
fn modified(content: &Content, source: Option<&Version>) -> Option<(i64, i64)> {
    match (content, source) {
        (Content::Committed(_, given) | Content::Backup(_, given), _) => {
            let (seconds, nanoseconds) = given.mtime;
            Some((seconds, nanoseconds.into()))
        }
        (_, Some(Version::File(stamp))) => Some(stamp.modified),
        _ => None,
    }
}
