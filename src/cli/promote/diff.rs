//! `lbpayload promote diff`: what a promote would change.

use serde::Serialize;

use crate::error::{Result, printable};
use crate::promote::{
    Change, Channel, ContentKind, Difference, InitramfsOutcome, Options, PlannedItem, Side,
    differences, promote,
};

use super::super::args::ProgressForm;
use super::super::exit::Outcome;
use super::super::output::{Out, human_bytes};
use super::super::promote_args::{PromoteArgs, PromoteDiffArgs};
use super::super::{progress, signals};
use super::{json, shown, text};

/// A difference, in the report of a dry run and of `promote diff`.
#[derive(Serialize)]
pub(super) struct JsonDifference {
    path: String,
    place: String,
    channel: Channel,
    change: Change,
    kind: ContentKind,
    old: Option<JsonSide>,
    new: Option<JsonSide>,
    text: Option<String>,
    note: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonSide {
    File { bytes: u64, sha256: String },
    Symlink { target: String },
}

impl From<&Side> for JsonSide {
    fn from(side: &Side) -> Self {
        match side {
            Side::File { bytes, sha256 } => Self::File {
                bytes: *bytes,
                sha256: sha256.clone(),
            },
            Side::Symlink(target) => Self::Symlink {
                target: text(target),
            },
        }
    }
}

impl JsonDifference {
    pub(super) fn new(found: &Difference) -> Self {
        Self {
            path: text(&found.path),
            place: text(&found.place),
            channel: found.channel,
            change: found.change,
            kind: found.kind,
            old: found.old.as_ref().map(JsonSide::from),
            new: found.new.as_ref().map(JsonSide::from),
            text: found.text.clone(),
            note: found.note.clone(),
        }
    }
}

pub(super) fn run(
    args: &PromoteArgs,
    wanted: &PromoteDiffArgs,
    form: Option<ProgressForm>,
    quiet: bool,
) -> Result<Outcome> {
    signals::listen()?;
    let progress = progress::shown(form);
    let options = Options {
        workspace: args.workspace.clone(),
        overlay_ref: wanted.overlay_ref.clone(),
        dry_run: true,
        offline: wanted.offline,
        no_initramfs: args.no_initramfs,
        ..Options::default()
    };
    let compared = promote(&options, &*progress).and_then(|mut reports| {
        // There is one image, so there is one report.
        let report = reports.remove(0);
        let found = differences(&report, &*progress)?;
        Ok((report, found))
    });
    drop(progress);
    let (report, found) = compared?;
    let mut out = Out::new();
    if args.json {
        out.json(&json(&report, Some(&found)))?;
    } else {
        for difference in &found {
            words(&mut out, difference)?;
        }
        if !quiet {
            let count = found.len();
            let noun = if count == 1 {
                "difference"
            } else {
                "differences"
            };
            out.line(&format!("{count} {noun}"))?;
            out.line(&format!("initramfs: {}", report.initramfs))?;
            out.line(&format!("image: {}", shown(&report.image)))?;
        }
    }
    out.end()?;
    let is_same = !report.items.iter().any(PlannedItem::is_to_be_written)
        && report.initramfs == InitramfsOutcome::NotNeeded;
    Ok(match wanted.exit_code && !is_same {
        true => Outcome::Wrong,
        false => Outcome::Done,
    })
}

/// Prints a difference. patch(1) skips all lines but those of a diff.
fn words(out: &mut Out, found: &Difference) -> Result<()> {
    let change = match found.change {
        Change::New => "new",
        Change::Changed => "changed",
        Change::Removed => "removed",
        Change::Unknown => "unknown",
    };
    let mut line = format!("{change}: {} ({})", shown(&found.path), found.channel);
    if found.place != found.path {
        line += &format!(", which is {}", shown(&found.place));
    }
    match found.kind {
        ContentKind::DeviceTree => line += ", a device tree",
        ContentKind::Module => line += ", a module",
        ContentKind::Text | ContentKind::Symlink | ContentKind::Binary => {}
    }
    out.line(&line)?;
    if let Some(text) = &found.text {
        out.put(text.as_bytes())?;
    }
    if found.text.is_none() || found.kind != ContentKind::Text {
        for (name, side) in [("old", &found.old), ("new", &found.new)] {
            if let Some(side) = side {
                out.line(&format!("  {name}: {}", side_words(side)))?;
            }
        }
    }
    match &found.note {
        Some(note) => out.line(&format!("  note: {}", printable(note))),
        None => Ok(()),
    }
}

fn side_words(side: &Side) -> String {
    match side {
        Side::File { bytes, sha256 } => format!("{}, sha256 {sha256}", human_bytes(*bytes)),
        Side::Symlink(target) => format!("symlink to {}", shown(target)),
    }
}
