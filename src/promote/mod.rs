//! Stages the overlay and the last build into a BSP image tree, so that it is ready
//! to flash.
//!
//! [`promote`] finds the workspace, passes the gates, plans the union of both
//! channels, and only then writes: all checks come before the first byte. Every run
//! leaves a record in the image, from which [`status`], [`history()`] and [`rollback()`]
//! work without the workspace.

mod apply;
mod bytes;
mod collision;
mod content;
mod enumerate;
mod freshness;
mod git;
mod hands;
mod helper;
mod history;
mod initramfs;
mod journal;
mod manifest;
mod overlay;
mod overlooked;
mod path;
mod plan;
mod report;
mod rollback;
mod run;
mod stamps;
mod status;
mod survey;
mod trees;
mod workspace;
mod writable;
mod yaml;

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

use content::Spool;
use enumerate::enumerate;
use freshness::Kernel;
use git::Git;
use journal::{Begin, Sidecar};
use manifest::{BuildState, Manifest};
use overlay::{Scope, Status};
use plan::Item;
use run::{Manner, Run};

pub use collision::Collision;
pub use helper::{COMMAND as HELPER_COMMAND, serve as serve_helper};
pub use history::Record;
pub use journal::{Begin as RecordBegin, End as RecordEnd};
pub use plan::{Channel, Item as PlannedItem};
pub use report::{Counts, InitramfsOutcome, Report};
pub use rollback::{RollbackOptions, RollbackReport, rollback};
pub use status::{HeldFile, HeldState, StatusReport, status};
pub use workspace::Workspace;

/// Whom written files belong to.
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
    /// Whom written files belong to.
    pub ownership: Ownership,
    /// Plan only: nothing is written, not even to the overlay's repository.
    pub dry_run: bool,
    /// Do not fetch; compare with what the last fetch saw.
    pub offline: bool,
    /// Leave the initramfs as it is, and note that it is due.
    pub no_initramfs: bool,
    /// Compare the bytes also of files that nobody has touched since the last run.
    pub recheck: bool,
}

/// Promotes.
///
/// # Errors
/// Each row of the refusal table: then nothing was changed. Writing fails: what was
/// complete is kept. The initramfs fails: it stays due, and the next run makes it.
pub fn promote(options: &Options, progress: &dyn Progress) -> Result<Report> {
    let started = Instant::now();
    let workspace = Workspace::probe(options.workspace.as_deref())?;
    let git = tracker(&workspace)?;
    let manner = Manner {
        dry_run: options.dry_run,
        initramfs: !options.no_initramfs,
        ownership: options.ownership,
        recheck: options.recheck,
    };
    let tree = content::tracker(git.dir())?;
    let mut run = Run::open(&workspace.image, Some(tree), manner, progress)?;

    let status = validate(&git, options)?;
    let manifest = Manifest::read(&workspace.source)?;
    if status.head.is_none() && manifest.is_none() && options.overlay_ref.is_none() {
        return Err(Error::new(
            Kind::Refused,
            "there is nothing to promote: the overlay has no commit, and there is no manifest",
        )
        .path(&workspace.source)
        .advice("customize or build first"));
    }
    let state = BuildState::read(&workspace.source)?;
    let kernel = Kernel::probe(&workspace.kernel_sources())?;
    freshness::check(&kernel, state.as_ref(), &workspace.kernel_sources())?;
    let collision = match options.overlay_ref {
        Some(_) => Collision::Skipped("--overlay-ref names what is wanted"),
        None => collision::probe(&git, &status, options.offline, options.dry_run)?,
    };

    let mut spool = Spool::default();
    let (scope, tracked) = match &options.overlay_ref {
        Some(name) => overlay::probe_reference(&git, name, &mut spool)?,
        None => overlay::probe_head(&git, status.head.as_deref())?,
    };
    let mut items = enumerate(&mut run.trees, tracked, manifest.as_ref())?;
    let begin = Begin {
        action: "promote".into(),
        overlay: Some(scope.words()),
        commit: scope.commit.clone(),
        manifest_sha256: manifest.as_ref().map(|m| m.sha256.clone()),
        manifest: manifest.as_ref().map(|m| m.text.clone()),
        ..Begin::default()
    };
    let ran = run.execute(&mut items, begin, &[])?;
    let mut notes = notes(&workspace, &kernel, manifest.as_ref(), &scope);
    notes.extend(detect_overwritten(&items));
    Ok(Report {
        id: ran.id,
        dry_run: options.dry_run,
        overlay: scope.words(),
        commit: scope.commit,
        deleted: scope.deleted,
        manifest: manifest.map(|manifest| manifest.scope()),
        collision,
        notes,
        items,
        initramfs: ran.initramfs,
        source: workspace.source,
        image: workspace.image,
        elapsed: started.elapsed(),
    })
}

