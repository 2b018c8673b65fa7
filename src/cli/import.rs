//! `lbpayload import`

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::block::{ReadMode, Roots, SourceOptions};
use crate::durable::WriteMode;
use crate::error::{Error, Kind, Result, printable};
use crate::import::{ExistingPolicy, Options, Report, Tuning, import};
use crate::payload::{Cause, Problem};
use crate::probe::{the_copies, the_only_payload};
use crate::sys::share_one_heap;

use super::args::{ImportArgs, ProgressForm};
use super::exit::{self, Outcome};
use super::output::{Level, Out, human_bytes, labelled, lossy, to_stderr};
use super::protection::{JsonProtection, Protected, default_memory};
use super::source::{refuse_url, warn_if_unchecked};
use super::verify::{JsonRange, several};
use super::{progress, signals, sums};

#[derive(Serialize)]
struct JsonReport<'a> {
    #[serde(serialize_with = "lossy")]
    source: &'a Path,
    #[serde(serialize_with = "lossy")]
    dest: &'a Path,
    files: u64,
    bytes: u64,
    written: u64,
    kept: u64,
    replaced: u64,
    seconds: f64,
    read_mode: ReadMode,
    write_mode: Option<WriteMode>,
    io: Option<String>,
    dry_run: bool,
    checked: u64,
    unlisted: u64,
    missing: &'a [String],
    failed: Vec<JsonFailed<'a>>,
    failed_count: u64,
    /// The files that cannot be found because a header cannot be read.
    lost: u64,
    partial: u64,
    copies: Vec<JsonCopy<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protection: Option<JsonProtection>,
}

/// A file that was not imported.
#[derive(Serialize)]
struct JsonFailed<'a> {
    index: Option<u64>,
    name: Option<&'a str>,
    code: &'static str,
    message: String,
    /// The parts that cannot be read, in bytes from the start of the source.
    ranges: Vec<JsonRange>,
}

/// How much came from a copy.
#[derive(Serialize)]
struct JsonCopy<'a> {
    #[serde(serialize_with = "lossy")]
    device: &'a Path,
    bytes: u64,
}

pub(super) fn run(args: &ImportArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    refuse_an_image_as_dest(args)?;
    share_one_heap();
    let checksums = sums::read(&args.checksums, args.live_bootstrap.as_deref())?;
    let trust = args.trust.keys()?;
    signals::listen()?;
    let progress = progress::shown(form);
    // Keeps the device nodes that were created for devices without one, until they are open.
    let mut findings = Vec::new();
    if args.device.is_empty() {
        if args.input.offset.is_some() {
            let message = "`--offset` needs the image or device that it is in";
            return Err(Error::new(Kind::Usage, message)
                .advice("name it with --device, probing finds only payloads at offset 0"));
        }
        findings = match args.copies {
            true => the_copies(&Roots::default(), &*progress)?,
            false => vec![the_only_payload(&Roots::default(), &*progress)?],
        };
        for finding in &findings {
            log::info!("found a payload on {}", finding.path.display());
        }
    }
    let found = findings.iter().map(|finding| finding.path.as_path());
    let devices: Vec<&Path> = args
        .device
        .iter()
        .map(|d| d.as_path())
        .chain(found)
        .collect();
    let source = SourceOptions {
        direct: args.direct,
        ..SourceOptions::default()
    };
    let memory = args.memory.map_or_else(default_memory, NonZeroU64::get);
    let source = args.input.open(&devices, source)?;
    let devices: Vec<PathBuf> = devices.into_iter().map(Path::to_owned).collect();
    // The devices are open, so nodes that were created for them can go.
    drop(findings);
    args.input.confine(&devices, &[&args.dest]);
    // Only a device that was named is searched.
    let search = (!args.device.is_empty()).then_some(&*progress as _);
    let protected = args.input.protected(source, memory / 4, search, None)?;
    warn_if_unchecked(
        &*protected.source,
        protected.protection.is_some()
            || !trust.is_empty()
            || !args.checksums.is_empty()
            || args.live_bootstrap.is_some(),
    );
    let (memory, of_index) = match protected.protection {
        Some(_) => (memory / 4 * 3, memory / 4),
        None => (memory, memory / 2),
    };
    let payload = protected.payload()?.with_index_memory(
        usize::try_from(of_index)
            .unwrap_or(usize::MAX)
            .min(24 << 20),
    );
    let options = Options {
        dest: args.dest.clone(),
        files: args.files.clone(),
        checksums,
        trust,
        direct: args.direct,
        existing: args.existing,
        fail_fast: args.fail_fast,
        retries: args.retries,
        partial: args.partial,
        dry_run: args.dry_run,
        engine: args.io,
        tuning: Tuning::for_memory(memory),
        ..Options::default()
    };
    let report = import(&payload, options, &*progress, None);
    let device = payload.source().path();
    drop(progress);
    let report = report?;
    let mut out = Out::new();
    if args.json {
        out.json(&json(args, device, &report, &protected))?;
    } else if args.dry_run || !quiet {
        out.line(&words(args, device, &report))?;
    }
    out.end()?;
    protected.warn();
    if report.unlisted > 0 {
        log::warn!(
            "{} files have no checksum and were not checked",
            report.unlisted
        );
    }
    if !report.missing.is_empty() {
        let shown: Vec<String> = report
            .missing
            .iter()
            .take(100)
            .map(|n| printable(n))
            .collect();
        let count = report.missing_count;
        log::warn!(
            "{count} checksums are for files that are not in the payload: {}",
            several(&shown, count)
        );
    }
    if report.failed.is_empty() {
        return Ok(Outcome::Done);
    }
    let found = report.failed.count() - u64::from(report.lost > 0);
    let (count, files) = (found + report.lost, report.files + report.lost);
    let is_bad = |p: &Problem| matches!(p.cause, Cause::BadSectors { .. } | Cause::Lost { .. });
    let help = report.failed.iter().any(is_bad).then_some(
        "run it again to try the bad places once more (`--retries 5` tries harder), or name a \
         second copy of the payload too",
    );
    let partial = report.partial;
    for failed in report.failed {
        let error = failed.into_error(&**payload.source());
        exit::say("lbpayload", Level::Error, &error);
    }
    let summary = format!(
        "{count} of {files} files not imported, the others are in `{}`",
        args.dest.display()
    );
    to_stderr(&labelled("lbpayload", Level::Error, &summary));
    if partial > 0 {
        let note = format!("what could be read of {partial} of them is in `NAME.partial`");
        to_stderr(&labelled("lbpayload", Level::Note, &note));
    }
    if let Some(help) = help {
        to_stderr(&labelled("lbpayload", Level::Help, help));
    }
    Ok(Outcome::Wrong)
}

