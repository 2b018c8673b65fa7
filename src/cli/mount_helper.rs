//! Called as mount(8)'s helper: `mount.lbpayload SRC DIR [-sfnvrw] [-N NAMESPACE]
//! [-o OPTIONS]`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Parser};

use crate::error::Result;
use crate::mount::Inherited;

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
    /// Do all but the mount itself
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
    /// The mount namespace of a process, or in a file, to mount in
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<PathBuf>,
    /// The file system's type
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
            for error in options.add_sloppily(text) {
                log::warn!("{error}");
            }
        } else {
            options.add(text)?;
        }
    }
    if helper.read_write {
        log::warn!("mounted read-only, a payload cannot be changed");
    }
    let way = mount::Way {
        namespace: helper.namespace.as_deref().map(namespace),
        fake: helper.fake,
        inherited,
        ..mount::Way::default()
    };
    mount::mount(&helper.source, &helper.dir, &options, way)
}

/// As mount(8) has it: a process's number, or a path.
fn namespace(given: &Path) -> PathBuf {
    match given.to_str().map(str::parse::<u32>) {
        Some(Ok(process)) => format!("/proc/{process}/ns/mnt").into(),
        _ => given.to_owned(),
    }
}
