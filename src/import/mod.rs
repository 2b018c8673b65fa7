//! From a device into a directory: the plan, and the copy.

mod commit;
mod compare;
mod copy;
mod in_order;
mod large;
mod plan;
mod small;
mod tuning;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::block::{DirectPolicy, IoEngine, ReadMode, open_queue};
use crate::durable::{Directory, Staging, Store};
use crate::error::{Error, Kind, Result};
use crate::payload::{Checksums, Index, Payload, Problems, embedded_checksums};
use crate::progress::Progress;

use in_order::InOrder;

pub use crate::durable::WriteMode;
pub use commit::BatchLimits;
pub use plan::ExistingPolicy;
pub use tuning::Tuning;

#[cfg(feature = "internals")]
pub use copy::{Copied, CopyJob, Done};
#[cfg(feature = "internals")]
pub use plan::{Plan, Selection};

#[cfg(not(feature = "internals"))]
use copy::{Copied, CopyJob};
#[cfg(not(feature = "internals"))]
use plan::{Plan, Selection};

/// What to import, and how.
#[derive(Debug)]
#[non_exhaustive]
pub struct Options {
    /// The directory the files go to; made where it is missing.
    pub dest: PathBuf,
    /// Whether directories above it are made too.
    pub make_parents: bool,
    /// Which files; all where it is empty.
    pub files: Vec<String>,
    /// Checksums from outside; the embedded ones are added.
    pub checksums: Checksums,
    /// Whether the embedded checksums are looked at.
    pub use_embedded: bool,
    /// Whether to write with O_DIRECT.
    pub direct: DirectPolicy,
    /// What to do where a file with other content has the name.
    pub existing: ExistingPolicy,
    /// Whether a file that replaces another gets its owner and mode.
    pub keep_owner_and_mode: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// What keeps reads and writes in flight.
    pub engine: IoEngine,
    /// Sizes and depths of the copy; [`Tuning::for_memory`] fits them to a budget.
    pub tuning: Tuning,
}

impl Default for Options {
    /// All files, as the command does without options: into `/external/distfiles`, which is
    /// made with the directories above it, and checked where the payload has checksums.
    fn default() -> Self {
        Self {
            dest: "/external/distfiles".into(),
            make_parents: true,
            files: Vec::new(),
            checksums: Checksums::new(),
            use_embedded: true,
            direct: DirectPolicy::Auto,
            existing: ExistingPolicy::Replace,
            keep_owner_and_mode: false,
            dry_run: false,
            engine: IoEngine::Auto,
            tuning: Tuning::default(),
        }
    }
}

/// What was done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// Files that were looked at: written, kept and failed.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Files written, those that replaced another included.
    pub written: u64,
    /// Files that were there already.
    pub kept: u64,
    /// Files that replaced another.
    pub replaced: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// How the source was read.
    pub read_mode: ReadMode,
    /// How large files were written; `None` in a dry run without a destination.
    pub write_mode: Option<WriteMode>,
    /// What kept reads and writes in flight; `None` where nothing was written.
    pub engine: Option<IoEngine>,
    /// Files checked against a checksum.
    pub checked: u64,
    /// Files without a checksum, where others have one.
    pub unlisted: u64,
    /// Names with a checksum that the payload does not hold: the first of them.
    pub missing: Vec<String>,
    /// How many there are.
    pub missing_count: u64,
    /// What is wrong with files that were not written.
    pub failed: Problems,
}

