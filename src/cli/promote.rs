//! `lbpayload promote`

use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Kind, Result, printable};
use crate::promote::{
    Channel, Collision, Counts, Difference, Fate, InitramfsOutcome, Options, Ownership,
    PlannedItem, Report, differences, promote, serve_helper,
};

use super::args::ProgressForm;
use super::exit::Outcome;
use super::output::{Out, lossy, to_stdout};
use super::promote_args::{PromoteAction, PromoteArgs};
use super::{progress, signals};

mod diff;
mod explain;
mod recorded;
mod verify;

pub(super) use explain::route;

pub(super) fn run(args: &PromoteArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    act(args, form, quiet).map_err(explain::explain)
}

fn act(args: &PromoteArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    let Some(action) = &args.action else {
        return forth(args, form, quiet);
    };
    let of_promote_alone = [
        ("--overlay-ref", args.overlay_ref.is_some()),
        ("--offline", args.offline),
        ("--recheck", args.recheck),
        ("--ownership", args.ownership != Ownership::default()),
        ("--refresh-initramfs", args.refresh_initramfs),
        ("--prune", args.prune),
        ("--strict", args.strict),
        ("--allow-outside", args.allow_outside),
        ("--image before the action", !args.images.is_empty()),
    ];
    if let Some((option, _)) = of_promote_alone.iter().find(|(_, given)| *given) {
        let message = format!("{option} does not go with an action");
        let advice = "leave it out, or leave out the action";
        return Err(Error::new(Kind::Usage, message).advice(advice));
    }
    match action {
        PromoteAction::History(image) => recorded::list(args, image),
        PromoteAction::Status(image) => recorded::look(args, image, form),
        PromoteAction::Diff(wanted) => diff::run(args, wanted, form, quiet),
        PromoteAction::Verify(image) => verify::run(args, image, form, quiet),
        PromoteAction::Rollback(back) => recorded::back(args, back, form, quiet),
        PromoteAction::Schema => print(include_str!("promote/schema.json")),
        PromoteAction::Skill => print(include_str!("promote/SKILL.md")),
    }
}

fn print(text: &str) -> Result<Outcome> {
    to_stdout(text.as_bytes())?;
    Ok(Outcome::Done)
}

/// Runs the privileged helper.
pub(super) fn serve(rootfs: &Path) -> Result<Outcome> {
    serve_helper(rootfs)?;
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
    warnings: Vec<JsonDeviation<'a>>,
    leftovers: Vec<JsonLeftover>,
    never_promoted: Vec<String>,
    next: &'static [&'static str],
    counts: JsonCounts,
    mirror: &'static str,
    initramfs: String,
    needs_privilege: bool,
    first: Option<String>,
    last: Option<String>,
    seconds: f64,
    files: Vec<JsonItem>,
    /// Only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<diff::JsonDifference>>,
}

/// The reports of a promote into several images.
#[derive(Serialize)]
struct JsonReports<'a> {
    images: Vec<JsonReport<'a>>,
}

#[derive(Serialize)]
struct JsonDeviation<'a> {
    #[serde(serialize_with = "lossy")]
    path: &'a Path,
    field: &'a str,
    message: &'a str,
    count: u64,
}

#[derive(Serialize)]
struct JsonLeftover {
    path: String,
    fate: Fate,
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
    remove: bool,
    privilege: bool,
}

impl JsonItem {
    fn new(item: &PlannedItem) -> Self {
        Self {
            path: text(item.dst.as_path()),
            place: text(&item.place.in_image()),
            channel: item.channel,
            shadows: item.shadows,
            bytes: item.bytes,
            write: item.is_to_be_written(),
            remove: item.is_to_be_written() && item.is_removal(),
            privilege: needs_privilege(item),
        }
    }
}

/// The original's skills that come after a promote.
const NEXT: [&str; 2] = ["/jetson-flash-image", "/jetson-validate-image"];

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

