//! Checks whether the plan can be written, without writing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::durable::STAGING_NAME;
use crate::error::{Error, Kind, Result};
use crate::promote::path::{SIDECAR, Zone};
use crate::promote::plan::union::{Item, plan_room};
use crate::promote::tree::access;
use crate::promote::tree::protocol::Found;
use crate::promote::trees::Trees;

/// Checks the access to each place that is to be written, and with `journal`, to the places of
/// the journal. Returns the places under `rootfs/` that only the helper can check.
pub(crate) fn probe_access(trees: &Trees, items: &[Item], journal: bool) -> Result<Vec<PathBuf>> {
    let elsewhere = trees.tree(Zone::Elsewhere)?;
    for place in places(items, Zone::Elsewhere) {
        access::check(elsewhere, place)?;
    }
    if journal {
        for folder in ["", "journal", "journal/x", "backups", "backups/x"] {
            access::check(elsewhere, &Path::new(SIDECAR).join(folder))?;
        }
    }
    let mut unknown = Vec::new();
    for place in places(items, Zone::Rootfs) {
        let rootfs = trees.tree(Zone::Rootfs)?;
        match rootfs.check_writable(place) {
            Err(e) if e.raw_os_error() == Some(libc::EACCES) && !trees.as_root() => {
                unknown.push(place.to_path_buf());
            }
            other => other.map_err(|e| access::explain(e, &rootfs.path().join(place)))?,
        }
    }
    Ok(unknown)
}

/// Returns the places to check: the staging folder, and one new file for each directory.
fn places(items: &[Item], zone: Zone) -> Vec<&Path> {
    let mut seen = BTreeSet::new();
    let mut places = Vec::new();
    for item in items.iter().filter(|item| item.is_to_be_written()) {
        let place = item.place.path.as_path();
        if item.place.zone != zone {
            continue;
        }
        if seen.is_empty() {
            places.push(Path::new(STAGING_NAME));
        }
        let dir = place.parent().unwrap_or(Path::new(""));
        if seen.insert(dir) || item.found != Found::Missing {
            places.push(place);
        }
    }
    places
}

/// Checks that there is enough space for the new files and the backups.
pub(crate) fn probe_room(trees: &Trees, items: &[Item]) -> Result<()> {
    let mut needed: Vec<(u64, Zone, u64, u64)> = Vec::new();
    for zone in [Zone::Elsewhere, Zone::Rootfs] {
        let Ok((device, room)) = trees.room(zone) else {
            continue;
        };
        let mut bytes = plan_room(items, zone, room.block_bytes);
        if zone == Zone::Elsewhere {
            bytes = bytes.saturating_add(backups(trees, items));
        }
        match needed.iter_mut().find(|(other, ..)| *other == device) {
            Some(both) => both.2 = both.2.saturating_add(bytes),
            None => needed.push((device, zone, bytes, room.free_bytes)),
        }
    }
    let Some((_, zone, bytes, free)) = needed.into_iter().find(|(.., bytes, free)| bytes > free)
    else {
        return Ok(());
    };
    let message = format!("not enough space: {bytes} bytes needed, {free} free");
    Err(Error::new(Kind::Space, message)
        .with_path(trees.tree(zone)?.path())
        .advice("free some space, then promote again"))
}

/// Returns the number of bytes that are replaced. The journal keeps all of them.
fn backups(trees: &Trees, items: &[Item]) -> u64 {
    let replaced = items.iter().filter(|item| item.is_to_be_written());
    let bytes = |item: &Item| {
        let tree = trees.tree(item.place.zone).ok()?;
        Some(tree.stat_key(&item.place.path).ok()?.bytes)
    };
    replaced.filter_map(bytes).fold(0, u64::saturating_add)
}
