//! The command line as scripts use it: exact output, exit statuses, messages.
//!
//! No test here needs root or a device: images are regular files.

#[path = "../support/mod.rs"]
mod support;

/// Runs `lbpayload` with arguments of any type.
macro_rules! lb {
    ($($arg:expr),* $(,)?) => {
        $crate::support::run([$(std::ffi::OsStr::new($arg)),*])
    };
}

mod broken_images;
mod cat;
mod copies;
mod damage_table;
mod diff;
mod every_command;
mod failures;
mod fixture;
mod hostile_names_and_counts;
mod import;
mod import_checksums;
mod import_destinations;
mod import_interrupted;
mod large_payloads;
mod limits;
mod list;
mod memory;
mod no_net;
mod nothing_in_dev;
mod offset;
mod pack;
mod pack_changing_inputs;
mod pack_refusals;
mod probe;
mod protection;
mod protection_bad_input;
mod quiet;
mod reference;
mod sandbox;
mod show;
mod signed;
mod verify;
