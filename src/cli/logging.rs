//! Log lines on standard error.

use std::io::Write;

use super::output::{Level, labelled};

/// Starts the log: warnings, more with each `verbose`, errors only when `quiet`.
/// RUST_LOG has the last word.
pub(super) fn start(program: &'static str, verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "lbpayload=info",
        (_, 2) => "lbpayload=debug",
        _ => "trace",
    };
    let result = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format(move |out, record| {
            let level = match record.level() {
                log::Level::Error => Level::Error,
                log::Level::Warn => Level::Warning,
                _ => return writeln!(out, "{program}: {}", record.args()),
            };
            out.write_all(labelled(program, level, &record.args().to_string()).as_bytes())
        })
        .try_init();
    // Only a second start fails, and the first one serves.
    drop(result);
}
