//! How a command ends: its exit status, and how its error is printed.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::error::{Error, Kind, MissingFile, Result, printable};

use super::help::help;
use super::output::{self, Level, Out};
use super::signals;

/// The number of missing files that an error for people names.
const MISSING_SHOWN: usize = 20;

/// The outcome of a command that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Exit status 0.
    Done,
    /// A problem was found and reported. Exit status 1.
    Wrong,
    /// Nothing was found, and that was reported. Exit status 3.
    Nothing,
}

/// An error as a JSON document.
#[derive(Serialize)]
struct JsonError<'a> {
    error: JsonDetail<'a>,
}

#[derive(Serialize)]
struct JsonDetail<'a> {
    kind: Kind,
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [MissingFile],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    help: &'a [&'a str],
}

/// Returns whether the command line asks for JSON, even if it is wrong otherwise.
pub(super) fn wants_json(args: &[OsString]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--json")
}

/// Prints the error of a command, if any, and returns the exit status. The error is printed as a
/// JSON document if `json` is set and the command has not written a report already.
pub(super) fn with(result: Result<Outcome>, json: bool) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Wrong) => ExitCode::from(1),
        Ok(Outcome::Nothing) => ExitCode::from(3),
        // The reader closed the pipe because it has all that it needs.
        Err(error) if error.kind() == Kind::ClosedPipe => ExitCode::SUCCESS,
        Err(error) => {
            say("lbpayload", Level::Error, &error);
            if json && !output::has_reported() {
                say_in_json(&error);
            }
            signals::die_as_asked();
            ExitCode::from(status(error.kind()))
        }
    }
}

/// Prints an error: what is wrong, where exactly, and what to do next, on separate lines.
pub(super) fn say(program: &str, level: Level, error: &Error) {
    let mut lines = output::labelled(program, level, &error.to_string());
    let notes = error.notes();
    if !notes.is_empty() {
        lines.push_str(&output::labelled(program, Level::Note, &notes.join(", ")));
    }
    let missing = error.missing();
    for MissingFile { name, url, .. } in missing.iter().take(MISSING_SHOWN) {
        let text = format!("`{}` comes from {}", printable(name), printable(url));
        lines.push_str(&output::labelled(program, Level::Note, &text));
    }
    if let Some(more) = missing.len().checked_sub(MISSING_SHOWN).filter(|&n| n > 0) {
        let text = format!("and {more} more");
        lines.push_str(&output::labelled(program, Level::Note, &text));
    }
    if let Some(help) = help(error) {
        lines.push_str(&output::labelled(program, Level::Help, &help));
    }
    output::to_stderr(&lines);
}

fn say_in_json(error: &Error) {
    let help = help(error);
    let help: Vec<&str> = help.as_deref().into_iter().collect();
    let (entry, name) = error
        .entry()
        .map_or((None, None), |(index, name)| (Some(index), name));
    print_json(JsonDetail {
        kind: error.kind(),
        code: error.code(),
        message: &error.to_string(),
        path: error.path().map(Path::to_string_lossy).map(Into::into),
        entry,
        name,
        offset: error.offset(),
        missing: error.missing(),
        route: route(error),
        help: &help,
    });
}

/// Returns the skill that a failed promote is for.
fn route(error: &Error) -> Option<&'static str> {
    #[cfg(feature = "promote")]
    return super::promote::route(error);
    #[cfg(not(feature = "promote"))]
    {
        let _ = error;
        None
    }
}

fn print_json(error: JsonDetail<'_>) {
    let mut out = Out::new();
    // A failure to write it is ignored: the exit status and standard error already report the
    // error.
    let _ = out.json(&JsonError { error }).and_then(|()| out.end());
}

fn status(kind: Kind) -> u8 {
    match kind {
        Kind::Usage => 2,
        Kind::NotFound => 3,
        Kind::Ambiguous => 4,
        _ => 1,
    }
}

/// Returns the exit status if clap ends the program: 0 after help and version, 2 after a wrong
/// command line.
pub(super) fn with_usage(error: &clap::Error, json: bool) -> ExitCode {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return with(
            output::to_stdout(text.as_bytes()).map(|()| Outcome::Done),
            false,
        );
    }
    let Some(message) = text.strip_prefix("error: ") else {
        // This is the help that is printed because a command is missing.
        output::to_stderr(&text);
        if json {
            print_usage_json("a command is missing", "lbpayload --help");
        }
        return ExitCode::from(2);
    };
    let is_other_build =
        !cfg!(feature = "cli") && error.kind() == clap::error::ErrorKind::InvalidSubcommand;
    let UsageLines { error, note, help } = UsageLines::of(message);
    let mut lines = output::labelled("lbpayload", Level::Error, &error);
    let other = "this build for boot images has only some of the commands";
    let note = match is_other_build {
        true => Some(other.to_owned()),
        false => note,
    };
    if let Some(note) = note {
        lines.push_str(&output::labelled("lbpayload", Level::Note, &note));
    }
    lines.push_str(&output::labelled("lbpayload", Level::Help, &help));
    output::to_stderr(&lines);
    if json {
        print_usage_json(&error, &help);
    }
    ExitCode::from(2)
}

fn print_usage_json(message: &str, help: &str) {
    print_json(JsonDetail {
        kind: Kind::Usage,
        code: "usage",
        message,
        path: None,
        entry: None,
        name: None,
        offset: None,
        route: None,
        missing: &[],
        help: &[help],
    });
}

/// The message of clap, as the three lines that every error of the program has.
struct UsageLines {
    error: String,
    note: Option<String>,
    help: String,
}

impl UsageLines {
    fn of(message: &str) -> Self {
        let mut error = String::new();
        let (mut note, mut tip) = (None, None);
        for line in message
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            if let Some(values) = line.strip_prefix("[possible values: ") {
                note = Some(format!("possible values: {}", values.trim_end_matches(']')));
            } else if let Some(usage) = line.strip_prefix("Usage: ") {
                note.get_or_insert_with(|| format!("usage: {usage}"));
            } else if let Some(text) = line.strip_prefix("tip: ") {
                tip.get_or_insert_with(|| format!("{text} (see also `--help`)"));
            } else if !line.starts_with("For more information") {
                let space = if error.is_empty() { "" } else { " " };
                error.push_str(space);
                error.push_str(line);
            }
        }
        let error = error.replace(
            "the following required arguments were not provided: ",
            "missing arguments: ",
        );
        let help = tip.unwrap_or_else(|| "for more information, try `--help`".into());
        Self { error, note, help }
    }
}
