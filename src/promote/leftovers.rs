//! What earlier promotes left behind: files that the overlay no longer has, and artifacts that an
//! unfinished promote did not bring.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

use crate::error::Result;
use crate::promote::apply::run::Run;
use crate::promote::inputs::manifest::{self, Manifest};
use crate::promote::path::{Place, RelPath};
use crate::promote::plan::union::{Channel, Item};
use crate::promote::record::history::{self, Held, Record};
use crate::promote::record::journal::{After, Entry};
use crate::promote::report::{Fate, Leftover};
use crate::promote::rollback::put_back;
use crate::promote::status::{self, HeldState};

/// The files that the overlay no longer has.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    pub(crate) files: Vec<Leftover>,
    /// The items that remove them, or put back what was there before.
    pub(crate) items: Vec<Item>,
    /// The directories that promotes created for them, the deepest first.
    pub(crate) dirs: Vec<Place>,
}

/// A file that promotes wrote from the overlay.
#[derive(Debug)]
struct Chain {
    /// The first of the writes, and its run. It knows what was there before.
    first: (u64, Entry),
    made: Vec<Place>,
}

/// Finds the files that promotes put into the image from the overlay and that `items` lack. With
/// `prune`, also plans their removal.
pub(crate) fn find(run: &mut Run<'_>, items: &[Item], prune: bool) -> Result<Leftovers> {
    let wanted: HashSet<&Place> = items.iter().map(|item| &item.place).collect();
    let records = run.records()?;
    let chains = detect(records, &wanted);
    let mut found = Leftovers::default();
    if chains.is_empty() {
        return Ok(found);
    }
    let held = history::held(records);
    for (place, chain) in chains {
        let Some(held) = held.get(&place) else {
            continue;
        };
        let fate = match present_state(run, &place, held, prune)? {
            HeldState::Missing => continue,
            HeldState::Edited => Fate::Changed,
            _ if !prune => Fate::Stays,
            HeldState::Unreadable | HeldState::Intact => {
                let (id, entry) = &chain.first;
                match put_back(&run.sidecar, *id, &place, entry) {
                    Ok(item) => {
                        let removed = item.is_removal();
                        found.items.push(item);
                        if removed {
                            found.dirs.extend(chain.made);
                            Fate::Removed
                        } else {
                            Fate::PutBack
                        }
                    }
                    Err(e) if e.code() == "no-backup" => Fate::NoBackup,
                    Err(e) => return Err(e),
                }
            }
        };
        let path = place.in_image();
        found.files.push(Leftover { path, fate });
    }
    found.dirs.sort();
    found.dirs.dedup();
    found.dirs.reverse();
    Ok(found)
}

/// Returns the present state of a file. Only if it may be removed, the helper is asked about a
/// file that this process cannot read.
fn present_state(run: &mut Run<'_>, place: &Place, held: &Held, prune: bool) -> Result<HeldState> {
    let (state, _) = status::state(run.trees.tree(place.zone)?, held)?;
    if state != HeldState::Unreadable || !prune || !run.trees.may_ask() {
        return Ok(state);
    }
    Ok(match run.look(place)? {
        Some((_, After::Nothing)) => HeldState::Missing,
        Some((_, now)) if held.puts().any(|put| put.entry.after == now) => HeldState::Intact,
        _ => HeldState::Edited,
    })
}

/// Returns the places that were last written from the overlay and are not `wanted`. Does no I/O.
fn detect(records: &[Record], wanted: &HashSet<&Place>) -> BTreeMap<Place, Chain> {
    let mut chains: BTreeMap<Place, Chain> = BTreeMap::new();
    for record in records {
        for entry in record.entries.iter().filter(|entry| !entry.kept) {
            if wanted.contains(&entry.place) {
                continue;
            }
            if entry.channel != Channel::Overlay {
                chains.remove(&entry.place);
                continue;
            }
            let zone = entry.place.zone;
            let made = entry.made.iter().map(|made| Place {
                zone,
                path: made.0.clone(),
            });
            let chain = chains.entry(entry.place.clone()).or_insert_with(|| Chain {
                first: (record.begin.id, entry.clone()),
                made: Vec::new(),
            });
            chain.made.extend(made);
        }
    }
    chains
}

/// Returns the destinations of the artifacts that promotes since the last finished one should
/// have brought but did not, and that `manifest` lacks.
pub(crate) fn never_promoted(
    records: &[Record],
    manifest: Option<&Manifest>,
    images: &[PathBuf],
) -> Vec<RelPath> {
    let is_promote = |record: &&Record| record.begin.action == "promote";
    let unfinished = records
        .iter()
        .rev()
        .filter(is_promote)
        .take_while(|record| record.state() != "done");
    let mut missing = BTreeSet::new();
    let mut brought = BTreeSet::new();
    for record in unfinished {
        let text = record.begin.manifest.as_deref().unwrap_or_default();
        missing.extend(manifest::destinations(text, images));
        brought.extend(record.entries.iter().map(|entry| entry.dst.as_path()));
    }
    if missing.is_empty() {
        return Vec::new();
    }
    let now = manifest.iter().flat_map(|manifest| &manifest.artifacts);
    let now: BTreeSet<&RelPath> = now.map(|artifact| &artifact.dst).collect();
    missing.retain(|dst| !now.contains(dst) && !brought.contains(dst.as_path()));
    missing.into_iter().collect()
}
