//! Going back to what an earlier promote left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::promote::apply::run::{Run, RunOptions};
use crate::promote::inputs::content::Content;
use crate::promote::options::Ownership;
use crate::promote::path::{Place, RelPath};
use crate::promote::plan::union::{Channel, Item};
use crate::promote::record::history::{self, Put, Record};
use crate::promote::record::journal::{Begin, Entry, KEPT, Sidecar};
use crate::promote::refused::{refused, shell_word};
use crate::promote::report::InitramfsOutcome;
use crate::promote::status::{self, HeldState};
use crate::promote::tree::bytes;
use crate::promote::tree::protocol::PreviousState;
use crate::promote::trees::Trees;

const LESS_FAR: &str = "roll back to a later promote: lbpayload promote history lists them";

/// Where to go back to, and how.
#[derive(Debug, Clone)]
pub struct RollbackOptions {
    /// `Linux_for_Tegra/`, or the folder that holds it.
    pub image: PathBuf,
    /// The run whose outcome is wanted again; 0 is before all of them; none means
    /// before the last one.
    pub to: Option<u64>,
    /// Plan only.
    pub dry_run: bool,
    /// Leave the initramfs as it is, and note that it is due.
    pub no_initramfs: bool,
}

/// A rollback, or the plan of one.
#[derive(Debug)]
pub struct RollbackReport {
    /// The number of its own record; `None` where nothing was written.
    pub id: Option<u64>,
    /// The run whose outcome is there again.
    pub to: u64,
    /// Whether it is only a plan.
    pub dry_run: bool,
    /// What was put back, or taken away.
    pub items: Vec<Item>,
    /// Of these, those that were edited since; the record keeps the edits.
    pub edited: Vec<PathBuf>,
    /// What became of the initramfs.
    pub initramfs: InitramfsOutcome,
    /// The image.
    pub image: PathBuf,
    /// How long it took.
    pub elapsed: Duration,
}

/// Puts back what was in the image after the run `options.to`. It is recorded as a run
/// of its own, so that it can be taken back too.
///
/// # Errors
/// There is no such run, its backups are gone, or what [`super::promote`] can fail of.
pub fn rollback(options: &RollbackOptions, progress: &dyn Progress) -> Result<RollbackReport> {
    let started = Instant::now();
    let image = crate::promote::inputs::workspace::image_tree(&options.image)?;
    let run_options = RunOptions {
        dry_run: options.dry_run,
        initramfs: !options.no_initramfs,
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
                "name another image with --image".into(),
            )
        })?;
    let to = match options.to {
        Some(0) => 0,
        Some(id) if records.iter().any(|record| record.begin.id == id) => id,
        Some(id) => {
            return Err(refused(
                format!("no promote {id} in the journal"),
                format!("lbpayload promote history --image {}", shell_word(&image)),
            ));
        }
        None => before(&records, last),
    };
    let undone = plan_undo(&records, to);
    let mut items = Vec::new();
    for (place, (id, entry)) in &undone {
        items.push(put_back(&run.sidecar, *id, place, entry)?);
    }
    let mut edited = Vec::new();
    for (place, held) in history::held(&records) {
        if let Some((id, entry)) = undone.get(&place) {
            let wanted = Put {
                entry: entry.clone(),
                id: *id,
            };
            let held_now = held.sure.as_ref().map(|put| &put.entry.after);
            run.has_news |= held_now != wanted.before().as_ref();
            let (now, _) = status::state(run.trees.tree(place.zone)?, &held)?;
            if matches!(now, HeldState::Edited | HeldState::Missing) {
                edited.push(place.in_image());
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
    let ran = run.execute(&mut items, &plan, begin, &dirs)?;
    Ok(RollbackReport {
        id: ran.id,
        to,
        dry_run: options.dry_run,
        items,
        edited,
        initramfs: ran.initramfs,
        image,
        elapsed: started.elapsed(),
    })
}

fn before(records: &[Record], last: u64) -> u64 {
    let earlier = records.iter().map(|r| r.begin.id).filter(|id| *id < last);
    earlier.max().unwrap_or(0)
}

/// For each place that a run after `to` changed: the first of them, which knows what
/// was there. Pure.
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

/// Directories that runs after `to` made, the deepest first.
fn empty_dirs(records: &[Record], to: u64) -> Vec<Place> {
    let later = records.iter().filter(|record| record.begin.id > to);
    let mut dirs: Vec<Place> = later.flat_map(|record| record.made.clone()).collect();
    dirs.sort();
    dirs.dedup();
    dirs.reverse();
    dirs
}

/// Whether the backup at `path` is there, and what promote `id` replaced.
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

fn put_back(sidecar: &Sidecar, id: u64, place: &Place, entry: &Entry) -> Result<Item> {
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