fn tracker(workspace: &Workspace) -> Result<Git> {
    let dir = workspace.tracker();
    let refused = |message: &str| {
        Error::new(Kind::Refused, message)
            .path(&dir)
            .advice("init the source")
    };
    if !dir.is_dir() {
        return Err(refused("the overlay tracker is not there"));
    }
    Git::at(&dir)?.ok_or_else(|| refused("the overlay tracker is no git repository"))
}

/// The overlay's checkout is what its HEAD says, where HEAD is what is promoted.
fn validate(git: &Git, options: &Options) -> Result<Status> {
    if options.overlay_ref.is_some() {
        return Ok(Status::default());
    }
    let status = Status::probe(git, true)?;
    if let Some((path, count)) = &status.changed {
        let more = match count - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!("the overlay has uncommitted changes: {path}{more}");
        return Err(Error::new(Kind::Refused, message)
            .path(git.dir())
            .advice("commit or stash them"));
    }
    if let Some(name) = overlooked::probe(git)? {
        let name = crate::error::printable(&name.to_string_lossy());
        let message =
            format!("the overlay has an uncommitted change that git was told to overlook: {name}");
        return Err(Error::new(Kind::Refused, message).path(git.dir()).advice(
            "git update-index --no-assume-unchanged --no-skip-worktree it, and commit or stash \
             it, or promote with --overlay-ref HEAD",
        ));
    }
    Ok(status)
}

fn notes(
    workspace: &Workspace,
    kernel: &Kernel,
    manifest: Option<&Manifest>,
    scope: &Scope,
) -> Vec<String> {
    let mut notes = freshness::detect_notes(kernel, manifest);
    if let (Some(manifest), Some(version)) = (manifest, &workspace.version) {
        if manifest.bsp_version != *version {
            notes.push(format!(
                "the build is of BSP {}, and the profile's image is {}",
                crate::error::printable(&manifest.bsp_version),
                crate::error::printable(version)
            ));
        }
    }
    if scope.deleted > 0 {
        notes.push(format!(
            "{} files that the range deletes stay in the image",
            scope.deleted
        ));
    }
    notes
}

/// What is promoted to where the initramfs tool writes as well.
fn detect_overwritten(items: &[Item]) -> impl Iterator<Item = String> {
    let places = items.iter().map(|item| item.place.in_image());
    places
        .filter(|place| initramfs::OUTPUTS.iter().any(|out| place == Path::new(out)))
        .map(|place| {
            let place = place.to_string_lossy();
            format!("{place} is what the initramfs tool writes, over what is promoted there")
        })
}

/// The `Linux_for_Tegra/` of `image`, which may name it or the folder that holds it.
pub(crate) fn image_tree(image: &Path) -> Result<PathBuf> {
    let inside = image.join(workspace::L4T);
    let dir = if inside.is_dir() {
        inside
    } else {
        image.into()
    };
    if dir.is_dir() {
        return Ok(dir);
    }
    Err(Error::new(Kind::Refused, "the BSP image is not there")
        .path(image)
        .advice("init the image, or name another one"))
}

/// What was promoted into the image, oldest first.
///
/// # Errors
/// The journal cannot be read.
pub fn history(image: &Path) -> Result<Vec<Record>> {
    Ok(history::read(&Sidecar::of(&image_tree(image)?))?.0)
}