fn json<'a>(
    args: &'a ImportArgs,
    device: &'a Path,
    report: &'a Report,
    protected: &Protected,
) -> JsonReport<'a> {
    JsonReport {
        source: device,
        dest: &args.dest,
        files: report.files,
        bytes: report.bytes,
        written: report.written,
        kept: report.kept,
        replaced: report.replaced,
        seconds: report.elapsed.as_secs_f64(),
        read_mode: report.read_mode,
        write_mode: report.write_mode,
        io: report.engine.map(|engine| engine.to_string()),
        dry_run: args.dry_run,
        checked: report.checked,
        unlisted: report.unlisted,
        missing: &report.missing,
        failed: report
            .failed
            .iter()
            .map(|problem| JsonFailed {
                index: problem.index,
                name: problem.name.as_deref(),
                code: problem.slug(),
                message: problem.message(),
                ranges: JsonRange::all(problem, &*protected.source),
            })
            .collect(),
        failed_count: report.failed.count(),
        lost: report.lost,
        partial: report.partial,
        copies: report
            .from
            .iter()
            .map(|(device, bytes)| JsonCopy {
                device,
                bytes: *bytes,
            })
            .collect(),
        protection: protected.json(),
    }
}

/// Refuses `import IMAGE` and `import IMAGE DEST`, which lack --device.
fn refuse_an_image_as_dest(args: &ImportArgs) -> Result<()> {
    refuse_url(
        &args.dest,
        "a directory",
        "lbpayload import --device URL DIRECTORY",
    )?;
    let is_file = args.device.is_empty() && args.dest.is_file();
    let after = match &args.extra {
        None if !is_file => return Ok(()),
        None => "DIRECTORY".into(),
        Some(extra) if is_file => extra.to_string_lossy(),
        Some(extra) => {
            let message = format!("unexpected argument `{}`", extra.display());
            return Err(Error::new(Kind::Usage, message).advice("lbpayload import --help"));
        }
    };
    let image = args.dest.display();
    let message = format!("`{image}` is a file, expected a directory");
    Err(Error::new(Kind::Usage, message)
        .with_code("image-as-destination")
        .advice(format!("lbpayload import --device {image} {after}")))
}

/// Returns a one-line summary of what happened. It leaves out what did not happen.
fn words(args: &ImportArgs, device: &Path, report: &Report) -> String {
    let (device, dest) = (device.display(), args.dest.display());
    let may_differ = matches!(args.existing, ExistingPolicy::Keep);
    if report.written == 0 && report.kept > 0 && report.failed.is_empty() && !may_differ {
        return format!("all {} files are already in {dest}", report.kept);
    }
    let done = if args.dry_run {
        "would import"
    } else {
        "imported"
    };
    let mut line = format!(
        "{done} {} file{} ({}) from {device} into {dest}",
        report.written,
        if report.written == 1 { "" } else { "s" },
        human_bytes(report.bytes)
    );
    if !args.dry_run {
        line += &format!(" in {:.1} s", report.elapsed.as_secs_f64());
    }
    if report.replaced > 0 {
        line += &format!(", {} replaced", report.replaced);
    }
    if report.kept > 0 {
        line += &format!(", {} kept", report.kept);
    }
    line
}
