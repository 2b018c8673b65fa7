//! The command line. Only this module prints, parses arguments or exits.

mod args;
mod cat;
mod damage;
#[cfg(feature = "cli")]
mod diff;
#[cfg(feature = "cli")]
mod document;
mod exit;
#[cfg(feature = "net")]
mod fetch;
#[cfg(feature = "net")]
mod fetch_args;
mod help;
mod import;
mod list;
mod logging;
mod map;
#[cfg(feature = "mount")]
mod mount;
#[cfg(feature = "mount")]
mod mount_helper;
#[cfg(feature = "mount")]
mod mount_index;
#[cfg(feature = "mount")]
mod mount_options;
mod output;
#[cfg(feature = "cli")]
mod pack;
mod probe;
mod progress;
#[cfg(feature = "promote")]
mod promote;
#[cfg(feature = "promote")]
mod promote_args;
#[cfg(feature = "cli")]
mod protect;
mod protection;
mod reference;
#[cfg(feature = "cli")]
mod show;
mod signals;
#[cfg(feature = "cli")]
mod signer;
mod source;
mod sums;
mod trust;
#[cfg(feature = "mount")]
mod unmount;
#[cfg(feature = "mount")]
mod users;
mod values;
mod verify;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::sys::Inherited;

use args::{Cli, Command};

/// Parses the text of an option `-o` of mount, for fuzzing. Returns whether it was understood.
#[cfg(feature = "internals")]
pub fn parse_mount_options(text: &str) -> bool {
    let mut options = mount_options::Options::default();
    let known = options.add(text).is_ok();
    let errors = mount_options::Options::default().add_ignoring_unknown(text);
    assert_eq!(known, errors.is_empty(), "{text:?}");
    known
}

/// Runs the whole program. `inherited` are the files that were open when it started.
#[cfg_attr(not(feature = "mount"), allow(unused_variables))]
pub fn main(inherited: Inherited) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called_as = args.first().and_then(|a| Path::new(a).file_name());
    if called_as.is_some_and(|name| name == reference::NAME) {
        return reference::main(&args[1..]);
    }
    #[cfg(feature = "mount")]
    if called_as.is_some_and(|name| mount_helper::NAMES.iter().any(|known| name == *known)) {
        return mount_helper::main(&args[1..], inherited);
    }
    let json = exit::wants_json(&args);
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return exit::with_usage(&error, json),
    };
    let choice = match cli.color {
        clap::ColorChoice::Always => anstream::ColorChoice::Always,
        clap::ColorChoice::Never => anstream::ColorChoice::Never,
        clap::ColorChoice::Auto => anstream::ColorChoice::Auto,
    };
    choice.write_global();
    logging::start("lbpayload", cli.verbose, cli.quiet);
    let result = match &cli.command {
        #[cfg(feature = "cli")]
        Command::Pack(args) => pack::run(args, cli.progress(), cli.quiet, cli.verbose > 0),
        Command::List(args) => list::run(args),
        #[cfg(feature = "cli")]
        Command::Show(args) => show::run(args, cli.progress(), cli.quiet),
        Command::Verify(args) => verify::run(args, cli.progress(), cli.quiet),
        Command::Cat(args) => cat::run(args),
        #[cfg(feature = "cli")]
        Command::Diff(args) => diff::run(args, cli.progress(), cli.quiet),
        Command::Probe(args) => probe::run(args),
        Command::Import(args) => import::run(args, cli.progress(), cli.quiet),
        #[cfg(feature = "net")]
        Command::Fetch(args) => fetch::run(args, cli.progress(), cli.quiet),
        #[cfg(feature = "cli")]
        Command::Protect(args) => protect::protect(args, cli.progress(), cli.quiet),
        #[cfg(feature = "cli")]
        Command::Repair(args) => protect::repair(args, cli.progress(), cli.quiet),
        #[cfg(feature = "mount")]
        Command::Mount(args) => mount::run(args, cli.progress(), inherited),
        #[cfg(feature = "mount")]
        Command::Unmount(args) => unmount::run(args),
        #[cfg(feature = "promote")]
        Command::Promote(args) => promote::run(args, cli.progress(), cli.quiet),
        #[cfg(feature = "promote")]
        Command::PromoteHelper { rootfs } => promote::serve(rootfs),
        #[cfg(feature = "cli")]
        Command::Completions { shell } => document::completions(*shell),
        #[cfg(feature = "cli")]
        Command::Man { dir } => document::man(dir.as_deref()),
    };
    exit::with(result, json)
}
