//! Stages the overlay and the last build into a BSP image tree, so that the image is ready to be
//! flashed.
//!
//! [`promote`] finds the workspace, passes the gates, plans the union of both channels, and only
//! then writes: all checks come before the first byte. Every run leaves a record in the image.
//! [`status`], [`history()`] and [`rollback()`] use these records and need no workspace.

mod apply;
mod coherence;
mod diff;
mod gates;
mod helper;
mod inputs;
mod options;
mod parallel;
mod path;
mod plan;
mod record;
mod refused;
mod report;
mod rollback;
mod status;
mod tree;
mod trees;

use std::path::Path;
use std::time::Instant;

use crate::error::Result;
use crate::progress::Progress;
use crate::promote::refused::refused;

use apply::initramfs;
use apply::run::{Run, RunOptions};
use gates::collision;
use gates::freshness::{self, Kernel};
use inputs::git::{Git, Status};
use inputs::manifest::{BuildState, Manifest};
use inputs::overlay::{self, Scope};
use inputs::workspace::image_tree;
use plan::destinations::enumerate;
use plan::union::Item;
use record::history as records;
use record::journal::{Begin, Sidecar};
use trees::Trees;

pub use coherence::{Check, CheckState, CoherenceReport, Problem, verify};
pub use diff::{Change, Difference, Kind as ContentKind, Side, differences};
pub use gates::collision::Collision;
pub use helper::client::COMMAND as HELPER_COMMAND;
pub use helper::server::serve as serve_helper;
pub use inputs::workspace::Workspace;
pub use options::{Options, Ownership};
pub use plan::union::{Channel, Item as PlannedItem};
pub use record::history::Record;
pub(crate) use refused::shell_word;
pub use report::{Counts, InitramfsOutcome, Report};
pub use rollback::{RollbackOptions, RollbackReport, rollback};
pub use status::{HeldState, StatusReport, status};

/// Promotes the overlay and the last build into the image.
///
/// # Errors
/// Any check of the refusal table fails. Then nothing was changed, except that new symlinks of
/// the overlay may have been written before a destination behind them is refused. If writing
/// fails, the files that were complete are kept. If the initramfs fails, it stays due, and the
/// next run rebuilds it.
pub fn promote(options: &Options, progress: &dyn Progress) -> Result<Report> {
    let started = Instant::now();
    let workspace = Workspace::probe(options.workspace.as_deref())?;
    let git = tracker(&workspace)?;
    let run_options = RunOptions {
        dry_run: options.dry_run,
        initramfs: !options.no_initramfs,
        ownership: options.ownership,
        recheck: options.recheck,
    };
    let mut run = Run::open(&workspace.image, Some(&git), run_options, progress)?;

    let status = validate(&git, options)?;
    let manifest = Manifest::read(&workspace.source)?;
    if status.head.is_none() && manifest.is_none() && options.overlay_ref.is_none() {
        return Err(refused(
            "nothing to promote, neither a commit in the overlay nor a build manifest",
            &workspace.source,
            "commit a file in the overlay, or build first",
        )
        .with_code("nothing-to-promote"));
    }
    let state = BuildState::read(&workspace.source)?;
    let kernel = Kernel::probe(&workspace.kernel_sources())?;
    freshness::check(&kernel, state.as_ref(), &workspace.kernel_sources())?;
    let collision = match options.overlay_ref {
        Some(_) => Collision::Skipped("a commit of the overlay was named"),
        None => collision::probe(&git, &status, options.offline, options.dry_run)?,
    };

    let (scope, tracked) = match &options.overlay_ref {
        Some(name) => overlay::probe_reference(&git, name)?,
        None => overlay::probe_head(&git, status.head.as_deref(), options.ownership)?,
    };
    let plan = |trees: &mut Trees| enumerate(trees, &tracked, manifest.as_ref());
    let mut items = plan(&mut run.trees)?;
    let begin = Begin {
        action: "promote".into(),
        overlay: Some(scope.words.clone()),
        commit: scope.commit.clone(),
        manifest_sha256: manifest.as_ref().map(|m| m.sha256.clone()),
        manifest: manifest.as_ref().map(|m| m.text.clone()),
        ..Begin::default()
    };
    let ran = run.execute(&mut items, &plan, begin, &[])?;
    let mut notes = notes(&workspace, &kernel, manifest.as_ref(), &scope);
    notes.extend(detect_overwritten(&items));
    Ok(Report {
        id: ran.id,
        dry_run: options.dry_run,
        overlay: scope.words,
        commit: scope.commit,
        manifest: manifest.as_ref().map(Manifest::scope),
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
        let advice = format!(
            "set up the overlay repository: git init {}",
            shell_word(&dir)
        );
        refused(message, &dir, advice).with_code("no-source")
    };
    if !dir.is_dir() {
        return Err(refused("no such directory, expected the overlay"));
    }
    Git::at(&dir)?.ok_or_else(|| refused("the overlay is not a git repository"))
}

/// Checks that the overlay's checkout matches its HEAD, if HEAD is promoted.
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
        let message = format!("uncommitted changes in the overlay: {path}{more}");
        let advice = format!(
            "commit them, or put them aside: git -C {} stash --include-untracked",
            shell_word(git.dir())
        );
        return Err(refused(message, git.dir(), advice).with_code("uncommitted-changes"));
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
                "the build is for BSP {}, the image of the profile is {}",
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

/// Returns warnings for promoted files that the initramfs tool overwrites.
fn detect_overwritten(items: &[Item]) -> impl Iterator<Item = String> {
    let places = items.iter().map(|item| item.place.in_image());
    places
        .filter(|place| initramfs::OUTPUTS.iter().any(|out| place == Path::new(out)))
        .map(|place| {
            let place = place.to_string_lossy();
            format!("the initramfs tool overwrites {place}, which is promoted")
        })
}

/// Returns the records of all runs in the image, oldest first.
///
/// # Errors
/// The journal cannot be read.
pub fn history(image: &Path) -> Result<Vec<Record>> {
    Ok(records::read(&Sidecar::of(&image_tree(image)?))?.0)
}