/// Imports `payload`. `tell`, where there is one, hears the name of each file that is
/// complete in the destination and on stable storage, those that were there already
/// among them, in the order of the payload.
///
/// # Errors
/// A broken payload, a destination that refuses or is too small, a device that
/// fails, an interruption. Files that were complete before stay; nothing else
/// does. A checksum that does not match is in the report and not an error here.
pub fn import(
    payload: &Payload,
    mut options: Options,
    progress: &dyn Progress,
    tell: Option<&mut dyn FnMut(&str)>,
) -> Result<Report> {
    let started = Instant::now();
    let index = Index::strict(payload, progress)?;
    let selection = Selection::find(&index, &options.files)?;
    let mut sums = std::mem::take(&mut options.checksums);
    if options.use_embedded {
        let alone = sums.is_empty();
        match embedded_checksums(&index, &mut sums) {
            Err(e) if !alone && e.kind() == Kind::Syntax => {
                log::warn!("only the checksums that were given count: {e}");
            }
            Err(e) if e.kind() == Kind::Syntax => {
                return Err(e.advice("with --checksums FILE those count alone"));
            }
            other => other?,
        }
    }
    let dest = open_destination(&options)?;
    if let (Some(dest), false) = (&dest, options.dry_run) {
        wait_for_lock(dest, progress)?;
    }
    let mut plan = Plan::make(
        &index,
        &selection,
        dest.as_ref(),
        &mut sums,
        options.existing,
        progress,
    )?;
    plan.refuse_too_little_room(dest.as_ref(), &options.dest)?;
    let (missing, missing_count) = missing(&sums, &selection);
    let mut report = Report {
        files: plan.files,
        bytes: plan.write_bytes,
        written: plan.write_files,
        kept: plan.kept,
        replaced: plan.replaced,
        elapsed: Duration::ZERO,
        read_mode: payload.source().mode(),
        write_mode: None,
        engine: None,
        checked: plan.checked,
        unlisted: plan.unlisted,
        missing,
        missing_count,
        failed: std::mem::take(&mut plan.failed),
    };
    if let (Some(dest), false) = (&dest, options.dry_run) {
        let mut in_order = tell
            .map(|tell| InOrder::new(&plan, &index, tell))
            .transpose()?;
        let result = if plan.write_files == 0 {
            // Nothing to stage; an interrupted run's leftovers go all the same.
            remove_leftovers(dest)
        } else {
            write(
                &index,
                &plan,
                &sums,
                dest,
                &options,
                progress,
                &mut report,
                &mut |number| {
                    if let Some(in_order) = &mut in_order {
                        in_order.finished(number);
                    }
                },
            )
        };
        if let Some(in_order) = in_order {
            in_order.end();
        }
        result?;
    }
    if let (Some(dest), true) = (&dest, plan.kept > 0 && !options.dry_run) {
        // Who wrote them may have synced nothing, an earlier import's last moments
        // included.
        dest.flush()?;
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

/// Stages the files that the plan writes, and gives them their names.
#[allow(clippy::too_many_arguments)] // each is another thing; a struct would be their list again
fn write(
    index: &Index,
    plan: &Plan,
    sums: &Checksums,
    dest: &Directory,
    options: &Options,
    progress: &dyn Progress,
    report: &mut Report,
    finished: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut staging = Staging::prepare(dest, options.direct)?;
    if options.keep_owner_and_mode {
        staging = staging.keeping_owner_and_mode();
    }
    let staging = Arc::new(staging);
    report.write_mode = Some(staging.mode());
    let mut tuning = options.tuning;
    if staging.is_in_memory() {
        tuning.small_writers = tuning.small_writers.max(tuning.hashers);
    }
    let (queue, engine) =
        open_queue(options.engine, tuning.in_flight(), tuning.jobs()).map_err(|e| {
            Error::io(format!("start the {} engine", options.engine), e)
                .advice("--io threads works everywhere")
        })?;
    report.engine = Some(engine);
    let job = CopyJob {
        index,
        plan,
        sums,
        store: Arc::clone(&staging) as Arc<dyn Store>,
        queue,
        tuning,
        progress,
    };
    let result = job.run(&mut |number, _| finished(number));
    if let Some(staging) = Arc::into_inner(staging) {
        // Not empty after a failure that left something: the next run's.
        if let Err(e) = staging.remove() {
            log::debug!("the staging directory stays for the next run: {e}");
        }
    }
    let copied = result.map_err(|(error, mut copied)| {
        copied.failed.append(std::mem::take(&mut report.failed));
        explain(error, copied, plan, index.payload(), &options.dest)
    })?;
    report.bytes = copied.bytes;
    report.written = copied.files;
    report.replaced = copied.replaced;
    report.failed.append(copied.failed);
    Ok(())
}

/// Says what an error that came half-way left behind.
fn explain(error: Error, copied: Copied, plan: &Plan, payload: &Payload, dest: &Path) -> Error {
    for problem in copied.failed {
        log::error!("{}", problem.into_error(&**payload.source()));
    }
    log::error!(
        "{} of {} files are complete in {}; run it again to go on from there",
        copied.files + plan.kept,
        plan.files,
        dest.display()
    );
    let advice = match error.kind() {
        Kind::Space => "make room in the destination",
        _ => "see that the destination is there and may be written to",
    };
    // An error about the source says both already.
    error.or_path(dest).or_advice(advice)
}

fn missing(sums: &Checksums, selection: &Selection) -> (Vec<String>, u64) {
    match selection {
        Selection::All => {
            let names = sums.unseen().take(Problems::MAX).map(str::to_owned);
            (names.collect(), sums.unseen().count() as u64)
        }
        Selection::Some(_) => (Vec::new(), 0),
    }
}

fn open_destination(options: &Options) -> Result<Option<Directory>> {
    Directory::refuse_in_dev(&options.dest)?;
    if options.dry_run && !options.dest.exists() {
        return Ok(None);
    }
    if options.dry_run {
        return Directory::open(&options.dest).map(Some);
    }
    Directory::open_or_make(&options.dest, options.make_parents).map(Some)
}

fn remove_leftovers(dest: &Directory) -> Result<()> {
    use crate::durable::{Lookup, STAGING_NAME};
    if matches!(dest.lookup(STAGING_NAME)?, Lookup::Directory) {
        let staging = Staging::prepare(dest, DirectPolicy::Never)?;
        staging
            .remove()
            .map_err(|e| Error::io("remove", e).with_path(dest.path().join(STAGING_NAME)))?;
    }
    Ok(())
}

/// Two imports into one directory would tread on each other's staged files.
fn wait_for_lock(dest: &Directory, progress: &dyn Progress) -> Result<()> {
    let mut said = false;
    while !dest.try_lock()? {
        if !said {
            log::warn!(
                "another import into {} is running; waiting for it to end",
                dest.path().display()
            );
            said = true;
        }
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
