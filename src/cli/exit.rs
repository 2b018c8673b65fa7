//! How a command ends: the exit status, and what is said of an error.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::error::{Error, Kind, Result};

use super::output::{self, Level, Out};
use super::signals;

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Exit status 0.
    Done,
    /// Something was found wrong, and has been said: 1.
    Wrong,
    /// Nothing was found, and that has been said: 3.
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
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    help: &'a [&'a str],
}

/// Whether the command line asks for JSON, also where it is wrong otherwise.
pub(super) fn wants_json(args: &[OsString]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--json")
}

/// The exit status of a command. Its error is a JSON document where `json` says so and it
/// has not written a report already.
pub(super) fn with(result: Result<Outcome>, json: bool) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Wrong) => ExitCode::from(1),
        Ok(Outcome::Nothing) => ExitCode::from(3),
        // Whoever read our output has seen enough.
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

/// Says what is wrong, where exactly, and what to do next: a line each.
pub(super) fn say(program: &str, level: Level, error: &Error) {
    let mut lines = output::labelled(program, level, &error.to_string());
    for note in error.notes() {
        lines.push_str(&output::labelled(program, Level::Note, &note));
    }
    if let Some(help) = error.help() {
        lines.push_str(&output::labelled(program, Level::Help, help));
    }
    output::to_stderr(&lines);
}

fn say_in_json(error: &Error) {
    let help: Vec<&str> = error.help().into_iter().collect();
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
        help: &help,
    });
}

fn print_json(error: JsonDetail<'_>) {
    let mut out = Out::new();
    // The exit status and standard error have said it already.
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

/// The exit status where clap ends the program: help and version are success, a
/// command line that makes no sense is 2.
pub(super) fn with_usage(error: &clap::Error, json: bool) -> ExitCode {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return with(
            output::to_stdout(text.as_bytes()).map(|()| Outcome::Done),
            false,
        );
    }
    match text.strip_prefix("error: ") {
        Some(message) => output::to_stderr(&output::labelled("lbpayload", Level::Error, message)),
        // Help that was not asked for, because a command is missing.
        None => output::to_stderr(&text),
    }
    if json {
        let message = text
            .strip_prefix("error: ")
            .unwrap_or("a command is missing");
        print_json(JsonDetail {
            kind: Kind::Usage,
            code: "usage",
            message: message.lines().next().unwrap_or_default(),
            path: None,
            entry: None,
            name: None,
            offset: None,
            help: &["lbpayload --help"],
        });
    }
    ExitCode::from(2)
}
