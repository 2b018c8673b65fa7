//! The log: on standard error, and for a server in the background in a file or in the system's
//! log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

use crate::block::refuse_new_in_dev;
use crate::error::{Error, Result};

use super::output::{Level, labelled, to_stderr};

/// The socket of syslog and of the journal.
const SYSLOG: &str = "/dev/log";

/// The facility `daemon` of syslog(3).
const DAEMON: u8 = 3 << 3;

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Where the log goes.
#[derive(Default)]
pub(super) enum Target {
    /// Standard error.
    #[default]
    Stderr,
    /// A file, with the time of each message.
    File(File),
    /// The system's log. A message is dropped if nobody takes it at once.
    Syslog,
}

struct Logger {
    program: &'static str,
    filter: env_logger::Logger,
    /// Whether everything up to debug messages is logged, whatever the filter says.
    debug: AtomicBool,
    target: Mutex<Target>,
}

/// Starts the log on standard error. It shows warnings, more with each `verbose`, and only errors
/// if `quiet`. RUST_LOG overrides that.
pub(super) fn start(program: &'static str, verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "lbpayload=info",
        (_, 2) => "lbpayload=debug",
        _ => "trace",
    };
    let env = env_logger::Env::default().default_filter_or(level);
    let filter = env_logger::Builder::from_env(env)
        // They log URLs with their queries, and headers with passwords.
        .filter_module("ureq", LevelFilter::Info)
        .filter_module("rustls", LevelFilter::Info)
        .build();
    let max = filter.filter();
    let logger = LOGGER.get_or_init(|| Logger {
        program,
        filter,
        debug: AtomicBool::new(false),
        target: Mutex::default(),
    });
    // This fails only if a log was started before, and that one works.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(max);
    }
}

/// Logs debug messages too.
pub(super) fn show_debug() {
    if let Some(logger) = LOGGER.get() {
        logger.debug.store(true, Ordering::Relaxed);
        log::set_max_level(log::max_level().max(LevelFilter::Debug));
    }
}

/// Sends the log to `target` from now on.
pub(super) fn send_to(target: Target) {
    if let Some(logger) = LOGGER.get() {
        *logger.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }
}

/// Opens a file for the log. What it holds already is kept.
///
/// # Errors
/// It cannot be created or written.
pub(super) fn file(path: &Path) -> Result<Target> {
    let mut options = OpenOptions::new();
    options.append(true);
    let opened = match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            refuse_new_in_dev(path)?;
            options.create(true).open(path)
        }
        opened => opened,
    };
    opened
        .map(Target::File)
        .map_err(|e| Error::io("write the log", e).with_path(path))
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
            || (self.debug.load(Ordering::Relaxed) && metadata.level() <= log::Level::Debug)
    }

    fn log(&self, record: &Record<'_>) {
        let wanted = self.filter.matches(record)
            || (self.debug.load(Ordering::Relaxed) && record.level() <= log::Level::Debug);
        if !wanted {
            return;
        }
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        // If it cannot be logged, nobody can be told.
        let _ = match &mut *target {
            Target::Stderr => {
                to_stderr(&self.line(record));
                Ok(())
            }
            Target::File(file) => {
                let time = humantime::format_rfc3339_seconds(SystemTime::now());
                let line = format!("{time} {}[{}]: {}\n", self.program, pid(), text(record));
                file.write_all(line.as_bytes())
            }
            Target::Syslog => to_syslog(self.program, record),
        };
    }

    fn flush(&self) {}
}

impl Logger {
    fn line(&self, record: &Record<'_>) -> String {
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warning,
            _ => return format!("{}: {}\n", self.program, record.args()),
        };
        labelled(self.program, level, &record.args().to_string())
    }
}

fn pid() -> u32 {
    std::process::id()
}

fn text(record: &Record<'_>) -> String {
    match record.level() {
        log::Level::Error => format!("error: {}", record.args()),
        log::Level::Warn => format!("warning: {}", record.args()),
        _ => record.args().to_string(),
    }
}

/// Sends a message in the form that syslog(3) uses.
fn to_syslog(program: &str, record: &Record<'_>) -> io::Result<()> {
    let severity = match record.level() {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        _ => 7,
    };
    let priority = DAEMON | severity;
    let message = format!("<{priority}>{program}[{}]: {}", pid(), text(record));
    // A new socket each time: the system's log may have been started again.
    let socket = UnixDatagram::unbound()?;
    // The server must not wait for the log.
    socket.set_nonblocking(true)?;
    socket.send_to(message.as_bytes(), SYSLOG).map(drop)
}
