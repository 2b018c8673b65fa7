//! The helper of mount(8): `mount.lbpayload SRC DIR [-sfnvrw] [-N NAMESPACE] [-o OPTIONS]`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Parser};

use crate::error::Result;
use crate::sys::Inherited;

use super::exit::{self, Outcome};
use super::mount_options::Options;
use super::{logging, mount};

/// The program names that select this helper.
pub(super) const NAMES: [&str; 2] = ["mount.lbpayload", "mount.fuse.lbpayload"];

/// The command line that mount(8) uses; see its section on external helpers.
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
    /// Ignore unknown mount options
    #[arg(short = 's')]
    sloppy: bool,
    /// Do everything except the mount itself
    #[arg(short = 'f')]
    fake: bool,
    /// Print more messages
    #[arg(short, action = ArgAction::Count)]
    verbose: u8,
    /// Do not write mtab (it does not exist anyway)
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Mount read-only (always the case)
    #[arg(short = 'r')]
    read_only: bool,
    /// Mount read-write (not possible)
    #[arg(short = 'w')]
    read_write: bool,
    /// The mount namespace to mount in: a process ID or a path
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<PathBuf>,
    /// The type of the file system
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

pub(super) fn main(args: &[OsString], inherited: Inherited) -> ExitCode {
    let name = OsString::from(NAMES[0]);
    let helper = match Helper::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(helper) => helper,
        Err(error) => return exit::with_usage(&error, false),
    };
    logging::start("lbpayload", helper.verbose, false);
    exit::with(run(&helper, inherited), false)
}

fn run(helper: &Helper, inherited: Inherited) -> Result<Outcome> {
    let mut options = Options::default();
    for text in &helper.options {
        if helper.sloppy {
            for error in options.add_ignoring_unknown(text) {
                log::warn!("{error}");
            }
        } else {
            options.add(text)?;
        }
    }
    if helper.read_write {
        log::warn!("mounted read-only, a payload cannot be changed");
    }
    let invocation = mount::Invocation {
        namespace: helper.namespace.as_deref().map(namespace),
        fake: helper.fake,
        inherited,
        ..mount::Invocation::default()
    };
    mount::mount(&helper.source, &helper.dir, &options, invocation)
}

/// Returns the path of a mount namespace. As in mount(8), `given` is a process ID or a path.
fn namespace(given: &Path) -> PathBuf {
    match given.to_str().map(str::parse::<u32>) {
        Some(Ok(process)) => format!("/proc/{process}/ns/mnt").into(),
        _ => given.to_owned(),
    }
}
