//! The command line as scripts see it: exact output, exit statuses, messages.
//!
//! Nothing here needs root or a device: images are regular files.

#[path = "../support/mod.rs"]
mod support;

/// Runs `lbpayload` with arguments of any kind.
macro_rules! lb {
    ($($arg:expr),* $(,)?) => {
        $crate::support::run([$(std::ffi::OsStr::new($arg)),*])
    };
}

mod broken;
mod cat;
mod damage;
mod dev;
mod general;
mod import;
mod import_bad;
mod import_sums;
mod interrupted;
mod large;
mod list;
mod memory;
mod pack;
mod pack_bad;
mod pack_changed;
mod probe;
mod quiet;
mod reference;
mod reviewed;
mod sample;
mod verify;
