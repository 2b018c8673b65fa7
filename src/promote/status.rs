//! Does the image still hold what was promoted?

use std::io;
use std::path::{Path, PathBuf};

use crate::durable::{Bounds, Seen, Tree};
use crate::error::{Error, Result};
use crate::progress::Progress;

use super::bytes::{link_sum, sum};
use super::history::{self, Held, Record};
use super::initramfs::Initramfs;
use super::journal::{After, Sidecar};
use super::path::{ROOTFS, Zone};

/// How a promoted file is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldState {
    /// As it was promoted.
    Intact,
    /// Somebody changed it.
    Edited,
    /// Somebody removed it.
    Missing,
    /// Only root can tell.
    Unreadable,
}

/// A file that was promoted.
#[derive(Debug, Clone)]
pub struct HeldFile {
    /// Where it lies, below `Linux_for_Tegra/`.
    pub path: PathBuf,
    /// The promote that put it there.
    pub id: u64,
    /// How it is now.
    pub state: HeldState,
}

/// What an image holds.
#[derive(Debug)]
pub struct StatusReport {
    /// The image.
    pub image: PathBuf,
    /// The last run, if there was one.
    pub last: Option<Record>,
    /// All that was promoted and not taken back.
    pub files: Vec<HeldFile>,
    /// Whether the initramfs has to be made anew.
    pub initramfs_due: bool,
}

impl StatusReport {
    /// How many files are in `state`.
    pub fn count(&self, state: HeldState) -> u64 {
        self.files.iter().filter(|f| f.state == state).count() as u64
    }

    /// Whether everything is as it was promoted, and nothing is due.
    pub fn is_ok(&self) -> bool {
        !self.initramfs_due && self.files.iter().all(|f| f.state == HeldState::Intact)
    }
}

/// Looks at everything that the journal of `image` tells of. Needs no workspace.
///
/// # Errors
/// The journal or the image cannot be read, or somebody wants to stop.
pub fn status(image: &Path, progress: &dyn Progress) -> Result<StatusReport> {
    let image = super::image_tree(image)?;
    let sidecar = Sidecar::of(&image);
    let (records, _) = history::read(&sidecar)?;
    let held = history::held(&records);
    let elsewhere = open(&image, Bounds::Beneath)?;
    let rootfs = open(&image.join(ROOTFS), Bounds::AsRoot);
    let bytes = held.values().map(|held| match held.entry.after {
        After::File { bytes, .. } => bytes,
        _ => 0,
    });
    progress.begin("reading", bytes.sum());
    let mut files = Vec::new();
    for (place, held) in held {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        let state = match place.zone {
            Zone::Elsewhere => state(&elsewhere, &held)?,
            Zone::Rootfs => match &rootfs {
                Ok(tree) => state(tree, &held)?,
                Err(_) => HeldState::Missing,
            },
        };
        if let After::File { bytes, .. } = held.entry.after {
            progress.advance(bytes);
        }
        if held.entry.after == After::Nothing && state == HeldState::Intact {
            continue;
        }
        files.push(HeldFile {
            path: place.in_image(),
            id: held.id,
            state,
        });
    }
    progress.end();
    Ok(StatusReport {
        initramfs_due: Initramfs::of(&image, &sidecar).is_pending(),
        last: records.into_iter().last(),
        files,
        image,
    })
}

fn open(path: &Path, bounds: Bounds) -> Result<Tree> {
    Tree::open(path, bounds).map_err(|e| {
        Error::io("opening", e)
            .path(path)
            .advice("init the image, or name another one")
    })
}

/// How what `held` tells of is now.
pub(super) fn state(tree: &Tree, held: &Held) -> Result<HeldState> {
    let place = &held.entry.place.path;
    let now = tree.look(place).and_then(|seen| {
        Ok(match seen {
            Seen::Nothing => Some(None),
            Seen::File(file, _) => Some(Some(sum(&file)?)),
            Seen::Symlink(target, _) => Some(Some(link_sum(&target))),
            Seen::Directory | Seen::Special(_) => None,
        })
    });
    match now {
        Ok(Some(now)) if held.sums().contains(&now) => Ok(HeldState::Intact),
        Ok(Some(None)) => Ok(HeldState::Missing),
        Ok(_) => Ok(HeldState::Edited),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(HeldState::Unreadable),
        // A symlink has come into the path, or a file: it does not lead there any more.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
            Ok(HeldState::Edited)
        }
        Err(e) => Err(Error::io("looking at", e).path(tree.path().join(place))),
    }
}
