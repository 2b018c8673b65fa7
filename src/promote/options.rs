//! The options of a promote.

use std::path::PathBuf;

/// The ownership of written files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// Existing files under `rootfs/` keep owner, group and mode. New files belong to root.
    #[default]
    Keep,
    /// Owner, group and mode of the source, as with `cp -p`.
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

/// The options of a promote.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The directory that holds `target-platform/`. `None` searches from the current directory
    /// upwards.
    pub workspace: Option<PathBuf>,
    /// A tag, a commit or a range `A..B` of the overlay to promote instead of its HEAD.
    pub overlay_ref: Option<String>,
    /// The ownership of written files.
    pub ownership: Ownership,
    /// Whether to plan only. Then nothing is written, not even to the overlay's repository.
    pub dry_run: bool,
    /// Whether to skip the fetch, and to compare with the result of the last one.
    pub offline: bool,
    /// Whether to leave the initramfs as it is, and to note that it is due.
    pub no_initramfs: bool,
    /// Whether to rebuild the initramfs even if it is not due.
    pub refresh_initramfs: bool,
    /// Whether to compare the bytes even of files that have not been touched since the last run.
    pub recheck: bool,
    /// The images to promote into. If there are none, the image of the profile.
    pub images: Vec<PathBuf>,
    /// Whether any deviation of a manifest, a state, a profile or the pointer is refused.
    pub strict: bool,
    /// Whether artifacts may come from outside of the workspace.
    pub allow_outside: bool,
    /// Whether files that the overlay no longer has are removed from the image.
    pub prune: bool,
}
