//! `lbpayload probe`

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::block::{DeviceKind, Devices, Properties, Roots, SourceOptions};
use crate::error::{Error, Kind, Result, printable};
use crate::format::Dialect;
use crate::probe::{
    Finding, Verdict, ask_udev, glance, nothing_found, payloads, probe_all, probe_path,
    probe_source, summary,
};
use crate::progress::Silent;

use super::args::ProbeArgs;
use super::exit::{self, Outcome};
use super::help::help;
use super::output::{Level, Out, human_bytes, lossy};
use super::source::{SourceArgs, shown};
use super::values::is_url;

#[derive(Serialize)]
struct JsonFinding<'a> {
    #[serde(serialize_with = "lossy")]
    device: &'a Path,
    major: Option<u32>,
    minor: Option<u32>,
    kind: DeviceKind,
    size_bytes: Option<u64>,
    logical_block_size: Option<u32>,
    verdict: Verdict,
    dialect: Option<Dialect>,
    files: Option<u64>,
    payload_bytes: Option<u64>,
    error: Option<String>,
    /// The device that shows the same payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_as: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    udev: Option<&'a Properties>,
}

pub(super) fn run(args: &ProbeArgs) -> Result<Outcome> {
    if args.udev {
        return for_udev(&args.devices);
    }
    let roots = Roots::default();
    let (mut findings, from) = if args.devices.is_empty() {
        let devices = Devices::scan(&roots)?;
        (probe_all(&devices, &Silent)?, devices.from())
    } else {
        // If the devices are named, a failed scan does not matter: it only tells their kinds.
        let devices = Devices::scan(&roots).ok();
        let look = |path: &Path| match is_url(path) {
            true => {
                let opened = SourceArgs::default().open(&[path], SourceOptions::default());
                probe_source(&shown(path), opened, &Silent)
            }
            false => probe_path(path, devices.as_ref(), &Silent),
        };
        let findings = args.devices.iter().map(|path| look(path));
        (findings.collect::<Result<_>>()?, "the command line")
    };
    let any = findings.iter().any(|f| f.verdict == Verdict::Payload);
    let examined = summary(&findings, from);
    let nothing = (!any).then(|| {
        let error = nothing_found(&findings, from);
        let error = match error.code() {
            "no-permission" => error.or_advice("run it as root: `sudo lbpayload probe`"),
            "not-found" if args.devices.is_empty() => {
                error.or_advice("attach the disk, or name it or the image")
            }
            "not-found" if args.devices.iter().all(|path| is_url(path)) => {
                error.or_advice("check the URL, or download the image and look what it is")
            }
            "not-found" => error.or_advice("`lbpayload probe --all` shows every device"),
            _ => error,
        };
        match help(&error) {
            // The table says why.
            Some(help) if args.all && !args.json => {
                Error::new(error.kind(), "no payload found").advice(help)
            }
            _ => error,
        }
    });
    let mut out = Out::new();
    if args.json || args.all {
        ask_udev(&mut findings);
        for finding in &mut findings {
            finding.keep_node();
        }
    }
    if args.json {
        let report: Vec<JsonFinding<'_>> = findings.iter().map(json).collect();
        out.json(&report)?;
    } else if args.all {
        table(&findings, &mut out)?;
    } else {
        // If the user names one device twice, both results are wanted, so only a scan removes
        // duplicates.
        let found = if args.devices.is_empty() {
            payloads(findings)
        } else {
            findings
                .into_iter()
                .filter(|f| f.verdict == Verdict::Payload)
                .collect()
        };
        for mut finding in found {
            finding.keep_node();
            out.line(&finding.path.display().to_string())?;
        }
    }
    out.end()?;
    let Some(nothing) = nothing else {
        log::info!("{examined}");
        return Ok(Outcome::Done);
    };
    if log::log_enabled!(log::Level::Warn) {
        exit::say("lbpayload", Level::Warning, &nothing);
    }
    Ok(Outcome::Nothing)
}

/// Prints properties in the form of udev's `IMPORT{program}`. No ID_FS_USAGE is among them:
/// desktops mount what has one.
fn for_udev(devices: &[PathBuf]) -> Result<Outcome> {
    let [device] = devices else {
        return Err(Error::new(Kind::Usage, "--udev takes one device"));
    };
    let Some(found) = glance(device)? else {
        return Ok(Outcome::Nothing);
    };
    let mut out = Out::new();
    out.line("ID_FS_TYPE=lbpayload")?;
    out.line(&format!("ID_LBPAYLOAD_DIALECT={}", found.dialect))?;
    out.line(&format!("ID_LBPAYLOAD_FILES={}", found.files))?;
    out.line(&format!("ID_LBPAYLOAD_ID={}", found.id))?;
    out.end()?;
    Ok(Outcome::Done)
}

fn json(finding: &Finding) -> JsonFinding<'_> {
    let number = finding.is_device;
    JsonFinding {
        device: &finding.path,
        major: number.then_some(finding.device.major),
        minor: number.then_some(finding.device.minor),
        kind: finding.device.kind,
        size_bytes: finding.size_bytes,
        logical_block_size: finding.logical_block_size,
        verdict: finding.verdict,
        dialect: finding.dialect,
        files: finding.files,
        payload_bytes: finding.payload_bytes,
        error: finding.error.as_ref().map(Error::one_line),
        same_as: finding.same_as.as_deref().map(Path::to_string_lossy),
        udev: finding.udev.as_ref(),
    }
}

fn table(findings: &[Finding], out: &mut Out) -> Result<()> {
    let rows: Vec<[String; 6]> = findings.iter().map(row).collect();
    let head = ["DEVICE", "KIND", "SIZE", "BLOCK", "VERDICT", "WHAT"].map(String::from);
    let mut widths = head.each_ref().map(String::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in std::iter::once(&head).chain(&rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        out.line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn row(finding: &Finding) -> [String; 6] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let what = match (finding.verdict, &finding.error) {
        (Verdict::Payload, _) => {
            let same = finding.same_as.as_deref().map(Path::to_string_lossy);
            format!(
                "{} files, {}, {}{}",
                finding.files.unwrap_or(0),
                human_bytes(finding.payload_bytes.unwrap_or(0)),
                finding.dialect.map_or_else(String::new, |d| d.to_string()),
                same.map_or_else(String::new, |d| format!(", same as {}", printable(&d))),
            )
        }
        (_, Some(error)) => error.cause(),
        (_, None) => udev_words(finding.udev.as_ref()),
    };
    [
        printable(&finding.path.to_string_lossy()),
        finding.device.kind.to_string(),
        or_dash(finding.size_bytes.map(human_bytes)),
        or_dash(finding.logical_block_size.map(|n| n.to_string())),
        finding.verdict.to_string(),
        what,
    ]
}

fn udev_words(known: Option<&Properties>) -> String {
    let Some(known) = known else {
        return String::new();
    };
    let words = [&known.filesystem, &known.medium, &known.serial];
    let words: Vec<String> = words.into_iter().flatten().map(|w| printable(w)).collect();
    words.join(", ")
}
