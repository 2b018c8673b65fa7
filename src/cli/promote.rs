//! `lbpayload promote`

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Result, printable};
use crate::promote::{
    Channel, Collision, Counts, HeldState, Options, PlannedItem, Record, Report, RollbackOptions,
    RollbackReport, StatusReport, Workspace, history, promote, rollback, serve_helper, status,
};

use super::args::{ImageArgs, ProgressForm, PromoteAction, PromoteArgs, RollbackArgs};
use super::exit::Outcome;
use super::output::{Out, lossy};
use super::{progress, signals};

pub(super) fn run(args: &PromoteArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    match &args.action {
        Some(PromoteAction::History(args)) => list(args),
        Some(PromoteAction::Status(args)) => look(args, form, quiet),
        Some(PromoteAction::Rollback(args)) => back(args, form, quiet),
        None => forth(args, form, quiet),
    }
}

/// The helper with privilege.
pub(super) fn serve() -> Result<Outcome> {
    serve_helper()?;
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct JsonReport<'a> {
    id: Option<u64>,
    dry_run: bool,
    #[serde(serialize_with = "lossy")]
    source: &'a Path,
    #[serde(serialize_with = "lossy")]
    image: &'a Path,
    overlay: &'a str,
    commit: Option<&'a str>,
    manifest: Option<&'a str>,
    collision: String,
    notes: &'a [String],
    counts: JsonCounts,
    mirror: &'static str,
    initramfs: String,
    needs_privilege: bool,
    first: Option<String>,
    last: Option<String>,
    seconds: f64,
    files: Vec<JsonItem>,
}

#[derive(Serialize)]
struct JsonCounts {
    overlay: JsonCount,
    manifest: JsonCount,
}

#[derive(Serialize)]
struct JsonCount {
    copied: u64,
    identical: u64,
    shadowed: u64,
}

impl From<Counts> for JsonCount {
    fn from(counts: Counts) -> Self {
        Self {
            copied: counts.copied,
            identical: counts.identical,
            shadowed: counts.shadowed,
        }
    }
}

#[derive(Serialize)]
struct JsonItem {
    path: String,
    place: String,
    channel: Channel,
    shadows: Option<Channel>,
    bytes: u64,
    write: bool,
    privilege: bool,
}

