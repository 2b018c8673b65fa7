//! Imports a payload into a directory: the plan and the copy.

mod commit;
mod compare;
mod copy;
mod in_order;
mod job;
mod large;
mod partial;
mod plan;
mod recover;
mod run;
mod small;
mod tuning;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::block::{DirectPolicy, IoEngine, ReadMode, open_queue};
use crate::durable::{Directory, Staging, Store};
use crate::error::{Error, Kind, Result};
use crate::payload::{
    Cause, Checksums, Index, Payload, Problem, Problems, TrustedKeys, embedded_checksums,
    refuse_other_headers, signed_checksums,
};
use crate::progress::Progress;

use in_order::InOrder;

pub use crate::durable::WriteMode;
pub use commit::BatchLimits;
pub use plan::ExistingPolicy;
pub use tuning::Tuning;

#[cfg(feature = "internals")]
pub use job::{Copied, CopyJob, Done, Recovery};
#[cfg(feature = "internals")]
pub use plan::{Plan, Selection, Unreadable};

#[cfg(not(feature = "internals"))]
use job::{Copied, CopyJob, Recovery};
#[cfg(not(feature = "internals"))]
use plan::{Plan, Selection, Unreadable};

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
    /// The keys that may sign the payload. Unless there are none, a payload that none of them has
    /// signed is refused, and every file is checked against the signed checksums.
    pub trust: TrustedKeys,
    /// Whether the embedded checksums are used.
    pub use_embedded: bool,
    /// Whether to write with O_DIRECT.
    pub direct: DirectPolicy,
    /// What to do if a file with other content has the name.
    pub existing: ExistingPolicy,
    /// Whether a file that replaces another takes over its owner and mode.
    pub keep_owner_and_mode: bool,
    /// Whether the import stops at the first file that cannot be read.
    pub fail_fast: bool,
    /// How often bad sectors are read again, after everything that reads well was read.
    pub retries: u32,
    /// Whether what could be read of a damaged file is kept as `NAME.partial`, with zeros in place
    /// of the rest.
    pub partial: bool,
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
            trust: TrustedKeys::default(),
            use_embedded: true,
            direct: DirectPolicy::Auto,
            existing: ExistingPolicy::Replace,
            keep_owner_and_mode: false,
            fail_fast: false,
            retries: 1,
            partial: false,
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
    /// The number of files that cannot be found because a header before them cannot be read.
    pub lost: u64,
    /// The number of damaged files that were kept as `NAME.partial`.
    pub partial: u64,
    /// The number of bytes that came from each copy of the payload.
    pub from: Vec<(PathBuf, u64)>,
}

