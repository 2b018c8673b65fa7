//! Remembers which files of the image were last written from the overlay, so that a run that has
//! nothing to do need not read the whole journal to find those that the overlay no longer has.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::history::{self, Record};
use super::sidecar::Sidecar;
use crate::error::Result;
use crate::promote::path::Place;
use crate::promote::plan::union::{Channel, Item};

const NAME: &str = "overlaid.json";

#[derive(Serialize, Deserialize)]
struct Overlaid {
    /// The last record. If the journal has a later one, the places may be wrong.
    last: u64,
    places: BTreeSet<Place>,
}

/// Returns the places that the last promote left, or `None` if they are not known without the
/// journal, such as after a run that failed.
pub(crate) fn read(sidecar: &Sidecar) -> Option<BTreeSet<Place>> {
    let text = std::fs::read(sidecar.path(NAME)).ok()?;
    let Overlaid { last, places } = serde_json::from_slice(&text).ok()?;
    (history::last(sidecar).ok()? == last).then_some(places)
}

/// Saves the places after the promote `last`, which wrote `items`. `records` are those before it.
pub(crate) fn write(
    sidecar: &Sidecar,
    records: &[Record],
    items: &[Item],
    last: u64,
) -> Result<()> {
    let mut places = BTreeSet::new();
    let mut note = |place: &Place, channel| match channel {
        Channel::Overlay => drop(places.insert(place.clone())),
        _ => drop(places.remove(place)),
    };
    let entries = records.iter().flat_map(|record| &record.entries);
    for entry in entries.filter(|entry| !entry.kept) {
        note(&entry.place, entry.channel);
    }
    for item in items.iter().filter(|item| item.is_to_be_written()) {
        note(&item.place, item.channel);
    }
    let text = serde_json::to_vec(&Overlaid { last, places }).unwrap_or_default();
    sidecar.put(NAME, &text)
}
