//! The options of `lbpayload fetch`, and those of a command that downloads too.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, ValueHint};

use crate::error::{Error, Kind, Result};
use crate::fetch::{self, Options};
use crate::net::Url;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["live_bootstrap", "list"])))]
pub(super) struct FetchArgs {
    /// Fetch what the live-bootstrap checkout DIR needs and does not have
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub live_bootstrap: Option<PathBuf>,

    /// Fetch what FILE lists: in each line a URL, a SHA-256 checksum and perhaps a file name
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub list: Option<PathBuf>,

    /// Where to put the files; created if missing (default: DIR/distfiles)
    #[arg(long, value_name = "DISTFILES", value_hint = ValueHint::DirPath)]
    pub dest: Option<PathBuf>,

    /// Leave out the files that the first disk of live-bootstrap carries
    #[arg(long, conflicts_with = "list")]
    pub payload_only: bool,

    /// Download nothing, only list the missing files
    #[arg(long)]
    pub offline: bool,

    #[command(flatten)]
    pub download: DownloadArgs,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// The heading of these options, since other commands have them too.
const HEADING: &str = "Download options";

/// How to download.
#[derive(Debug, PartialEq, Eq, Default, Args)]
pub(super) struct DownloadArgs {
    /// Look for the files below URL first: http://, https:// or file:// (can be repeated)
    #[arg(long, help_heading = HEADING, value_name = "URL", value_hint = ValueHint::Url)]
    pub mirror: Vec<String>,

    /// Use the mirrors in FILE too, a URL in each line
    #[arg(long, help_heading = HEADING, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub mirrors: Option<PathBuf>,

    /// The number of files to download at once, at most two from one host (default: 8)
    #[arg(long, help_heading = HEADING, value_name = "N", value_parser = jobs)]
    pub jobs: Option<NonZeroUsize>,

    /// Give up a source that sends nothing for so many seconds (default: 30)
    #[arg(long, help_heading = HEADING, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub stall_timeout: Option<u64>,
}

fn jobs(text: &str) -> std::result::Result<NonZeroUsize, String> {
    match text.parse() {
        Ok(number @ 1..=64) => NonZeroUsize::new(number).ok_or_else(String::new),
        _ => Err("expected a number from 1 to 64".into()),
    }
}

impl DownloadArgs {
    /// Returns how to fetch into `dest`.
    pub(super) fn options(&self, dest: &Path, offline: bool) -> Options {
        Options {
            dest: dest.to_path_buf(),
            jobs: self.jobs.unwrap_or(NonZeroUsize::MIN.saturating_add(7)),
            stall: Duration::from_secs(self.stall_timeout.unwrap_or(30)),
            offline,
        }
    }

    /// Reads all mirrors, in their order.
    ///
    /// # Errors
    /// A mirror is no URL.
    pub(super) fn mirrors(&self) -> Result<Vec<Url>> {
        let parse = |text: &String| {
            // The URL may hold a password, so the message does not repeat it.
            Url::parse(text).map_err(|why| {
                Error::new(Kind::Usage, format!("--mirror: {why}"))
                    .advice("for a directory of this machine, write file:///path")
            })
        };
        let mut mirrors: Vec<Url> = self.mirror.iter().map(parse).collect::<Result<_>>()?;
        if let Some(file) = &self.mirrors {
            mirrors.extend(fetch::mirrors(file)?);
        }
        Ok(mirrors)
    }
}
