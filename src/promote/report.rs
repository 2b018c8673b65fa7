//! What a run came to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::promote::gates::collision::Collision;
use crate::promote::plan::union::{Channel, Item};

/// What became of the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InitramfsOutcome {
    /// Nothing that it holds was written.
    #[default]
    NotNeeded,
    /// It was made anew.
    Rebuilt,
    /// It must be made anew, and was not.
    Postponed,
    /// It must be made anew, and the run failed before or while it was.
    StillDue,
    /// A dry run: it would be made anew.
    Due,
}

impl fmt::Display for InitramfsOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotNeeded => "skipped (nothing that it holds was written)",
            Self::Rebuilt => "rebuilt",
            Self::Postponed => "skipped (--no-initramfs; it is still due)",
            Self::StillDue => "still due",
            Self::Due => "to be rebuilt",
        })
    }
}

/// Counts of one channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Written, or to be written.
    pub copied: u64,
    /// The same already.
    pub identical: u64,
    /// Left to another channel.
    pub shadowed: u64,
}

/// A promote, or the plan of one.
#[derive(Debug)]
pub struct Report {
    /// The number of its record; `None` where nothing was written.
    pub id: Option<u64>,
    /// Whether it is only a plan.
    pub dry_run: bool,
    /// The scope of the overlay, in words.
    pub overlay: String,
    /// The commit of the overlay.
    pub commit: Option<String>,
    /// The scope of the manifest, in words; `None` where there is none.
    pub manifest: Option<String>,
    /// What the overlay's upstream had to say.
    pub collision: Collision,
    /// What should be known besides.
    pub notes: Vec<String>,
    /// The whole plan.
    pub items: Vec<Item>,
    /// What became of the initramfs.
    pub initramfs: InitramfsOutcome,
    /// The resolved `<source.root_path>`.
    pub source: PathBuf,
    /// The resolved `Linux_for_Tegra/` of the image.
    pub image: PathBuf,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    /// The counts of a channel.
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

    /// The first and the last path that was written.
    pub fn ends(&self) -> Option<(PathBuf, PathBuf)> {
        let mut written = self.items.iter().filter(|item| item.is_to_be_written());
        let first = written.next()?;
        let last = written.next_back().unwrap_or(first);
        let path = |item: &Item| item.dst.as_path().to_path_buf();
        Some((path(first), path(last)))
    }

    /// The state of the mirror, in words.
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
