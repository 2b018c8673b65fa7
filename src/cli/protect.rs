//! `lbpayload protect` and `lbpayload repair`

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::block::{Source, SourceOptions};
use crate::error::{Error, Kind, Result, printable};
use crate::progress::Progress;
use crate::protect::{self, Options, RepairOptions, RepairReport};
use crate::protection::{BLOCK, Header};

use super::args::{ProgressForm, ProtectArgs, RepairArgs};
use super::exit::Outcome;
use super::output::{Out, human_bytes, lossy};
use super::protection::{JsonProtection, trailer};
use super::source::{SourceArgs, refuse_url};
use super::{progress, signals};

#[derive(Serialize)]
struct JsonProtect<'a> {
    #[serde(serialize_with = "lossy")]
    source: &'a Path,
    percent: u32,
    payload_bytes: u64,
    trailer_bytes: u64,
    blake3: String,
}

#[derive(Serialize)]
struct JsonRepair<'a> {
    #[serde(serialize_with = "lossy")]
    source: &'a Path,
    dry_run: bool,
    damaged_trailer_blocks: u64,
    written_blocks: u64,
    protection: JsonProtection,
}

pub(super) fn protect(
    args: &ProtectArgs,
    form: Option<ProgressForm>,
    quiet: bool,
) -> Result<Outcome> {
    refuse_url_to_write(&args.source)?;
    refuse_device_without_force(&args.source, args.force)?;
    signals::listen()?;
    let offset = args.offset.unwrap_or(0);
    let mut out = Out::new();
    let shown = printable(&args.source.to_string_lossy());
    if args.remove {
        let source = open(&args.source, offset)?;
        let header = trailer(&source, None, None)?
            .header
            .ok_or_else(|| no_trailer(&args.source))?;
        protect::unprotect(&args.source, &header, offset)?;
        if args.json {
            out.json(&serde_json::json!({ "source": shown, "removed": true }))?;
        } else if !quiet {
            out.line(&format!("took the protection trailer from {shown}"))?;
        }
        out.end()?;
        return Ok(Outcome::Done);
    }
    let progress = progress::shown(form);
    let options = Options {
        percent: args.percent,
        offset,
        force: args.force,
        memory: usize::try_from(args.memory.get()).unwrap_or(usize::MAX),
    };
    let report = protect::protect(&args.source, options, &*progress);
    drop(progress);
    let report = report?;
    if args.json {
        out.json(&JsonProtect {
            source: &args.source,
            percent: report.percent,
            payload_bytes: report.payload_bytes,
            trailer_bytes: report.trailer_bytes,
            blake3: hex::encode(report.blake3),
        })?;
    } else if !quiet {
        out.line(&format!(
            "protected {shown} ({}) with {} percent of redundancy ({})",
            human_bytes(report.payload_bytes),
            report.percent,
            human_bytes(report.trailer_bytes)
        ))?;
    }
    out.end()?;
    Ok(Outcome::Done)
}

pub(super) fn repair(
    args: &RepairArgs,
    form: Option<ProgressForm>,
    quiet: bool,
) -> Result<Outcome> {
    refuse_url_to_write(&args.source)?;
    signals::listen()?;
    let progress = progress::shown(form);
    let report = run_repair(args, &*progress);
    drop(progress);
    let report = report?;
    let mut out = Out::new();
    let (damaged, lost) = (report.damaged.count(), report.lost.count());
    if args.json {
        out.json(&JsonRepair {
            source: &args.source,
            dry_run: args.dry_run,
            damaged_trailer_blocks: report.trailer.blocks(),
            written_blocks: report.written_blocks,
            protection: JsonProtection {
                percent: report.percent,
                checked_bytes: report.checked_bytes,
                damaged_blocks: damaged,
                healed_blocks: damaged - lost,
                lost_blocks: lost,
            },
        })?;
    } else if args.dry_run || !quiet {
        out.line(&words(args, &report))?;
    }
    out.end()?;
    if lost > 0 {
        return Ok(Outcome::Wrong);
    }
    Ok(Outcome::Done)
}

