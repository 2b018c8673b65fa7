//! The command line of `promote`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::promote::Ownership;

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    #[command(subcommand)]
    pub action: Option<PromoteAction>,

    /// The directory that holds target-platform/ (default: searched from the current one upwards)
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,

    /// Show what would be done, without writing anything
    #[arg(long, global = true)]
    pub dry_run: bool,

    /// Promote a tag, a commit, or the changes of a range A..B, instead of the overlay's HEAD
    #[arg(long, value_name = "REF")]
    pub overlay_ref: Option<String>,

    /// Under rootfs/, keep owner and mode (new files are root's), or use those of the source as
    /// cp -p does
    #[arg(long, value_name = "WHOSE", default_value = "keep")]
    pub ownership: Ownership,

    /// Do not rebuild the initramfs now; the next promote does it
    #[arg(long, global = true)]
    pub no_initramfs: bool,

    /// Rebuild the initramfs even if nothing that it contains has changed
    #[arg(long, conflicts_with = "no_initramfs")]
    pub refresh_initramfs: bool,

    /// Remove the files from the image that the overlay no longer has, or put back what was there
    /// before
    #[arg(long, conflicts_with = "overlay_ref")]
    pub prune: bool,

    /// Promote into this Linux_for_Tegra tree instead of the one of the profile (can be repeated)
    #[arg(long = "image", id = "images", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub images: Vec<PathBuf>,

    /// Refuse a manifest, state, profile or pointer that deviates from its schema
    #[arg(long)]
    pub strict: bool,

    /// Allow a manifest to name sources outside of the workspace
    #[arg(long)]
    pub allow_outside: bool,

    /// Compare the bytes even of files that have not been touched since the last promote
    #[arg(long)]
    pub recheck: bool,

    /// Do not fetch the overlay's upstream; compare with the result of the last fetch
    #[arg(long)]
    pub offline: bool,

    /// Print the report as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum PromoteAction {
    /// List what was promoted into the image, and when
    History(ImageArgs),
    /// Check whether the image still holds what was promoted (exit status 1 if not)
    Status(ImageArgs),
    /// Show what a promote would change: text as a unified diff, a device tree decompiled by dtc, a
    /// module's description, and otherwise sizes and checksums
    Diff(PromoteDiffArgs),
    /// Check whether kernel, modules and initramfs of the image fit together (exit status 1 if
    /// not, or if something could not be checked)
    Verify(ImageArgs),
    /// Restore the state after an earlier promote
    Rollback(RollbackArgs),
    /// Print the JSON Schemas of the reports and of the errors
    Schema,
    /// Print instructions for an agent that promotes with this program (a SKILL.md)
    Skill,
}

#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// The Linux_for_Tegra tree; no workspace is needed then
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub image: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct PromoteDiffArgs {
    /// Exit with status 1 if a promote would change something, as `diff` does
    #[arg(long)]
    pub exit_code: bool,

    /// Compare a tag, a commit, or the changes of a range A..B, instead of the overlay's HEAD
    #[arg(long, value_name = "REF")]
    pub overlay_ref: Option<String>,

    /// Compare the overlay with the result of the last fetch of its upstream
    #[arg(long)]
    pub offline: bool,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The promote whose result to restore, 0 for the state before all (default: the one before
    /// the last)
    #[arg(value_name = "ID")]
    pub id: Option<u64>,

    #[command(flatten)]
    pub image: ImageArgs,
}
