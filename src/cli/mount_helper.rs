//! Called as mount(8)'s helper: `mount.lbpayload SRC DIR [-sfnvrw] [-o OPTIONS]`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser};

use crate::error::Result;

use super::exit::{self, Outcome};
use super::mount_options::Options;
use super::{logging, mount};

/// The names that make the program this helper.
pub(super) const NAMES: [&str; 2] = ["mount.lbpayload", "mount.fuse.lbpayload"];

/// As mount(8) calls it, see its section on external helpers.
#[derive(Debug, Parser)]
#[command(
    name = "mount.lbpayload",
    version,
    about = "Mount a payload for mount(8)"
)]
struct Helper {
    /// The image file or block device
    source: PathBuf,
    /// The mount point
    dir: PathBuf,
    /// Mount options
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Take unknown mount options for granted
    #[arg(short = 's')]
    sloppy: bool,
    /// Look whether it could be mounted, and do not
    #[arg(short = 'f')]
    fake: bool,
    /// Say more
    #[arg(short, action = ArgAction::Count)]
    verbose: u8,
    /// Write no mtab; there is none
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Read-only, which it always is
    #[arg(short = 'r')]
    read_only: bool,
    /// Read and write, which it never is
    #[arg(short = 'w')]
    read_write: bool,
    /// The file system's type
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

pub(super) fn main(args: &[OsString]) -> ExitCode {
    let name = OsString::from(NAMES[0]);
    let helper = match Helper::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(helper) => helper,
        Err(error) => return exit::with_usage(&error),
    };
    logging::start("lbpayload", helper.verbose, false);
    exit::with(run(&helper))
}

fn run(helper: &Helper) -> Result<Outcome> {
    let mut options = Options::default();
    for text in &helper.options {
        if helper.sloppy {
            for error in options.add_sloppily(text) {
                log::warn!("{error}");
            }
        } else {
            options.add(text)?;
        }
    }
    if helper.read_write {
        log::warn!("a payload is mounted read-only");
    }
    if helper.fake {
        return Ok(Outcome::Done);
    }
    mount::mount(&helper.source, &helper.dir, &options, false, None, None)
}
