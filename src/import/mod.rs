//! Imports a payload into a directory: the plan and the copy.

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

/// The options of an import.
#[derive(Debug)]
#[non_exhaustive]
pub struct Options {
    /// The directory for the files. It is created if it is missing.
    pub dest: PathBuf,
    /// Whether missing parent directories are created too.
    pub make_parents: bool,
    /// The names of the files to import. Empty means all files.
    pub files: Vec<String>,
    /// Checksums from other files. The embedded ones are added to them.
    pub checksums: Checksums,
    /// Whether the embedded checksums are used.
    pub use_embedded: bool,
    /// Whether to write with O_DIRECT.
    pub direct: DirectPolicy,
    /// What to do if a file with other content has the name.
    pub existing: ExistingPolicy,
    /// Whether a file that replaces another takes over its owner and mode.
    pub keep_owner_and_mode: bool,
    /// Whether to report only what would be done.
    pub dry_run: bool,
    /// What performs reads and writes in parallel.
    pub engine: IoEngine,
    /// The sizes and depths of the copy. [`Tuning::for_memory`] fits them to a memory limit.
    pub tuning: Tuning,
}

impl Default for Options {
    /// Returns the options of the command without arguments: all files, into
    /// `/external/distfiles`, which is created with its parent directories, and with checksums
    /// checked if the payload has them.
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

/// The result of an import.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// The number of files examined: written, kept and failed.
    pub files: u64,
    /// The number of bytes written.
    pub bytes: u64,
    /// The number of files written, including those that replaced another.
    pub written: u64,
    /// The number of files that existed already.
    pub kept: u64,
    /// The number of files that replaced another.
    pub replaced: u64,
    /// The time that the import took.
    pub elapsed: Duration,
    /// How the source was read.
    pub read_mode: ReadMode,
    /// How large files were written. `None` in a dry run without a destination.
    pub write_mode: Option<WriteMode>,
    /// What performed reads and writes. `None` if nothing was written.
    pub engine: Option<IoEngine>,
    /// The number of files that were checked against a checksum.
    pub checked: u64,
    /// The number of files without a checksum, if others have one.
    pub unlisted: u64,
    /// The names that have a checksum and are not in the payload: the first of them.
    pub missing: Vec<String>,
    /// The number of all such names.
    pub missing_count: u64,
    /// The problems of the files that were not written.
    pub failed: Problems,
}

/// Imports `payload`.
///
/// Calls `tell`, if given, with the name of each file that is complete in the destination
/// and on stable storage, in the order of the payload. This includes the files that existed
/// already.
///
/// # Errors
/// The payload is damaged, the destination is too small or refuses the files, a device
/// fails, or the import is interrupted. Files that were complete before stay, and
/// everything else is removed. A checksum that does not match is part of the report and
/// not an error here.
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
                log::warn!("using only the checksums that were given: {e}");
            }
            Err(e) if e.kind() == Kind::Syntax => {
                return Err(e.with_code("bad-checksums"));
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
        if plan.kept > 0 {
            // Flush before existing files are reported: they may not be on stable storage
            // yet, not even those of an earlier import that was interrupted.
            dest.flush()?;
        }
        let mut in_order = tell
            .map(|tell| InOrder::new(&plan, &index, tell))
            .transpose()?;
        let result = if plan.write_files == 0 {
            // There is nothing to stage, but an interrupted run may have left files behind.
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
    let opened = open_queue(options.engine, tuning.in_flight(), tuning.jobs());
    let (queue, engine) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            remove(staging);
            let doing = format!("start the {} engine", options.engine);
            return Err(Error::io(doing, e).with_code("io-engine"));
        }
    };
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
    remove(staging);
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

/// Removes the staging directory, which nothing else uses by now.
fn remove(staging: Arc<Staging>) {
    if let Some(staging) = Arc::into_inner(staging) {
        // Not empty if a failure left files in it. The next run removes them.
        if let Err(e) = staging.remove() {
            log::debug!("the staging directory stays for the next run: {e}");
        }
    }
}

/// Logs the files that failed, and adds to the error what is complete, and advice.
fn explain(error: Error, copied: Copied, plan: &Plan, payload: &Payload, dest: &Path) -> Error {
    for problem in copied.failed {
        log::error!("{}", problem.into_error(&**payload.source()));
    }
    // An error about the source already has a path and advice.
    let error = error.or_path(dest);
    let complete = copied.files + plan.kept;
    if complete == 0 {
        let advice = match error.kind() {
            Kind::Space => "make room in the destination",
            _ => "check that the destination exists and is writable",
        };
        return error.or_advice(advice);
    }
    let again = "run it again to go on from there";
    let note = format!(
        "{complete} of {} files are complete in `{}`",
        plan.files,
        dest.display()
    );
    let error = error.note(note);
    match error.kind() {
        Kind::Interrupted => error.advice(again),
        Kind::Space => error.or_advice("make room in the destination, then run it again"),
        _ => error.or_advice(again),
    }
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
    if options.dry_run && !options.dest.exists() && !options.dest.is_symlink() {
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

/// Waits for the lock. Two imports into one directory would disturb each other's staged files.
fn wait_for_lock(dest: &Directory, progress: &dyn Progress) -> Result<()> {
    let mut said = false;
    while !dest.try_lock()? {
        if !said {
            log::warn!("waiting for another import into {}", dest.path().display());
            said = true;
        }
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
