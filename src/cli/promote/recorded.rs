//! `lbpayload promote history`, `status` and `rollback`: the commands that use the record in the
//! image.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Kind, Result, printable};
use crate::promote::{
    HeldState, PlannedItem, Record, RollbackOptions, RollbackReport, StatusReport, Workspace,
    history, rollback, status,
};

use super::super::args::ProgressForm;
use super::super::exit::Outcome;
use super::super::output::{Out, lossy};
use super::super::promote_args::{ImageArgs, PromoteArgs, RollbackArgs};
use super::super::{progress, signals};
use super::{JsonItem, plan, shown, text};

pub(super) fn image(args: &PromoteArgs, named: &ImageArgs) -> Result<PathBuf> {
    match (&named.image, &args.workspace) {
        (Some(_), Some(_)) => Err(Error::new(
            Kind::Usage,
            "--image and --workspace both name the image",
        )
        .advice("leave one of them out")),
        (Some(image), None) => Ok(image.clone()),
        (None, _) => Ok(Workspace::probe(args.workspace.as_deref(), false)?.image),
    }
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    id: u64,
    action: &'a str,
    to: Option<u64>,
    started: &'a str,
    finished: Option<&'a str>,
    state: &'a str,
    message: Option<&'a str>,
    user: &'a str,
    host: &'a str,
    overlay: Option<&'a str>,
    commit: Option<&'a str>,
    manifest_sha256: Option<&'a str>,
    manifest: Option<&'a str>,
    changed: u64,
    unsure: u64,
    kept: u64,
    initramfs: Option<&'a str>,
    log: Option<String>,
}

impl<'a> JsonRecord<'a> {
    fn new(record: &'a Record) -> Self {
        let (begin, end) = (&record.begin, record.end.as_ref());
        Self {
            id: begin.id,
            action: &begin.action,
            to: begin.to,
            started: &begin.started,
            finished: end.map(|end| end.finished.as_str()),
            state: record.state(),
            message: end.and_then(|end| end.message.as_deref()),
            user: &begin.user,
            host: &begin.host,
            overlay: begin.overlay.as_deref(),
            commit: begin.commit.as_deref(),
            manifest_sha256: begin.manifest_sha256.as_deref(),
            manifest: begin.manifest.as_deref(),
            changed: record.changed(),
            unsure: record.unsure(),
            kept: record.kept(),
            initramfs: end.and_then(|end| end.initramfs.as_deref()),
            log: record.log.as_deref().map(text),
        }
    }
}

fn words(record: &Record) -> String {
    let begin = &record.begin;
    let what = match begin.to {
        Some(to) => format!("back to {to}"),
        None => {
            let manifest = begin
                .manifest_sha256
                .as_deref()
                .and_then(|sum| sum.get(..7));
            format!(
                "{}, manifest {}",
                begin.overlay.as_deref().unwrap_or_default(),
                manifest.unwrap_or("(absent)")
            )
        }
    };
    let changed = match record.unsure() {
        0 => record.changed().to_string(),
        more => format!("{} to {}", record.changed(), record.changed() + more),
    };
    printable(&format!(
        "{} {} {} by {}: {what}, {changed} changed, {}",
        begin.id,
        begin.started,
        begin.action,
        begin.user,
        record.state()
    ))
}

pub(super) fn list(args: &PromoteArgs, named: &ImageArgs) -> Result<Outcome> {
    let records = history(&image(args, named)?)?;
    let mut out = Out::new();
    if args.json {
        let records: Vec<_> = records.iter().map(JsonRecord::new).collect();
        out.json(&records)?;
    } else {
        for record in &records {
            out.line(&words(record))?;
            let end = record.end.as_ref();
            if let Some(message) = end.and_then(|end| end.message.as_deref()) {
                out.line(&format!("  because: {}", printable(message)))?;
            }
            if let Some(log) = record.log.as_ref().filter(|_| record.state() != "done") {
                out.line(&format!("  log: {}", shown(log)))?;
            }
        }
    }
    out.end()?;
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct JsonStatus<'a> {
    #[serde(serialize_with = "lossy")]
    image: &'a Path,
    ok: bool,
    initramfs_due: bool,
    initramfs: Vec<JsonOutput>,
    last: Option<JsonRecord<'a>>,
    files: Vec<JsonHeld>,
}

#[derive(Serialize)]
struct JsonOutput {
    path: String,
    state: HeldState,
}

#[derive(Serialize)]
struct JsonHeld {
    path: String,
    id: u64,
    state: HeldState,
}

pub(super) fn look(
    args: &PromoteArgs,
    named: &ImageArgs,
    form: Option<ProgressForm>,
) -> Result<Outcome> {
    signals::listen()?;
    let image = image(args, named)?;
    let progress = progress::shown(form);
    let report = status(&image, &*progress);
    drop(progress);
    let report = report?;
    let mut out = Out::new();
    if args.json {
        out.json(&JsonStatus {
            image: &report.image,
            ok: report.is_ok(),
            initramfs_due: report.initramfs_due,
            initramfs: report
                .outputs
                .iter()
                .map(|(path, state)| JsonOutput {
                    path: text(path),
                    state: *state,
                })
                .collect(),
            last: report.last.as_ref().map(JsonRecord::new),
            files: report
                .files
                .iter()
                .map(|file| JsonHeld {
                    path: text(&file.path),
                    id: file.id,
                    state: file.state,
                })
                .collect(),
        })?;
    } else {
        status_words(&mut out, &report)?;
    }
    out.end()?;
    Ok(if report.is_ok() {
        Outcome::Done
    } else {
        Outcome::Wrong
    })
}

