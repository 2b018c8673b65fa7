//! The log on standard error.

use std::io::Write;

use super::output::{Level, labelled};

/// Starts the log. It shows warnings, more with each `verbose`, and only errors if `quiet`.
/// RUST_LOG overrides that.
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
    // This fails only if a log was started before, and that one works.
    drop(result);
}
