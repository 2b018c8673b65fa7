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
mod leftovers;
mod options;
mod parallel;
mod path;
mod plan;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod readers;
mod record;
mod refused;
mod report;
mod rollback;
mod status;
mod tree;
mod trees;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::{Error, Result, printable};
use crate::progress::Progress;
use crate::promote::refused::refused;

use apply::initramfs;
use apply::run::{Refresh, Run, RunOptions};
use gates::kernel::Kernel;
use gates::{collision, freshness, outside};
use inputs::git::{Git, Status};
use inputs::manifest::{BuildState, Manifest};
use inputs::overlay::{self, Scope, Tracked};
use inputs::workspace::image_tree;
use leftovers::Leftovers;
use path::{Place, RelPath};
use plan::destinations::enumerate;
use plan::union::Item;
use record::history as records;
use record::journal::Begin;
use record::overlaid;
use record::sidecar::Sidecar;
use trees::Trees;

pub use coherence::{Check, CheckState, CoherenceReport, Problem, verify};
pub use diff::{Change, Difference, Kind as ContentKind, Side, differences};
pub use gates::collision::Collision;
pub use helper::client::COMMAND as HELPER_COMMAND;
pub use helper::server::serve as serve_helper;
pub use inputs::deviations::Deviation;
pub use inputs::workspace::Workspace;
pub use options::{Options, Ownership};
pub use plan::union::{Channel, Item as PlannedItem};
pub use record::history::Record;
pub(crate) use refused::shell_word;
pub use report::{Counts, Fate, InitramfsOutcome, Report};
pub use rollback::{RollbackOptions, RollbackReport, rollback};
pub use status::{HeldState, StatusReport, status};

/// What a promote reads before it looks at an image.
struct Inputs {
    manifest: Option<Manifest>,
    kernel: Kernel,
    collision: Collision,
    scope: Scope,
    tracked: Vec<Tracked>,
    deviations: Vec<Deviation>,
}

/// What a promote is about to do to one image.
struct Planned {
    items: Vec<Item>,
    leftovers: Leftovers,
    never_promoted: Vec<RelPath>,
}

/// Promotes the overlay and the last build into the image, or into several. Returns one report for
/// each. All images are checked before anything is written to the first.
///
/// # Errors
/// Any check of the refusal table fails. Then nothing was changed, except that new symlinks of
/// the overlay may have been written before a destination behind them is refused. If writing
/// fails, the files that were complete are kept. If the initramfs fails, it stays due, and the
/// next run rebuilds it.
pub fn promote(options: &Options, progress: &dyn Progress) -> Result<Vec<Report>> {
    let started = Instant::now();
    let workspace = options.workspace.as_deref();
    let workspace = match options.images.is_empty() {
        true => Workspace::probe(workspace, options.strict)?,
        false => Workspace::resolve(workspace, options.strict)?,
    };
    let images = images(options, &workspace)?;
    let git = tracker(&workspace)?;
    let run_options = RunOptions {
        dry_run: options.dry_run,
        refresh: match (options.refresh_initramfs, options.no_initramfs) {
            (true, _) => Refresh::Always,
            (false, true) => Refresh::Never,
            (false, false) => Refresh::IfDue,
        },
        ownership: options.ownership,
        recheck: options.recheck,
    };
    let mut runs = Vec::new();
    for image in &images {
        runs.push(Run::open(image, Some(&git), run_options, progress)?);
    }
    let inputs = read(&workspace, &git, &images, options)?;
    let plan = |trees: &mut Trees| {
        let manifest = inputs.manifest.as_ref();
        enumerate(trees, &inputs.tracked, manifest, options.strict)
    };
    let mut planned = Vec::new();
    for run in &mut runs {
        planned.push(plan_image(run, &plan, &inputs, &images, options)?);
    }
    let pairs = runs.iter_mut().zip(&mut planned);
    let mut pairs: Vec<_> = pairs
        .map(|(run, planned)| (run, &mut planned.items[..]))
        .collect();
    let compared = Run::compare_all(&mut pairs)?;
    let mut prepared = Vec::new();
    for ((run, planned), before) in runs.iter_mut().zip(&planned).zip(compared) {
        prepared.push(run.prepare(&planned.items, before, &planned.leftovers.dirs)?);
    }
    let mut reports = Vec::new();
    let each = runs.iter_mut().zip(planned).zip(prepared).zip(&images);
    for (number, (((run, planned), prepared), image)) in each.enumerate() {
        let Planned {
            mut items,
            leftovers,
            never_promoted,
        } = planned;
        let plan = |trees: &mut Trees| {
            let mut items = plan(trees)?;
            let wanted: HashSet<&Place> = items.iter().map(|item| &item.place).collect();
            let more = leftovers.items.iter();
            let more: Vec<Item> = more
                .filter(|item| !wanted.contains(&item.place))
                .cloned()
                .collect();
            items.extend(more);
            Ok(items)
        };
        let ran = run.write(&mut items, &plan, begin(&inputs), prepared);
        let ran = ran.map_err(|e| match images.len() {
            1 => e,
            all => e.note(format!(
                "image {} of {all}, those before it are done and those after it are unchanged",
                number + 1
            )),
        })?;
        let mut deviations = inputs.deviations.clone();
        deviations.extend(doubles(&items, inputs.manifest.as_ref()));
        let mut notes = notes(&workspace, &inputs);
        notes.extend(detect_overwritten(&items));
        reports.push(Report {
            id: ran.id,
            dry_run: options.dry_run,
            overlay: inputs.scope.words.clone(),
            commit: inputs.scope.commit.clone(),
            manifest: inputs.manifest.as_ref().map(Manifest::scope),
            collision: inputs.collision.clone(),
            notes,
            deviations,
            leftovers: leftovers.files,
            never_promoted,
            items,
            initramfs: ran.initramfs,
            source: workspace.source.clone(),
            image: image.clone(),
            elapsed: started.elapsed(),
        });
    }
    Ok(reports)
}