impl JsonItem {
    fn new(item: &PlannedItem) -> Self {
        Self {
            path: text(item.dst.as_path()),
            place: text(&item.place.from_image()),
            channel: item.channel,
            shadows: item.shadows,
            bytes: item.bytes,
            write: item.is_to_be_written(),
            privilege: needs_privilege(item),
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

fn needs_privilege(item: &PlannedItem) -> bool {
    item.is_to_be_written() && item.place.from_image().starts_with("rootfs")
}

fn forth(args: &PromoteArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    signals::listen()?;
    let progress = progress::shown(form);
    let options = Options {
        workspace: args.workspace.clone(),
        overlay_ref: args.overlay_ref.clone(),
        ownership: args.ownership,
        dry_run: args.dry_run,
        offline: args.offline,
        no_initramfs: args.no_initramfs,
    };
    let report = promote(&options, &*progress);
    drop(progress);
    let report = report?;
    let mut out = Out::new();
    if args.json {
        out.json(&json(&report))?;
    } else if !quiet {
        if report.dry_run {
            plan(&mut out, &report.items)?;
        }
        summary(&mut out, &report)?;
    }
    out.end()?;
    Ok(Outcome::Done)
}

fn collision(collision: &Collision) -> String {
    match collision {
        Collision::UpToDate(name) => format!("none, up to date with {name}"),
        Collision::Skipped(why) => format!("check skipped ({why})"),
    }
}

fn json(report: &Report) -> JsonReport<'_> {
    let ends = report.ends();
    JsonReport {
        id: report.id,
        dry_run: report.dry_run,
        source: &report.source,
        image: &report.image,
        overlay: &report.overlay,
        commit: report.commit.as_deref(),
        manifest: report.manifest.as_deref(),
        collision: collision(&report.collision),
        notes: &report.notes,
        counts: JsonCounts {
            overlay: report.counts(Channel::Overlay).into(),
            manifest: report.counts(Channel::Manifest).into(),
        },
        mirror: report.mirror(),
        initramfs: report.initramfs.to_string(),
        needs_privilege: report.items.iter().any(needs_privilege),
        first: ends.as_ref().map(|(first, _)| text(first)),
        last: ends.as_ref().map(|(_, last)| text(last)),
        seconds: report.elapsed.as_secs_f64(),
        files: report.items.iter().map(JsonItem::new).collect(),
    }
}

/// A line for each file that would be written.
fn plan(out: &mut Out, items: &[PlannedItem]) -> Result<()> {
    for item in items.iter().filter(|item| item.is_to_be_written()) {
        let mut line = match item.channel {
            Channel::Rollback => format!("put back {}", item.dst),
            channel => format!("copy {} ({channel})", item.dst),
        };
        if item.place.from_image() != item.dst.as_path() {
            line += &format!(", which is {}", item.place);
        }
        if let Some(loser) = item.shadows {
            line += &format!(", shadows the {loser}'s");
        }
        if needs_privilege(item) {
            line += ", as root";
        }
        if item.is_unreadable() {
            line += ", unless root finds it identical";
        }
        out.line(&line)?;
    }
    Ok(())
}

fn summary(out: &mut Out, report: &Report) -> Result<()> {
    let overlay = match report.overlay.as_str() {
        "(empty)" => "overlay: (empty)",
        scope => scope,
    };
    let counts = |channel| {
        let Counts {
            copied,
            identical,
            shadowed,
        } = report.counts(channel);
        let verb = if report.dry_run { "to copy" } else { "copied" };
        let mut line = format!("{copied} {verb}, {identical} identical");
        if shadowed > 0 {
            line += &format!(", {shadowed} shadowed");
        }
        line
    };
    out.line(overlay)?;
    out.line(&format!(
        "manifest: {}",
        report.manifest.as_deref().unwrap_or("(absent)")
    ))?;
    out.line(&format!("collision: {}", collision(&report.collision)))?;
    out.line(&format!("overlay files: {}", counts(Channel::Overlay)))?;
    out.line(&format!("manifest files: {}", counts(Channel::Manifest)))?;
    out.line(&format!("kernel Image mirror: {}", report.mirror()))?;
    out.line(&format!("initramfs: {}", report.initramfs))?;
    if let Some((first, last)) = report.ends() {
        let verb = if report.dry_run { "to copy" } else { "copied" };
        out.line(&format!("first {verb}: {}", shown(&first)))?;
        out.line(&format!("last {verb}: {}", shown(&last)))?;
    }
    for note in &report.notes {
        out.line(&format!("note: {note}"))?;
    }
    out.line(&format!("source: {}", shown(&report.source)))?;
    out.line(&format!("image: {}", shown(&report.image)))?;
    if let Some(id) = report.id {
        out.line(&format!("record: {id}"))?;
    }
    out.line(if report.dry_run {
        "next: promote without --dry-run"
    } else {
        "next: flash the image, or validate it"
    })
}

fn image(args: &ImageArgs) -> Result<PathBuf> {
    match &args.image {
        Some(image) => Ok(image.clone()),
        None => Ok(Workspace::probe(args.workspace.as_deref())?.image),
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
    kept: u64,
    initramfs: Option<&'a str>,
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
            kept: record.kept(),
            initramfs: end.and_then(|end| end.initramfs.as_deref()),
        }
    }
}

fn words(record: &Record) -> String {
    let begin = &record.begin;
    let what = match begin.to {
        Some(to) => format!("back to {to}"),
        None => begin.overlay.clone().unwrap_or_default(),
    };
    printable(&format!(
        "{} {} {} {} by {}: {what}, {} changed, {}",
        begin.id,
        begin.started,
        begin.action,
        begin
            .manifest_sha256
            .as_deref()
            .and_then(|sum| sum.get(..7))
            .map_or_else(|| "(no manifest)".to_owned(), |sum| format!("(manifest {sum})")),
        begin.user,
        record.changed(),
        record.state()
    ))
}

fn list(args: &ImageArgs) -> Result<Outcome> {
    let records = history(&image(args)?)?;
    let mut out = Out::new();
    if args.json {
        let records: Vec<_> = records.iter().map(JsonRecord::new).collect();
        out.json(&records)?;
    } else {
        for record in &records {
            out.line(&words(record))?;
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
    last: Option<JsonRecord<'a>>,
    files: Vec<JsonHeld>,
}

#[derive(Serialize)]
struct JsonHeld {
    path: String,
    id: u64,
    state: HeldState,
}

fn look(args: &ImageArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    signals::listen()?;
    let image = image(args)?;
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
    } else if !quiet {
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
        out.line(&format!("{word}: {} (promote {})", shown(&file.path), file.id))?;
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
    initramfs: String,
    seconds: f64,
    files: Vec<JsonItem>,
}

fn back(args: &RollbackArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    signals::listen()?;
    let options = RollbackOptions {
        image: image(&args.image)?,
        to: args.id,
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
    if args.image.json {
        out.json(&JsonRollback {
            id: report.id,
            to: report.to,
            dry_run: report.dry_run,
            image: &report.image,
            restored,
            identical,
            edited: report.edited.iter().map(|path| text(path)).collect(),
            initramfs: report.initramfs.to_string(),
            seconds: report.elapsed.as_secs_f64(),
            files: report.items.iter().map(JsonItem::new).collect(),
        })?;
    } else if !quiet {
        if report.dry_run {
            plan(&mut out, &report.items)?;
        }
        rollback_words(&mut out, &report, restored, identical)?;
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
    let verb = if report.dry_run { "to put back" } else { "put back" };
    out.line(&format!("as after promote {}", report.to))?;
    out.line(&format!("files: {restored} {verb}, {identical} identical"))?;
    for path in &report.edited {
        out.line(&format!("note: {} was edited by hand", shown(path)))?;
    }
    out.line(&format!("initramfs: {}", report.initramfs))?;
    out.line(&format!("image: {}", shown(&report.image)))?;
    if let Some(id) = report.id {
        out.line(&format!("record: {id}"))?;
    }
    Ok(())
}
