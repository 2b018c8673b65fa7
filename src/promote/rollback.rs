//! Restores the state after an earlier promote.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::promote::apply::run::{Refresh, Run, RunOptions};
use crate::promote::inputs::content::Content;
use crate::promote::options::Ownership;
use crate::promote::path::{Place, RelPath};
use crate::promote::plan::union::{Channel, Item};
use crate::promote::record::history::{self, Put, Record};
use crate::promote::record::journal::{Begin, Entry};
use crate::promote::record::sidecar::{KEPT, Sidecar};
use crate::promote::refused::refused;
use crate::promote::report::InitramfsOutcome;
use crate::promote::status::{self, HeldState};
use crate::promote::tree::bytes;
use crate::promote::tree::protocol::PreviousState;
use crate::promote::trees::Trees;

const LESS_FAR: &str = "roll back to a later promote";

/// The options of a rollback.
#[derive(Debug, Clone)]
pub struct RollbackOptions {
    /// `Linux_for_Tegra/`, or the folder that contains it.
    pub image: PathBuf,
    /// The run whose result to restore. 0 is the state before all runs; `None` is the state
    /// before the last run.
    pub to: Option<u64>,
    /// Whether to plan only.
    pub dry_run: bool,
    /// Whether to leave the initramfs as it is, and to note that it is due.
    pub no_initramfs: bool,
}

/// The result of a rollback, or its plan.
#[derive(Debug)]
pub struct RollbackReport {
    /// The number of the rollback's own record, or `None` if nothing was written.
    pub id: Option<u64>,
    /// The run whose result was restored.
    pub to: u64,
    /// Whether this is only a plan.
    pub dry_run: bool,
    /// The files that were restored or removed.
    pub items: Vec<Item>,
    /// Those of the items that were edited since they were promoted. The record keeps the edits.
    pub edited: Vec<PathBuf>,
    /// Those of the items that were deleted since they were promoted.
    pub deleted: Vec<PathBuf>,
    /// What was done about the initramfs.
    pub initramfs: InitramfsOutcome,
    /// The image.
    pub image: PathBuf,
    /// The duration of the rollback.
    pub elapsed: Duration,
}

/// Restores what was in the image after the run `options.to`. The rollback is recorded as a run
/// of its own, so that it can be undone too.
///
/// # Errors
/// There is no such run, its backups are gone, or one of the errors of [`super::promote`].
pub fn rollback(options: &RollbackOptions, progress: &dyn Progress) -> Result<RollbackReport> {
    let started = Instant::now();
    let image = crate::promote::inputs::workspace::image_tree(&options.image)?;
    let run_options = RunOptions {
        dry_run: options.dry_run,
        refresh: match options.no_initramfs {
            true => Refresh::Never,
            false => Refresh::IfDue,
        },
        ownership: Ownership::Keep,
        recheck: true,
    };
    let mut run = Run::open(&image, None, run_options, progress)?;
    let refused =
        |message: String, advice: String| refused(message, &image, advice).with_code("no-record");
    let records = run.records()?.to_vec();
    let last = records
        .last()
        .map(|record| record.begin.id)
        .ok_or_else(|| {
            refused(
                "nothing was promoted into this image".into(),
                "name another image".into(),
            )
        })?;
    let to = match options.to {
        Some(0) => 0,
        Some(id) if records.iter().any(|record| record.begin.id == id) => id,
        Some(id) => {
            return Err(
                Error::new(Kind::Refused, format!("no promote {id} in the journal"))
                    .with_path(&image)
                    .with_code("no-record"),
            );
        }
        None => before(&records, last),
    };
    let undone = plan_undo(&records, to);
    let mut items = Vec::new();
    for (place, (id, entry)) in &undone {
        items.push(put_back(&run.sidecar, *id, place, entry)?);
    }
    let (mut edited, mut deleted) = (Vec::new(), Vec::new());
    for (place, held) in history::held(&records) {
        if let Some((id, entry)) = undone.get(&place) {
            let wanted = Put {
                entry: entry.clone(),
                id: *id,
            };
            let held_now = held.sure.as_ref().map(|put| &put.entry.after);
            run.has_news |= held_now != wanted.before().as_ref();
            let (now, _) = status::state(run.trees.tree(place.zone)?, &held)?;
            match now {
                HeldState::Edited => edited.push(place.in_image()),
                HeldState::Missing => deleted.push(place.in_image()),
                HeldState::Intact | HeldState::Unreadable => {}
            }
        }
    }
    let begin = Begin {
        action: "rollback".into(),
        to: Some(to),
        ..Begin::default()
    };
    let dirs = empty_dirs(&records, to);
    let plan = |_: &mut Trees| Ok(Vec::new());
    let before = run.compare(&mut items)?;
    let prepared = run.prepare(&items, before, &dirs)?;
    let ran = run.write(&mut items, &plan, begin, prepared)?;
    Ok(RollbackReport {
        id: ran.id,
        to,
        dry_run: options.dry_run,
        items,
        edited,
        deleted,
        initramfs: ran.initramfs,
        image,
        elapsed: started.elapsed(),
    })
}