/// Imports `payload`.
///
/// Calls `tell`, if given, with the name of each file that is complete in the destination
/// and on stable storage, in the order of the payload. This includes the files that existed
/// already.
///
/// # Errors
/// The payload is damaged, the destination is too small or refuses the files or fails, or the
/// import is interrupted. Files that were complete before stay, and everything else is removed.
/// A file that cannot be read, or whose checksum does not match, is part of the report and
/// not an error here (unless [`Options::fail_fast`] is set).
pub fn import(
    payload: &Payload,
    mut options: Options,
    progress: &dyn Progress,
    tell: Option<&mut dyn FnMut(&str)>,
) -> Result<Report> {
    let started = Instant::now();
    let payload = &payload
        .recording_faults()
        .with_header_retries(options.retries);
    let (index, lost) = read_headers(payload, &options, progress)?;
    refuse_other_headers(&index, progress)?;
    let selection = Selection::find(&index, &options.files)?;
    let sums = &mut std::mem::take(&mut options.checksums);
    if !options.trust.is_empty() {
        let signed = signed_checksums(&index, &options.trust)?;
        sums.merge(&signed, payload.source().path())?;
    } else if options.use_embedded {
        add_embedded(&index, sums, &options)?;
    }
    let dest = open_destination(&options)?;
    if let (Some(dest), false) = (&dest, options.dry_run) {
        wait_for_lock(dest, progress)?;
    }
    let existing = options.existing;
    let mut plan = Plan::make(&index, &selection, dest.as_ref(), sums, existing, progress)?;
    if let (Some(dest), true) = (&dest, options.decides_first()) {
        let unreadable = options.unreadable();
        let decided = plan.decide(&index, dest, existing, unreadable, progress)?;
        plan.merge(&decided)?;
    }
    plan.refuse_too_little_room(dest.as_ref(), &options.dest)?;
    let (missing, missing_count) = missing(sums, &selection);
    let mut report = Report {
        files: plan.files,
        bytes: 0,
        written: 0,
        kept: plan.kept,
        replaced: 0,
        elapsed: Duration::ZERO,
        read_mode: payload.source().mode(),
        write_mode: None,
        engine: None,
        checked: plan.checked,
        unlisted: plan.unlisted,
        missing,
        missing_count,
        failed: Problems::default(),
        lost: 0,
        partial: 0,
        from: from(payload, &[]),
    };
    if options.dry_run {
        (report.bytes, report.written) = (plan.write_bytes, plan.write_files);
        report.replaced = plan.replaced;
    } else if let Some(dest) = &dest {
        let mut in_order = tell
            .map(|tell| InOrder::new(&plan, &index, tell))
            .transpose()?;
        let mut job = Writing {
            index: &index,
            sums,
            dest,
            options: &options,
            progress,
            report: &mut report,
            finished: &mut |number| {
                if let Some(in_order) = &mut in_order {
                    in_order.finished(number);
                }
            },
        };
        let result = job.run(&plan);
        if let Some(in_order) = in_order {
            in_order.end();
        }
        result?;
    }
    if let Some(mut problem) = lost {
        if let Cause::Lost { files, .. } = &mut problem.cause {
            if let Selection::Some(names) = &selection {
                *files = names.len() as u64 - plan.files;
            }
            report.lost = *files;
        }
        if report.lost > 0 {
            report.failed.add(problem);
        }
    }
    report.failed.sort();
    report.elapsed = started.elapsed();
    Ok(report)
}

impl Options {
    /// Returns whether all existing files are compared before anything is written. Otherwise
    /// missing files come first: the disk may be failing.
    fn decides_first(&self) -> bool {
        self.dry_run || self.existing == ExistingPolicy::Error
    }

    fn unreadable(&self) -> Unreadable {
        match self.fail_fast {
            true => Unreadable::Fails,
            false => Unreadable::Differs,
        }
    }
}

/// Reads the headers. Also returns the problem if one cannot be read, unless the import stops at
/// the first.
fn read_headers(
    payload: &Payload,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(Index, Option<Problem>)> {
    let mut lost = None;
    let index = Index::scan(payload, progress, &mut |problem| match problem.cause {
        Cause::Io(error) if !options.fail_fast => {
            let found = problem.index.unwrap_or(0);
            let files = payload.claimed_files().saturating_sub(found);
            let cause = Cause::Lost { error, files };
            lost = Some(Problem { cause, ..problem });
            Ok(())
        }
        _ => Err(problem.into_error(&**payload.source())),
    })?;
    Ok((index, lost))
}

/// Adds the embedded checksums to `sums`.
fn add_embedded(index: &Index, sums: &mut Checksums, options: &Options) -> Result<()> {
    let alone = sums.is_empty();
    match embedded_checksums(index, sums) {
        Err(e) if !alone && e.kind() == Kind::Syntax => {
            log::warn!("using only the checksums that were given: {e}");
            Ok(())
        }
        Err(e) if e.kind() == Kind::Syntax => Err(e.with_code("bad-checksums")),
        Err(e) if e.kind() == Kind::Io && !options.fail_fast => {
            log::warn!("not every file is checked, the embedded checksums are damaged: {e}");
            Ok(())
        }
        other => other,
    }
}

/// Returns how many bytes came from each copy. The first gave what no other one did.
fn from(payload: &Payload, bytes: &[u64]) -> Vec<(PathBuf, u64)> {
    let source = payload.source();
    let copies = match source.copies() {
        [] => std::slice::from_ref(source),
        copies => copies,
    };
    let bytes = bytes.iter().copied().chain(std::iter::repeat(0));
    copies
        .iter()
        .map(|copy| copy.path().to_owned())
        .zip(bytes)
        .collect()
}

/// The part of an import that writes.
struct Writing<'a> {
    index: &'a Index,
    sums: &'a Checksums,
    dest: &'a Directory,
    options: &'a Options,
    progress: &'a dyn Progress,
    report: &'a mut Report,
    finished: &'a mut dyn FnMut(u64),
}

