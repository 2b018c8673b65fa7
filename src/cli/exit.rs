//! How a command ends: the exit status, and the last line on standard error.

use std::process::ExitCode;

use crate::error::{Error, Kind, Result};

use super::{output, signals};

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

/// The exit status of a command.
pub(super) fn with(result: Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Wrong) => ExitCode::from(1),
        Ok(Outcome::Nothing) => ExitCode::from(3),
        // Whoever read our output has seen enough.
        Err(error) if error.kind() == Kind::ClosedPipe => ExitCode::SUCCESS,
        Err(error) => {
            say("lbpayload", &error);
            signals::die_as_asked();
            ExitCode::from(status(error.kind()))
        }
    }
}

/// Prints an error as every command does.
pub(super) fn say(program: &str, error: &Error) {
    output::to_stderr(&format!("{program}: error: {error}\n"));
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
pub(super) fn with_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let text = error.render().to_string();
        return with(output::to_stdout(text.as_bytes()).map(|()| Outcome::Done));
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").map_or_else(
        // Help that was not asked for, because a command is missing.
        || text.clone(),
        |message| format!("lbpayload: error: {message}"),
    );
    output::to_stderr(&text);
    ExitCode::from(2)
}
