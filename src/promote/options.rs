//! What is to be promoted, and how.

use std::path::PathBuf;

/// The owner of written files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// What is there under `rootfs/` keeps owner, group and mode; what is new is root's.
    #[default]
    Keep,
    /// Owner, group and mode of the source, as `cp -p` has it.
    Source,
}

impl std::str::FromStr for Ownership {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "keep" => Ok(Self::Keep),
            "source" => Ok(Self::Source),
            _ => Err("expected keep or source".into()),
        }
    }
}

/// What is to be promoted, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The directory that holds `target-platform/`; found from the current one if none.
    pub workspace: Option<PathBuf>,
    /// A tag, a commit, or a range `A..B` of the overlay instead of its HEAD.
    pub overlay_ref: Option<String>,
    /// The owner of written files.
    pub ownership: Ownership,
    /// Plan only: nothing is written, not even to the overlay's repository.
    pub dry_run: bool,
    /// Do not fetch; compare with what the last fetch saw.
    pub offline: bool,
    /// Leave the initramfs as it is, and note that it is due.
    pub no_initramfs: bool,
    /// Compare the bytes also of files that were not touched since the last run.
    pub recheck: bool,
}