impl Writing<'_> {
    fn run(&mut self, plan: &Plan) -> Result<()> {
        if plan.kept > 0 {
            // Flush before existing files are reported: they may not be on stable storage
            // yet, not even those of an earlier import that was interrupted.
            self.dest.flush()?;
        }
        let mut staged = plan.write_files > 0;
        if staged {
            self.write(plan)?;
        }
        if plan.undecided > 0 {
            let (existing, unreadable) = (self.options.existing, self.options.unreadable());
            let rest = plan.decide(self.index, self.dest, existing, unreadable, self.progress)?;
            rest.refuse_too_little_room(Some(self.dest), &self.options.dest)?;
            if rest.kept > 0 {
                self.dest.flush()?;
                self.report.kept += rest.kept;
                for entry in self.index.entries()? {
                    let index = entry?.index;
                    if rest.keeps(index) {
                        (self.finished)(index);
                    }
                }
            }
            if rest.write_files > 0 {
                staged = true;
                self.write(&rest)?;
            }
        }
        if !staged {
            // There is nothing to stage, but an interrupted run may have left files behind.
            remove_leftovers(self.dest)?;
        }
        partial::remove_ours(self.dest, self.index)
    }

    /// Stages the files that the plan writes, and gives them their names.
    fn write(&mut self, plan: &Plan) -> Result<()> {
        let options = self.options;
        let mut staging = Staging::prepare(self.dest, options.direct)?;
        if options.keep_owner_and_mode {
            staging = staging.keeping_owner_and_mode();
        }
        let staging = Arc::new(staging);
        let result = self.write_to(&staging, plan);
        remove(staging);
        result
    }

    fn write_to(&mut self, staging: &Arc<Staging>, plan: &Plan) -> Result<()> {
        let options = self.options;
        self.report.write_mode = Some(staging.mode());
        let mut tuning = options.tuning;
        if staging.is_in_memory() {
            tuning.small_writers = tuning.small_writers.max(tuning.hashers);
        }
        let (queue, engine) = open_queue(options.engine, tuning.in_flight(), tuning.jobs())
            .map_err(|e| {
                let doing = format!("start the {} engine", options.engine);
                Error::io(doing, e).with_code("io-engine")
            })?;
        self.report.engine = Some(engine);
        let job = CopyJob {
            index: self.index,
            plan,
            sums: self.sums,
            store: Arc::clone(staging) as Arc<dyn Store>,
            queue,
            tuning,
            recovery: (!options.fail_fast).then_some(Recovery {
                retries: options.retries,
                keep_partial: options.partial,
            }),
            progress: self.progress,
        };
        let finished = &mut self.finished;
        let copied = job.run(&mut |number, _| finished(number));
        let payload = self.index.payload();
        let copied = copied.map_err(|(error, mut copied)| {
            copied
                .failed
                .append(std::mem::take(&mut self.report.failed));
            let complete = self.report.written + copied.files + self.report.kept;
            explain(
                error,
                copied,
                complete,
                self.report.files,
                payload,
                &options.dest,
            )
        })?;
        if !copied.partial.is_empty() {
            self.report.partial +=
                partial::keep(self.dest, &**staging, self.index, &copied.partial)?;
        }
        let report = &mut *self.report;
        report.bytes += copied.bytes;
        report.written += copied.files;
        report.replaced += copied.replaced;
        report.failed.append(copied.failed);
        for (total, bytes) in report.from.iter_mut().zip(&copied.from) {
            total.1 += bytes;
        }
        Ok(())
    }
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
fn explain(
    error: Error,
    copied: Copied,
    complete: u64,
    files: u64,
    payload: &Payload,
    dest: &Path,
) -> Error {
    for problem in copied.failed {
        log::error!("{}", problem.into_error(&**payload.source()));
    }
    // An error about the source already has a path and advice.
    let error = error.or_path(dest);
    if complete == 0 {
        let advice = match error.kind() {
            Kind::Space => "make room in the destination",
            _ => "check that the destination exists and is writable",
        };
        return error.or_advice(advice);
    }
    let again = "run it again to go on from there";
    let note = format!(
        "{complete} of {files} files are complete in `{}`",
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