fn run_repair(args: &RepairArgs, progress: &dyn Progress) -> Result<RepairReport> {
    let offset = args.offset.unwrap_or(0);
    let source = open(&args.source, offset)?;
    let copies = open_copies(args)?;
    let mut found = trailer(&source, Some(progress), None)?.header;
    let lost_trailer = found.is_none();
    if lost_trailer {
        for copy in &copies {
            found = trailer(copy, None, None)?.header;
            if found.is_some() {
                log::warn!(
                    "`{}` has no usable protection trailer, it gets that of `{}`",
                    printable(&args.source.to_string_lossy()),
                    printable(&copy.path().to_string_lossy())
                );
                break;
            }
        }
    }
    let header = found.ok_or_else(|| no_trailer(&args.source))?;
    warn_of_short(&copies, &header);
    let options = RepairOptions {
        offset,
        copies,
        lost_trailer,
        dry_run: args.dry_run,
        force: args.force,
        memory: usize::try_from(args.memory.get()).unwrap_or(usize::MAX),
    };
    match &args.output {
        Some(output) if !args.dry_run => {
            protect::repair_into(&source, &header, options, output, progress)
        }
        _ => protect::repair(&args.source, &header, options, progress),
    }
}

/// Opens the other copies. A copy may have any trailer or none.
fn open_copies(args: &RepairArgs) -> Result<Vec<Arc<dyn Source>>> {
    let copies = args.from.iter();
    copies
        .map(|path| SourceArgs::default().open(&[path], SourceOptions::default()))
        .collect()
}

/// Warns of copies that do not hold all of the payload.
fn warn_of_short(copies: &[Arc<dyn Source>], header: &Header) {
    let is_short = |copy: &&Arc<dyn Source>| copy.len() < header.geometry().payload_len();
    for copy in copies.iter().filter(is_short) {
        log::warn!(
            "`{}` is shorter than the payload, only its first {} bytes are used",
            copy.path().display(),
            copy.len()
        );
    }
}

fn words(args: &RepairArgs, report: &RepairReport) -> String {
    let shown = printable(&args.source.to_string_lossy());
    let (damaged, lost) = (report.damaged.count(), report.lost.count());
    let trailer = report.trailer.blocks();
    if damaged == 0 && trailer == 0 && args.output.is_none() {
        return format!("{shown} is intact");
    }
    let blocks = |count: u64| {
        let size = human_bytes(count * BLOCK);
        format!(
            "{count} block{} ({size})",
            if count == 1 { "" } else { "s" }
        )
    };
    let done = match (args.dry_run, &args.output) {
        (true, _) => "would repair".into(),
        (false, None) => "repaired".into(),
        (false, Some(out)) => format!("wrote a repaired copy to {}: repaired", out.display()),
    };
    let mut line = format!("{done} {} of {shown}", blocks(damaged - lost));
    if trailer > 0 {
        line += &format!(", and {} of its protection trailer", blocks(trailer));
    }
    if lost > 0 {
        line += &format!(", {} cannot be healed", blocks(lost));
    }
    line
}

fn open(path: &Path, offset: u64) -> Result<Arc<dyn Source>> {
    let options = SourceOptions {
        offset,
        ..SourceOptions::default()
    };
    options.open(path)
}

fn refuse_url_to_write(path: &Path) -> Result<()> {
    refuse_url(
        path,
        "a file or a device",
        "download it first, for example with `curl -O`",
    )
}

fn no_trailer(path: &Path) -> Error {
    Error::new(Kind::Refused, "it has no protection trailer")
        .with_code("not-protected")
        .doing("repair")
        .with_path(path)
        .with_line(format!("`{}` has no protection trailer", path.display()))
}

fn refuse_device_without_force(path: &Path, force: bool) -> Result<()> {
    let device = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    if !device || force {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        "it is a block device, what is behind its payload would be lost",
    )
    .with_code("needs-force")
    .doing("write")
    .with_path(path)
    .advice("add --force to write behind the payload"))
}
