//! Checks whether the image still holds what was promoted.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable::{Bounds, Lookup, Tree};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::promote::apply::initramfs::{Initramfs, sum_of_output};
use crate::promote::path::{ROOTFS, RelPath, Zone};
use crate::promote::record::history::{self, Held, Put, Record};
use crate::promote::record::journal::{After, End, Output};
use crate::promote::record::sidecar::Sidecar;
use crate::promote::record::stamps::Stamps;
use crate::promote::tree::bytes::sum;
use crate::promote::tree::protocol::JsonPath;

/// How a record says that the initramfs was rebuilt.
const REBUILT: &str = "rebuilt";

/// The present state of a promoted file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldState {
    /// It is as it was promoted.
    Intact,
    /// It was changed.
    Edited,
    /// It was removed.
    Missing,
    /// Only root can read it.
    Unreadable,
}

/// A file that was promoted.
#[derive(Debug, Clone)]
pub struct HeldFile {
    /// The path below `Linux_for_Tegra/`.
    pub path: PathBuf,
    /// The number of the promote that wrote it.
    pub id: u64,
    /// The present state.
    pub state: HeldState,
}

/// The promoted files of an image.
#[derive(Debug)]
pub struct StatusReport {
    /// The image.
    pub image: PathBuf,
    /// The last run, if there is one.
    pub last: Option<Record>,
    /// All files that were promoted and not rolled back.
    pub files: Vec<HeldFile>,
    /// The files that the initramfs tool wrote when the initramfs was last rebuilt, unless it is
    /// due again.
    pub outputs: Vec<(PathBuf, HeldState)>,
    /// Whether the initramfs must be rebuilt.
    pub initramfs_due: bool,
}

impl StatusReport {
    /// Returns the number of files in `state`.
    pub fn count(&self, state: HeldState) -> u64 {
        self.files.iter().filter(|f| f.state == state).count() as u64
    }

    /// Returns whether something was promoted, everything that this user can read is as it was
    /// promoted, and the initramfs is not due and not changed.
    pub fn is_ok(&self) -> bool {
        let is_ok = |state| matches!(state, HeldState::Intact | HeldState::Unreadable);
        self.last.is_some()
            && !self.initramfs_due
            && self.files.iter().all(|file| is_ok(file.state))
            && self.outputs.iter().all(|(_, state)| is_ok(*state))
    }
}

/// Checks every file that is recorded in the journal of `image`. This needs no workspace.
///
/// # Errors
/// The journal or the image cannot be read, or the user asks to stop.
pub fn status(image: &Path, progress: &dyn Progress) -> Result<StatusReport> {
    let image = crate::promote::inputs::workspace::image_tree(image)?;
    let sidecar = Sidecar::of(&image);
    let (records, _) = history::read(&sidecar)?;
    let held = history::held(&records);
    let stamps = Stamps::read(&sidecar);
    let elsewhere = open(&image, Bounds::Beneath)?;
    let rootfs = open(&image.join(ROOTFS), Bounds::AsRoot);
    let length = |held: &Held| match held.puts().next().map(|put| &put.entry.after) {
        Some(After::File { bytes, .. }) => *bytes,
        _ => 0,
    };
    progress.begin("reading", held.values().map(length).sum());
    let mut files = Vec::new();
    for (place, held) in &held {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        let (state, put) = match (place.zone, &rootfs) {
            (Zone::Elsewhere, _) => state(&elsewhere, held)?,
            (Zone::Rootfs, Ok(tree)) => match state(tree, held)? {
                // The file was equal when it was last compared, and it has not been touched
                // since.
                (HeldState::Unreadable, put) if held.unsure.is_empty() => {
                    let now = tree.stat_key(&place.path).ok();
                    match stamps.is_untouched(place, now.as_ref()) {
                        true => (HeldState::Intact, put),
                        false => (HeldState::Unreadable, put),
                    }
                }
                other => other,
            },
            (Zone::Rootfs, Err(_)) => (HeldState::Missing, held.puts().next()),
        };
        progress.advance(length(held));
        let Some(put) = put else { continue };
        if put.entry.after == After::Nothing && state == HeldState::Intact {
            continue;
        }
        files.push(HeldFile {
            path: place.in_image(),
            id: put.id,
            state,
        });
    }
    progress.end();
    let initramfs_due = Initramfs::of(&image, &sidecar).is_pending();
    let trees = (&elsewhere, rootfs.as_ref().ok());
    Ok(StatusReport {
        outputs: match initramfs_due {
            true => Vec::new(),
            false => outputs(&records, trees),
        },
        initramfs_due,
        last: records.into_iter().last(),
        files,
        image,
    })
}