fn status_words(out: &mut Out, report: &StatusReport) -> Result<()> {
    for file in &report.files {
        let word = match file.state {
            HeldState::Intact => continue,
            HeldState::Edited => "edited",
            HeldState::Missing => "missing",
            HeldState::Unreadable => "unreadable",
        };
        let mut line = format!("{word}: {} (promote {})", shown(&file.path), file.id);
        if file.state == HeldState::Unreadable {
            line += ", only root can read it";
        }
        out.line(&line)?;
    }
    for (path, state) in &report.outputs {
        let word = match state {
            HeldState::Intact => continue,
            HeldState::Edited => "edited",
            HeldState::Missing => "missing",
            HeldState::Unreadable => "unreadable",
        };
        let path = shown(path);
        out.line(&format!("{word}: {path} (the initramfs tool wrote it)"))?;
    }
    match &report.last {
        Some(record) => out.line(&format!("last: {}", words(record)))?,
        None => out.line("last: nothing was promoted")?,
    }
    out.line(&format!(
        "files: {} intact, {} edited, {} missing, {} unreadable",
        report.count(HeldState::Intact),
        report.count(HeldState::Edited),
        report.count(HeldState::Missing),
        report.count(HeldState::Unreadable)
    ))?;
    out.line(if report.initramfs_due {
        "initramfs: due"
    } else {
        "initramfs: not due"
    })?;
    out.line(&format!("image: {}", shown(&report.image)))
}

#[derive(Serialize)]
struct JsonRollback<'a> {
    id: Option<u64>,
    to: u64,
    dry_run: bool,
    #[serde(serialize_with = "lossy")]
    image: &'a Path,
    restored: u64,
    identical: u64,
    edited: Vec<String>,
    deleted: Vec<String>,
    initramfs: String,
    seconds: f64,
    files: Vec<JsonItem>,
}

pub(super) fn back(
    args: &PromoteArgs,
    named: &RollbackArgs,
    form: Option<ProgressForm>,
    quiet: bool,
) -> Result<Outcome> {
    signals::listen()?;
    let options = RollbackOptions {
        image: image(args, &named.image)?,
        to: named.id,
        dry_run: args.dry_run,
        no_initramfs: args.no_initramfs,
    };
    let progress = progress::shown(form);
    let report = rollback(&options, &*progress);
    drop(progress);
    let report = report?;
    let restored = report.items.iter().filter(|i| i.is_to_be_written()).count() as u64;
    let identical = report.items.len() as u64 - restored;
    let mut out = Out::new();
    if args.json {
        out.json(&JsonRollback {
            id: report.id,
            to: report.to,
            dry_run: report.dry_run,
            image: &report.image,
            restored,
            identical,
            edited: report.edited.iter().map(|path| text(path)).collect(),
            deleted: report.deleted.iter().map(|path| text(path)).collect(),
            initramfs: report.initramfs.to_string(),
            seconds: report.elapsed.as_secs_f64(),
            files: report.items.iter().map(JsonItem::new).collect(),
        })?;
    } else {
        if report.dry_run {
            plan(&mut out, &report.items)?;
        }
        if !quiet {
            rollback_words(&mut out, &report, restored, identical)?;
        }
    }
    out.end()?;
    Ok(Outcome::Done)
}

fn rollback_words(
    out: &mut Out,
    report: &RollbackReport,
    restored: u64,
    identical: u64,
) -> Result<()> {
    let (verb, removed) = match report.dry_run {
        true => ("to put back", "to remove"),
        false => ("put back", "removed"),
    };
    let is_removed = |item: &&PlannedItem| item.is_to_be_written() && item.is_removal();
    let removals = report.items.iter().filter(is_removed).count() as u64;
    let restored = restored - removals;
    let removed = match removals {
        0 => String::new(),
        count => format!(", {count} {removed}"),
    };
    out.line(&match report.to {
        0 => "as before all promotes".to_owned(),
        to => format!("as after promote {to}"),
    })?;
    out.line(&format!(
        "files: {restored} {verb}{removed}, {identical} identical"
    ))?;
    for path in &report.edited {
        out.line(&format!("note: {} was edited by hand", shown(path)))?;
    }
    for path in &report.deleted {
        out.line(&format!("note: {} was deleted by hand", shown(path)))?;
    }
    out.line(&format!("initramfs: {}", report.initramfs))?;
    out.line(&format!("image: {}", shown(&report.image)))?;
    if let Some(id) = report.id {
        out.line(&format!("record: {id}"))?;
    }
    Ok(())
}
