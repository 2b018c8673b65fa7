//! `lbpayload fetch`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::fetch::{self, FileReport, Options, Report, State, Wanted};

use super::args::ProgressForm;
use super::exit::Outcome;
use super::fetch_args::{DownloadArgs, FetchArgs};
use super::output::{Level, Out, human_bytes, labelled, lossy, to_stderr};
use super::{progress, signals};

#[derive(Serialize)]
struct JsonReport<'a> {
    #[serde(serialize_with = "lossy")]
    dest: &'a Path,
    files: usize,
    fetched: usize,
    kept: usize,
    missing: usize,
    bytes: u64,
    seconds: f64,
    entries: &'a [FileReport],
}

pub(super) fn run(args: &FetchArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    if args.list.is_some() && args.dest.is_none() {
        return Err(Error::new(Kind::Usage, "--list needs --dest")
            .advice("name the directory for the files with --dest"));
    }
    let mirrors = args.download.mirrors()?;
    let (wanted, dest) = match (&args.list, &args.live_bootstrap) {
        (Some(list), _) => (fetch::of_list(list, &mirrors)?, PathBuf::new()),
        (None, Some(dir)) => (
            fetch::of_checkout(dir, args.payload_only, &mirrors)?,
            dir.join("distfiles"),
        ),
        (None, None) => return Err(Error::bug("the command line asks for no files")),
    };
    let dest = args.dest.clone().unwrap_or(dest);
    let options = args.download.options(&dest, args.offline);
    let report = get(&wanted, &options, form)?;
    let missing = report.count(State::Missing);
    let mut out = Out::new();
    if args.json {
        out.json(&JsonReport {
            dest: &dest,
            files: report.files.len(),
            fetched: report.count(State::Fetched),
            kept: report.count(State::Kept),
            missing,
            bytes: report.fetched_bytes(),
            seconds: report.elapsed.as_secs_f64(),
            entries: &report.files,
        })?;
    } else if args.offline {
        for file in report.missing() {
            out.line(&format!("{} {}", file.name, file.sources.join(" ")))?;
        }
    } else if !quiet && missing < report.files.len() {
        out.line(&words(&report, &dest))?;
    }
    out.end()?;
    say_missing(&report, &dest, args.offline);
    Ok(match missing {
        0 => Outcome::Done,
        _ => Outcome::Wrong,
    })
}

/// Fetches what `pack --live-bootstrap DIR` needs and does not have. What nobody has is named here,
/// and missing when the payload is planned.
///
/// # Errors
/// The checkout cannot be read, or the directory of its files cannot be written.
pub(super) fn before_pack(
    dir: &Path,
    args: &DownloadArgs,
    form: Option<ProgressForm>,
    quiet: bool,
) -> Result<()> {
    let wanted = fetch::of_checkout(dir, true, &args.mirrors()?)?;
    let dest = dir.join("distfiles");
    let report = get(&wanted, &args.options(&dest, false), form)?;
    if !quiet && report.count(State::Fetched) > 0 {
        // Standard output is for the payload.
        to_stderr(&format!("{}\n", words(&report, &dest)));
    }
    to_stderr(&answers(&report).0);
    Ok(())
}

fn get(wanted: &[Wanted], options: &Options, form: Option<ProgressForm>) -> Result<Report> {
    signals::listen()?;
    let progress = progress::shown(form);
    let report = fetch::fetch(wanted, options, &*progress);
    drop(progress);
    let report = report?;
    warn_of_bad_hosts(&report);
    Ok(report)
}

/// Warns of each host that failed, in one line, where the files came from others.
fn warn_of_bad_hosts(report: &Report) {
    let mut hosts: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    let fetched = report.files.iter().filter(|f| f.state == State::Fetched);
    for file in fetched {
        // The last one is what worked.
        for bad in file.tries.iter().rev().skip(1) {
            let host = hosts.entry(&bad.host).or_default();
            *host = (host.0 + 1, &bad.result);
        }
    }
    for (host, (count, result)) in hosts {
        let times = if count == 1 {
            "once"
        } else {
            &format!("{count} times")
        };
        log::warn!("{host} failed {times}, other sources had the files (last: {result})");
    }
}

/// Prints each missing file and what its sources did.
fn say_missing(report: &Report, dest: &Path, offline: bool) {
    let missing = report.count(State::Missing);
    if missing == 0 {
        return;
    }
    let (mut lines, help) = match offline {
        true => (String::new(), None),
        false => answers(report),
    };
    let of = format!("{missing} of {} files", report.files.len());
    let message = format!("{of} are missing in `{}`", dest.display());
    lines += &labelled("lbpayload", Level::Error, &message);
    let help = match (offline, help) {
        (true, _) => "run it again without --offline",
        (false, Some(help)) => help,
        (false, None) => "name a mirror that has them (--mirror URL), or put them there yourself",
    };
    lines += &labelled("lbpayload", Level::Help, help);
    to_stderr(&lines);
}

/// Returns the lines that name each missing file and what its sources did, and what the user can
/// do about the first that says so.
fn answers(report: &Report) -> (String, Option<&'static str>) {
    let mut lines = String::new();
    let mut say = |level, text: &str| lines.push_str(&labelled("lbpayload", level, text));
    let mut help = None;
    for file in report.missing() {
        say(Level::Error, &format!("could not fetch `{}`", file.name));
        for attempt in &file.tries {
            let note = format!("{}: {}", attempt.source, attempt.result);
            say(Level::Note, &note);
            help = help.or(attempt.help);
        }
        if file.sources.is_empty() {
            let note = "it has no URL that can be fetched, only a mirror can have it";
            say(Level::Note, note);
        }
    }
    (lines, help)
}

/// Returns a one-line summary. It leaves out what did not happen.
fn words(report: &Report, dest: &Path) -> String {
    let (fetched, kept) = (report.count(State::Fetched), report.count(State::Kept));
    let dest = dest.display();
    if fetched == 0 && kept == report.files.len() {
        return format!("all {kept} files are already in {dest}");
    }
    let mut line = format!(
        "fetched {fetched} file{} ({}) into {dest} in {:.1} s",
        if fetched == 1 { "" } else { "s" },
        human_bytes(report.fetched_bytes()),
        report.elapsed.as_secs_f64()
    );
    if kept > 0 {
        line += &format!(", {kept} kept");
    }
    line
}