/// Compares the files that the initramfs tool wrote last with their recorded checksums.
fn outputs(records: &[Record], trees: (&Tree, Option<&Tree>)) -> Vec<(PathBuf, HeldState)> {
    let rebuilt = |end: &&End| end.initramfs.as_deref() == Some(REBUILT);
    let ends = records
        .iter()
        .rev()
        .filter_map(|record| record.end.as_ref());
    let Some(end) = ends.into_iter().find(rebuilt) else {
        return Vec::new();
    };
    let state = |output: &Output| {
        let path = RelPath::parse(output.path.as_ref()).ok()?;
        let now = match path.split() {
            (Zone::Elsewhere, rest) => sum_of_output(trees.0, rest),
            (Zone::Rootfs, rest) => sum_of_output(trees.1?, rest),
        };
        let state = match now {
            Ok(Some(sum)) if sum == output.sha256 => HeldState::Intact,
            Ok(Some(_)) => HeldState::Edited,
            Ok(None) => HeldState::Missing,
            Err(_) => HeldState::Unreadable,
        };
        Some((path.as_path().to_path_buf(), state))
    };
    end.outputs.iter().filter_map(state).collect()
}

fn open(path: &Path, bounds: Bounds) -> Result<Tree> {
    Tree::open(path, bounds).map_err(|e| {
        Error::io("open", e)
            .with_path(path)
            .advice("check the image's directory")
    })
}

/// Returns the present state of the place that `held` describes, and the run that wrote it. There
/// is no such run if all runs that may have written it were cut off before they reached it.
pub(crate) fn state<'a>(tree: &Tree, held: &'a Held) -> Result<(HeldState, Option<&'a Put>)> {
    let newest = held.puts().next();
    let Some(place) = newest.map(|put| &put.entry.place.path) else {
        return Ok((HeldState::Intact, None));
    };
    let nothing = newest.is_some_and(|put| put.entry.after == After::Nothing);
    let now = tree.lookup(place).and_then(|seen| {
        Ok(match seen {
            Lookup::Nothing => Some(After::Nothing),
            Lookup::File(file, meta) => Some(After::File {
                sha256: sum(&file)?,
                bytes: meta.len(),
            }),
            Lookup::Symlink(target, _) => Some(After::Symlink {
                target: JsonPath(target),
            }),
            Lookup::Directory if nothing => Some(After::Nothing),
            Lookup::Directory | Lookup::Special | Lookup::Unreadable(_) => None,
        })
    });
    let now = match now {
        Ok(now) => now,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Ok((HeldState::Unreadable, newest));
        }
        // A symlink or a file has replaced a directory of the path, so the path does not lead
        // there any more.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
            nothing.then_some(After::Nothing)
        }
        Err(e) => return Err(Error::io("inspect", e).with_path(tree.path().join(place))),
    };
    if let Some(now) = &now {
        if let Some(put) = held.puts().find(|put| put.entry.after == *now) {
            return Ok((HeldState::Intact, Some(put)));
        }
        let untouched = held.unsure.first().filter(|_| held.sure.is_none());
        if untouched.is_some_and(|put| put.before().as_ref() == Some(now)) {
            return Ok((HeldState::Intact, None));
        }
    }
    let state = match now {
        Some(After::Nothing) => HeldState::Missing,
        _ => HeldState::Edited,
    };
    Ok((state, held.sure.as_ref().or(newest)))
}