fn before(records: &[Record], last: u64) -> u64 {
    let earlier = records.iter().map(|r| r.begin.id).filter(|id| *id < last);
    earlier.max().unwrap_or(0)
}

/// Returns, for each place that a run after `to` changed, the entry of the first such run,
/// because that entry knows the content before it. Does no I/O.
fn plan_undo(records: &[Record], to: u64) -> BTreeMap<Place, (u64, Entry)> {
    let mut undone = BTreeMap::new();
    for record in records.iter().filter(|record| record.begin.id > to) {
        for entry in record.entries.iter().filter(|entry| !entry.kept) {
            undone
                .entry(entry.place.clone())
                .or_insert_with(|| (record.begin.id, entry.clone()));
        }
    }
    undone
}

/// Returns the directories that runs after `to` created, the deepest first.
fn empty_dirs(records: &[Record], to: u64) -> Vec<Place> {
    let later = records.iter().filter(|record| record.begin.id > to);
    let mut dirs: Vec<Place> = later.flat_map(|record| record.made.clone()).collect();
    dirs.sort();
    dirs.dedup();
    dirs.reverse();
    dirs
}

/// Checks that the backup at `path` exists and holds what promote `id` replaced.
fn check_backup(path: &Path, sha256: &str, id: u64) -> Result<()> {
    let refused = |message: String| Error::new(Kind::Refused, message).with_path(path);
    let sum = File::open(path).and_then(|file| bytes::sum(&file));
    match sum {
        Ok(sum) if sum == sha256 => Ok(()),
        Ok(_) => Err(refused(format!(
            "the checksum of this backup is not what promote {id} recorded"
        ))
        .with_code("bad-backup")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(refused(format!(
            "no backup of promote {id}, only the last {KEPT} are kept"
        ))
        .with_code("no-backup")),
        Err(e) => Err(Error::io("read the backup", e).with_path(path)),
    }
}

/// Returns the item that restores what was at `place` before promote `id` did `entry`.
pub(crate) fn put_back(sidecar: &Sidecar, id: u64, place: &Place, entry: &Entry) -> Result<Item> {
    let refused =
        |message: String| refused(message, place.in_image(), LESS_FAR).with_code("no-backup");
    let content = match (&entry.before, &entry.backup) {
        (PreviousState::Nothing, _) => Content::Absent,
        (PreviousState::Symlink { target, attributes }, _) => {
            Content::Link(target.0.clone(), attributes.clone())
        }
        (PreviousState::File { attributes, .. }, Some(backup)) => {
            let path = sidecar.backups(id).join(&backup.name);
            check_backup(&path, &backup.sha256, id).map_err(|e| e.or_advice(LESS_FAR))?;
            Content::Backup(path, attributes.clone())
        }
        _ => return Err(refused(format!("promote {id} kept no backup of it"))),
    };
    let dst = RelPath::parse(Path::new(&entry.dst).as_os_str())
        .map_err(|what| refused(format!("cannot be put back: the path {what}")))?;
    Ok(Item::new(dst, place.clone(), Channel::Rollback, content))
}