fn needs_privilege(item: &PlannedItem) -> bool {
    item.is_to_be_written() && item.place.in_image().starts_with("rootfs")
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
        refresh_initramfs: args.refresh_initramfs,
        recheck: args.recheck,
        images: args.images.clone(),
        strict: args.strict,
        allow_outside: args.allow_outside,
        prune: args.prune,
    };
    let compare = |report: &Report| match report.dry_run && args.json {
        true => differences(report, &*progress).map(Some),
        false => Ok(None),
    };
    let compared = promote(&options, &*progress).and_then(|reports| {
        let with_differences = |report| compare(&report).map(|found| (report, found));
        reports
            .into_iter()
            .map(with_differences)
            .collect::<Result<Vec<_>>>()
    });
    drop(progress);
    let reports = compared?;
    let mut out = Out::new();
    match &reports[..] {
        [(report, found)] if args.json => out.json(&json(report, found.as_deref()))?,
        reports if args.json => {
            let images: Vec<_> = reports
                .iter()
                .map(|(report, found)| json(report, found.as_deref()))
                .collect();
            out.json(&JsonReports { images })?;
        }
        reports => {
            for (report, _) in reports {
                if report.dry_run {
                    plan(&mut out, &report.items)?;
                }
                if !quiet {
                    summary(&mut out, report)?;
                }
            }
        }
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

fn json<'a>(report: &'a Report, found: Option<&[Difference]>) -> JsonReport<'a> {
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
        warnings: report
            .deviations
            .iter()
            .map(|deviation| JsonDeviation {
                path: &deviation.path,
                field: &deviation.field,
                message: &deviation.message,
                count: deviation.count,
            })
            .collect(),
        leftovers: report
            .leftovers
            .iter()
            .map(|left| JsonLeftover {
                path: text(&left.path),
                fate: left.fate,
            })
            .collect(),
        never_promoted: report
            .never_promoted
            .iter()
            .map(|dst| text(dst.as_path()))
            .collect(),
        next: match (report.dry_run, report.initramfs) {
            (false, InitramfsOutcome::NotNeeded | InitramfsOutcome::Rebuilt) => &NEXT,
            _ => &[],
        },
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
        differences: found.map(|found| found.iter().map(diff::JsonDifference::new).collect()),
    }
}

/// Prints a line for each file that would be written.
fn plan(out: &mut Out, items: &[PlannedItem]) -> Result<()> {
    for item in items.iter().filter(|item| item.is_to_be_written()) {
        let mut line = match item.channel {
            Channel::Rollback if item.is_removal() => format!("remove {}", item.dst),
            Channel::Rollback => format!("put back {}", item.dst),
            channel => format!("copy {} ({channel})", item.dst),
        };
        if item.place.in_image() != item.dst.as_path() {
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
    for left in &report.leftovers {
        let fate = match (left.fate, report.dry_run) {
            (Fate::Stays, _) => "stays in the image, see --prune",
            (Fate::Changed, _) => "stays in the image, because it was changed there",
            (Fate::NoBackup, _) => "stays in the image, because there is no backup to put back",
            (Fate::Removed, true) => "to be removed from the image",
            (Fate::Removed, false) => "removed from the image",
            (Fate::PutBack, true) => "what was there before is to be put back",
            (Fate::PutBack, false) => "what was there before was put back",
        };
        let path = shown(&left.path);
        out.line(&format!("no longer in the overlay: {path} ({fate})"))?;
    }
    for dst in &report.never_promoted {
        out.line(&format!("built, never promoted: {dst}"))?;
    }
    for note in &report.notes {
        out.line(&format!("note: {note}"))?;
    }
    out.line(&format!("source: {}", shown(&report.source)))?;
    out.line(&format!("image: {}", shown(&report.image)))?;
    if let Some(id) = report.id {
        out.line(&format!("record: {id}"))?;
    }
    out.line(match (report.dry_run, report.initramfs) {
        (true, _) => "next: promote without --dry-run",
        (false, InitramfsOutcome::Postponed) => "next: promote without --no-initramfs, then flash",
        (false, _) => {
            "next: flash the image (/jetson-flash-image), or validate it (/jetson-validate-image)"
        }
    })
}