/// Returns the images to promote into.
fn images(options: &Options, workspace: &Workspace) -> Result<Vec<PathBuf>> {
    if options.images.is_empty() {
        return Ok(vec![workspace.image.clone()]);
    }
    let mut images: Vec<PathBuf> = Vec::new();
    for named in &options.images {
        let image = image_tree(named)?;
        let image = image
            .canonicalize()
            .map_err(|e| Error::io("open", e).with_path(&image))?;
        if images.contains(&image) {
            let advice = "name each image once";
            return Err(refused("the image is named twice", image, advice));
        }
        images.push(image);
    }
    Ok(images)
}

/// Reads both channels and passes the gates.
fn read(workspace: &Workspace, git: &Git, images: &[PathBuf], options: &Options) -> Result<Inputs> {
    let (source, sources) = (&workspace.source, workspace.kernel_sources());
    let status = validate(git, options)?;
    // A manifest may name the image by the path in the profile, too.
    let mut known = images.to_vec();
    known.push(workspace.image.clone());
    let manifest = Manifest::read(source, &known, options.strict)?;
    if status.head.is_none() && manifest.is_none() && options.overlay_ref.is_none() {
        return Err(refused(
            "nothing to promote, neither a commit in the overlay nor a build manifest",
            source,
            "commit a file in the overlay, or build first",
        )
        .with_code("nothing-to-promote"));
    }
    let state = BuildState::read(source, options.strict)?;
    let kernel = Kernel::probe(&sources, state.as_ref())?;
    freshness::check(&kernel, &sources)?;
    if let Some(manifest) = manifest.as_ref().filter(|_| !options.allow_outside) {
        let mut roots = vec![workspace.root.clone(), source.clone(), sources];
        roots.extend(kernel.places.iter().cloned());
        outside::check(manifest, &roots)?;
    }
    let collision = match options.overlay_ref {
        Some(_) => Collision::Skipped("a commit of the overlay was named"),
        None => collision::probe(git, &status, options.offline, options.dry_run)?,
    };
    let (scope, tracked) = match &options.overlay_ref {
        Some(name) => overlay::probe_reference(git, name, options.ownership)?,
        None => overlay::probe_head(git, status.head.as_deref(), options.ownership)?,
    };
    let mut deviations = workspace.deviations.clone();
    deviations.extend(manifest.iter().flat_map(|m| m.deviations.clone()));
    deviations.extend(state.into_iter().flat_map(|state| state.deviations));
    Ok(Inputs {
        manifest,
        kernel,
        collision,
        scope,
        tracked,
        deviations,
    })
}

