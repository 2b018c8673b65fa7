//! The report of a run.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::promote::gates::collision::Collision;
use crate::promote::inputs::deviations::Deviation;
use crate::promote::path::RelPath;
use crate::promote::plan::union::{Channel, Item};

/// What was done about the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InitramfsOutcome {
    /// Nothing, because no file that it contains was written.
    #[default]
    NotNeeded,
    /// It was rebuilt.
    Rebuilt,
    /// It must be rebuilt, but this was postponed.
    Postponed,
    /// It must be rebuilt, but the run failed before or during that.
    StillDue,
    /// It would be rebuilt (in a dry run).
    Due,
}

impl fmt::Display for InitramfsOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotNeeded => "skipped (nothing that it holds was written)",
            Self::Rebuilt => "rebuilt",
            Self::Postponed => "skipped as requested, still due",
            Self::StillDue => "still due",
            Self::Due => "to be rebuilt",
        })
    }
}

/// A file that a promote put into the image from the overlay, and that neither channel has now.
#[derive(Debug, Clone)]
pub struct Leftover {
    /// The path below `Linux_for_Tegra/`.
    pub path: PathBuf,
    /// What happens to it.
    pub fate: Fate,
}

/// What happens to a file that the overlay no longer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It stays, because removing it was not asked for.
    Stays,
    /// It stays, because it was changed in the image.
    Changed,
    /// It stays, because what was there before is no longer kept.
    NoBackup,
    /// It is removed.
    Removed,
    /// What was there before is put back.
    PutBack,
}

/// The counts of one channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The number of files written, or to be written.
    pub copied: u64,
    /// The number of files that were the same already.
    pub identical: u64,
    /// The number of files for which another channel has priority.
    pub shadowed: u64,
}

/// The result of a promote, or its plan.
#[derive(Debug)]
pub struct Report {
    /// The number of its record, or `None` if nothing was written.
    pub id: Option<u64>,
    /// Whether this is only a plan.
    pub dry_run: bool,
    /// A description of the overlay's scope.
    pub overlay: String,
    /// The commit of the overlay.
    pub commit: Option<String>,
    /// A description of the manifest's scope, or `None` if there is no manifest.
    pub manifest: Option<String>,
    /// The result of the comparison with the overlay's upstream.
    pub collision: Collision,
    /// Further remarks for the user.
    pub notes: Vec<String>,
    /// What deviates from the schemas of the workspace's files.
    pub deviations: Vec<Deviation>,
    /// The files from the overlay that neither channel has now.
    pub leftovers: Vec<Leftover>,
    /// The destinations of artifacts of an unfinished promote that this one does not have.
    pub never_promoted: Vec<RelPath>,
    /// The whole plan.
    pub items: Vec<Item>,
    /// What was done about the initramfs.
    pub initramfs: InitramfsOutcome,
    /// The resolved `<source.root_path>`.
    pub source: PathBuf,
    /// The resolved `Linux_for_Tegra/` of the image.
    pub image: PathBuf,
    /// The duration of the run.
    pub elapsed: Duration,
}

impl Report {
    /// Returns the counts of a channel.
    pub fn counts(&self, channel: Channel) -> Counts {
        let mut counts = Counts::default();
        for item in &self.items {
            if item.shadows == Some(channel) {
                counts.shadowed += 1;
            }
            if item.channel == channel {
                if item.is_to_be_written() {
                    counts.copied += 1;
                } else {
                    counts.identical += 1;
                }
            }
        }
        counts
    }

    /// Returns the first and the last path that was written.
    pub fn ends(&self) -> Option<(PathBuf, PathBuf)> {
        let is_copied = |item: &&Item| item.is_to_be_written() && item.channel != Channel::Rollback;
        let mut written = self.items.iter().filter(is_copied);
        let first = written.next()?;
        let last = written.next_back().unwrap_or(first);
        let path = |item: &Item| item.dst.as_path().to_path_buf();
        Some((path(first), path(last)))
    }

    /// Returns a description of the mirror's state.
    pub fn mirror(&self) -> &'static str {
        let mirror = self.items.iter().find(|i| i.channel == Channel::Mirror);
        match (mirror, self.dry_run) {
            (None, _) => "skipped (there is no kernel/Image)",
            (Some(item), false) if item.is_to_be_written() => "copied to rootfs/boot/Image",
            (Some(item), true) if item.is_to_be_written() => "to be copied to rootfs/boot/Image",
            (Some(_), _) => "identical to rootfs/boot/Image",
        }
    }
}
