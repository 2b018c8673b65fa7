//! `lbpayload verify`

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::block::{Source, SourceOptions};
use crate::error::{Result, SourceFailure, printable};
use crate::format::Dialect;
use crate::payload::{Cause, Index, Payload, Problem, signed_checksums};
use crate::verify::{FileVerdict, Report, verify};

use super::args::{ProgressForm, VerifyArgs};
use super::damage::{Damage, JsonDamage};
use super::exit::{self, Outcome};
use super::output::{Level, Out, human_bytes, labelled, lossy, to_stderr};
use super::protection::default_memory;
use super::source::warn_if_unchecked;
use super::{map, progress, signals, sums};

/// A problem in the form that `verify --json` and `list --json` print.
#[derive(Serialize)]
pub(super) struct JsonProblem {
    index: Option<u64>,
    name: Option<String>,
    offset: u64,
    kind: &'static str,
    message: String,
    /// The parts that cannot be read, in bytes from the start of the source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<JsonRange>,
}

/// A part of the source.
#[derive(Serialize)]
pub(super) struct JsonRange {
    offset: u64,
    length: u64,
}

impl JsonRange {
    /// Returns the parts of `source` that cannot be read.
    pub(super) fn all(problem: &Problem, source: &dyn Source) -> Vec<Self> {
        let Cause::BadSectors { ranges, .. } = &problem.cause else {
            return Vec::new();
        };
        Self::of(ranges, source)
    }

    fn of(ranges: &[Range<u64>], source: &dyn Source) -> Vec<Self> {
        let range = |range: &Range<u64>| Self {
            offset: source.start() + range.start,
            length: range.end - range.start,
        };
        ranges.iter().map(range).collect()
    }
}

impl JsonProblem {
    fn new(problem: &Problem, source: &dyn Source) -> Self {
        Self {
            index: problem.index,
            name: problem.name.clone(),
            offset: source.start().saturating_add(problem.offset),
            kind: problem.slug(),
            message: problem.message(),
            ranges: JsonRange::all(problem, source),
        }
    }