/// Plans what is to be done to one image.
fn plan_image(
    run: &mut Run<'_>,
    plan: &dyn Fn(&mut Trees) -> Result<Vec<Item>>,
    inputs: &Inputs,
    images: &[PathBuf],
    options: &Options,
) -> Result<Planned> {
    let mut items = plan(&mut run.trees)?;
    let wanted: HashSet<&Place> = items.iter().map(|item| &item.place).collect();
    let known = overlaid::read(&run.sidecar);
    let is_clean = known.is_some_and(|places| places.iter().all(|place| wanted.contains(place)));
    let records = match run.records_if(!is_clean) {
        Ok(records) => records,
        Err(e) if options.dry_run && is_denied(&e) => {
            log::warn!("{e} (what earlier promotes left behind is not known)");
            &[]
        }
        Err(e) => return Err(e),
    };
    let manifest = inputs.manifest.as_ref();
    let never_promoted = leftovers::never_promoted(records, manifest, images);
    let leftovers = match options.overlay_ref {
        // Another commit of the overlay may lack files that HEAD has.
        Some(_) => Leftovers::default(),
        None if records.is_empty() => Leftovers::default(),
        None => leftovers::find(run, &items, options.prune)?,
    };
    items.extend(leftovers.items.iter().cloned());
    Ok(Planned {
        items,
        leftovers,
        never_promoted,
    })
}

fn is_denied(error: &Error) -> bool {
    let source = error.io_error();
    source.is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
}

fn begin(inputs: &Inputs) -> Begin {
    let manifest = inputs.manifest.as_ref();
    Begin {
        action: "promote".into(),
        overlay: Some(inputs.scope.words.clone()),
        commit: inputs.scope.commit.clone(),
        manifest_sha256: manifest.map(|manifest| manifest.sha256.clone()),
        manifest: manifest.map(|manifest| manifest.text.clone()),
        ..Begin::default()
    }
}

/// Returns the deviation of destinations that two artifacts with the same bytes have, and logs it.
fn doubles(items: &[Item], manifest: Option<&Manifest>) -> Option<Deviation> {
    let mut doubles = items.iter().filter(|item| item.double.is_some());
    let first = doubles.next()?;
    let deviation = Deviation {
        path: manifest?.path.clone(),
        field: "artifacts[].dst".into(),
        message: format!("has two sources with the same bytes: {}", first.dst),
        count: 1 + doubles.count() as u64,
    };
    log::warn!("{deviation}");
    Some(deviation)
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
    let git = match dir.is_symlink() {
        // A symlink to a directory of another repository is a tracker, too.
        true => Git::around(&dir)?,
        false => Git::at(&dir)?,
    };
    git.ok_or_else(|| refused("the overlay is not a git repository"))
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

fn notes(workspace: &Workspace, inputs: &Inputs) -> Vec<String> {
    let manifest = inputs.manifest.as_ref();
    let mut notes = freshness::detect_notes(&inputs.kernel, manifest);
    let customized = manifest.map_or(&[][..], |manifest| &manifest.customized);
    if !customized.is_empty() {
        let names: Vec<String> = customized.iter().map(|n| printable(n)).collect();
        notes.push(format!("customized and committed: {}", names.join(", ")));
    }
    if let (Some(manifest), Some(version)) = (manifest, &workspace.version) {
        if !manifest.bsp_version.is_empty() && manifest.bsp_version != *version {
            notes.push(format!(
                "the build is for BSP {}, the image of the profile is {}",
                printable(&manifest.bsp_version),
                printable(version)
            ));
        }
    }
    if inputs.scope.deleted > 0 {
        notes.push(format!(
            "{} files that the range deletes stay in the image",
            inputs.scope.deleted
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
