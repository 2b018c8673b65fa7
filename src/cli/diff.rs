//! `lbpayload diff`

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::block::{Source, SourceOptions};
use crate::diff::{Change, Report, diff};
use crate::error::{Result, printable};
use crate::payload::Index;
use crate::progress::Progress;

use super::args::{DiffArgs, ProgressForm};
use super::exit::Outcome;
use super::output::{Out, lossy, to_stderr};
use super::protection::{Protected, default_memory};
use super::source::shown;
use super::{progress, signals};

#[derive(Serialize)]
struct JsonReport<'a> {
    #[serde(serialize_with = "lossy")]
    old: &'a Path,
    #[serde(serialize_with = "lossy")]
    new: &'a Path,
    same: bool,
    common: u64,
    by_checksum: u64,
    changed: &'a [String],
    added: &'a [String],
    removed: &'a [String],
}

pub(super) fn run(args: &DiffArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    signals::listen()?;
    let progress = progress::shown(form);
    let paths = [&args.old, &args.new];
    let [old, new] = paths.map(|path| args.input.open(&[path], SourceOptions::default()));
    let (old, new) = (old?, new?);
    args.input.confine(&paths, &[]);
    let (old, of_old) = index(args, old, &*progress)?;
    let (new, of_new) = index(args, new, &*progress)?;
    let mut out = Out::new();
    // Only JSON needs the names together.
    let (mut changed, mut added, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    let report = diff(&old, &new, &*progress, &mut |name, change| {
        let (word, list) = match change {
            Change::Changed => ("changed", &mut changed),
            Change::Added => ("added", &mut added),
            Change::Removed => ("removed", &mut removed),
        };
        if args.json {
            list.push(name.to_owned());
            return Ok(());
        }
        out.line(&format!("{word} {}", printable(name)))
    });
    drop(progress);
    let report = report?;
    if args.json {
        out.json(&JsonReport {
            old: &shown(&args.old),
            new: &shown(&args.new),
            same: report.is_same(),
            common: report.common,
            by_checksum: report.by_checksum,
            changed: &changed,
            added: &added,
            removed: &removed,
        })?;
    }
    out.end()?;
    of_old.warn();
    of_new.warn();
    if !quiet {
        to_stderr(&format!("{}\n", words(&report)));
    }
    Ok(match report.is_same() {
        true => Outcome::Done,
        false => Outcome::Wrong,
    })
}

fn index(
    args: &DiffArgs,
    source: Arc<dyn Source>,
    progress: &dyn Progress,
) -> Result<(Index, Protected)> {
    let protected = args.input.protected(source, default_memory(), None, None)?;
    let payload = protected.payload()?;
    Ok((Index::strict(&payload, progress)?, protected))
}

/// Returns the summary. It leaves out what is zero.
fn words(report: &Report) -> String {
    let files = |count: u64| match count {
        1 => "1 file".to_owned(),
        _ => format!("{count} files"),
    };
    if report.is_same() {
        return format!("both hold the same {}", files(report.common));
    }
    let mut line = format!("{} in common", files(report.common));
    for (count, what) in [
        (report.changed, "changed"),
        (report.added, "added"),
        (report.removed, "removed"),
    ] {
        if count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    line
}