    pub(super) fn all(problems: &[Problem], source: &dyn Source) -> Vec<Self> {
        let problems = problems.iter();
        problems.map(|problem| Self::new(problem, source)).collect()
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    #[serde(serialize_with = "lossy")]
    source: &'a Path,
    dialect: Option<Dialect>,
    files: u64,
    payload_bytes: u64,
    ok: bool,
    problems: Vec<JsonProblem>,
    more_problems: u64,
    matched: u64,
    unlisted: u64,
    /// The sectors that cannot be read from the first copy.
    bad: Vec<JsonRange>,
    from_other_copies: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    protection: Option<JsonDamage>,
}

pub(super) fn run(args: &VerifyArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    let mut sums = sums::read(&args.checksums, args.live_bootstrap.as_deref())?;
    let trust = args.trust.keys()?;
    signals::listen()?;
    let paths: Vec<&Path> = match &args.source {
        Some(source) => vec![source],
        None => args.device.iter().map(|device| device.as_path()).collect(),
    };
    let source = args.input.open(&paths, SourceOptions::default())?;
    let map = args.map.as_deref();
    let written: Vec<&Path> = map.and_then(Path::parent).into_iter().collect();
    args.input.confine(&paths, &written);
    let progress = progress::shown(form);
    let protected = args
        .input
        .protected(source, default_memory(), Some(&*progress), None)?;
    let source = Arc::clone(&protected.source);
    warn_if_unchecked(
        &*source,
        protected.protection.is_some()
            || !trust.is_empty()
            || !args.checksums.is_empty()
            || args.live_bootstrap.is_some(),
    );
    let mut out = Out::new();
    let payload = match Payload::try_open(Arc::clone(&source)) {
        // All headers are read, a copy of them in the trailer does not count.
        Ok(payload) if protected.protection.is_some() => payload,
        Ok(payload) => protected.with_headers(payload),
        Err(problem) => {
            if args.json {
                out.json(&JsonReport {
                    source: source.path(),
                    dialect: None,
                    files: 0,
                    payload_bytes: 0,
                    ok: false,
                    problems: vec![JsonProblem::new(&problem, &*source)],
                    more_problems: 0,
                    matched: 0,
                    unlisted: 0,
                    bad: Vec::new(),
                    from_other_copies: 0,
                    protection: None,
                })?;
                out.end()?;
            }
            return Err(problem.into_error(&*source));
        }
    };
    if !trust.is_empty() {
        let signed = signed_checksums(&Index::strict(&payload, &*progress)?, &trust)?;
        sums.merge(&signed, source.path())?;
    }
    let mut said = Ok(());
    let mut unlisted = Vec::new();
    let result = verify(&payload, sums, &*progress, &mut |name, verdict| {
        let word = match verdict {
            FileVerdict::Ok => "OK",
            FileVerdict::Failed => "FAILED",
            FileVerdict::Unlisted => {
                if unlisted.len() < 100 {
                    unlisted.push(printable(name));
                }
                return;
            }
        };
        // As with sha256sum --quiet, failures are printed even then.
        let unwanted = args.json || (quiet && verdict == FileVerdict::Ok);
        if !unwanted && said.is_ok() {
            said = out.line(&format!("{}: {word}", printable(name)));
        }
    });
    said?;
    let report = result?;
    let damage = match &protected.protection {
        Some(protection) => {
            // What the walk did not reach is checked too.
            match Damage::find(protection, !report.is_ok(), &*progress) {
                Ok(mut damage) => {
                    damage.name_entries(&payload)?;
                    Some(damage)
                }
                // The report says that the server does not answer.
                Err(e) if !report.is_ok() && e.io_error().is_some_and(SourceFailure::is_in) => None,
                Err(e) => return Err(e),
            }
        }
        None => None,
    };
    drop(progress);
    let ok = report.is_ok()
        && !protected.damaged_trailer
        && damage.as_ref().is_none_or(Damage::is_empty);
    if args.json {
        out.json(&JsonReport {
            source: source.path(),
            dialect: Some(report.dialect),
            files: report.files,
            payload_bytes: report.payload_bytes,
            ok,
            problems: JsonProblem::all(&report.problems, &*source),
            more_problems: report.problems.more(),
            matched: report.matched,
            unlisted: report.unlisted,
            bad: JsonRange::of(&report.bad, &*source),
            from_other_copies: report.from_other_copies,
            protection: damage.as_ref().map(Damage::json),
        })?;
    }
    out.end()?;
    if report.unlisted > 0 {
        log::warn!(
            "{} files have no checksum: {}",
            report.unlisted,
            several(&unlisted, report.unlisted)
        );
    }
    if let Some(map) = &args.map {
        map::write(map, &report, &*source)?;
    }
    let outcome = finish(source.path(), report, &*source, quiet || !ok)?;
    if let Some(damage) = &damage {
        damage.say(source.path(), quiet);
    }
    Ok(if ok { outcome } else { Outcome::Wrong })
}

fn finish(path: &Path, report: Report, source: &dyn Source, quiet: bool) -> Result<Outcome> {
    if report.from_other_copies > 0 {
        log::warn!(
            "`{}` lacks {}, another copy has it",
            printable(&path.to_string_lossy()),
            human_bytes(report.from_other_copies)
        );
    }
    if report.is_ok() {
        if !quiet {
            to_stderr(&format!(
                "{}: OK: {} files, {} ({}), every byte read, {} checksums matched\n",
                printable(&path.to_string_lossy()),
                report.files,
                human_bytes(report.payload_bytes),
                report.dialect,
                report.matched
            ));
        }
        return Ok(Outcome::Done);
    }
    let (shown, more) = (report.problems.len(), report.problems.more());
    for problem in report.problems {
        exit::say("lbpayload", Level::Error, &problem.into_error(source));
    }
    if more > 0 {
        to_stderr(&labelled(
            "lbpayload",
            Level::Note,
            &format!("{more} more problems after these {shown}"),
        ));
    }
    Ok(Outcome::Wrong)
}

/// Formats names for a message, with the number of those that are left out.
pub(super) fn several(names: &[String], count: u64) -> String {
    let more = count.saturating_sub(names.len() as u64);
    let names = names.join(", ");
    if more > 0 {
        format!("{names} and {more} more")
    } else {
        names
    }
}
