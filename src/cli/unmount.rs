//! `lbpayload unmount`

use std::time::Duration;

use crate::error::{Error, Result};
use crate::mount::{IfBusy, unmount};

use super::args::UnmountArgs;
use super::exit::{self, Outcome};
use super::output::Level;

pub(super) fn run(args: &UnmountArgs) -> Result<Outcome> {
    let if_busy = if args.lazy {
        IfBusy::Detach
    } else {
        IfBusy::Fail
    };
    let timeout = Duration::from_secs(args.timeout.into());
    let warning = unmount(&args.dir, if_busy, timeout).map_err(|e| with_help(e, args))?;
    if let Some(warning) = warning.filter(|_| log::log_enabled!(log::Level::Warn)) {
        exit::say("lbpayload", Level::Warning, &warning);
    }
    Ok(Outcome::Done)
}

/// Adds the option that helps with `error`.
fn with_help(error: Error, args: &UnmountArgs) -> Error {
    let lazy = format!("lbpayload unmount --lazy {}", args.dir.display());
    match error.code() {
        "server-silent" => error.advice(format!("`{lazy}` detaches it without asking the server")),
        _ => error,
    }
}
