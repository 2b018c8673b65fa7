//! The command line as parsed. The file of each command validates it.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::block::{DirectPolicy, IoEngine};
use crate::format::Dialect;
use crate::import::ExistingPolicy;

use super::source::SourceArgs;
use super::trust::TrustArgs;
use super::values::{direct, memory, percent, size, whole_bytes};

/// Store files on raw disks (LBPAYLD1 payloads) and read them back
#[derive(Debug, Parser)]
#[command(
    name = "lbpayload",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Exit status: 0 done; 1 failed or found wrong; 2 the command line was wrong; \
                  3 nothing found; 4 more than one candidate where one is needed."
)]
pub(super) struct Cli {
    /// Print more messages (repeat for more; RUST_LOG works too)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Print no messages and no warnings, only errors and the requested output
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// When to color messages (auto: if standard error is a terminal)
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: clap::ColorChoice,

    /// How to show progress on standard error (default: a bar on a terminal)
    #[arg(long, global = true, value_name = "FORM", value_enum)]
    pub progress: Option<ProgressForm>,

    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Returns how to show progress. `None` means that it depends on whether there is a terminal.
    pub(super) fn progress(&self) -> Option<ProgressForm> {
        match (self.quiet, self.progress) {
            (true, None) => Some(ProgressForm::None),
            (_, form) => form,
        }
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressForm {
    /// One line per second, for people
    Plain,
    /// One JSON object per line
    Json,
    /// No progress
    None,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a payload from files
    #[cfg(feature = "cli")]
    Pack(PackArgs),
    /// List the size and name of each file of a payload
    List(ListArgs),
    /// Show a payload as a map: its files in proportion, and what is damaged
    #[cfg(feature = "cli")]
    Show(ShowArgs),
    /// Check a payload's whole structure and read every byte
    Verify(VerifyArgs),
    /// Write the contents of files of a payload to standard output
    Cat(CatArgs),
    /// Show which files two payloads have in common, and which differ
    #[cfg(feature = "cli")]
    Diff(DiffArgs),
    /// Find the payloads on this machine's block devices
    Probe(ProbeArgs),
    /// Copy the files of a payload into a directory
    Import(ImportArgs),
    /// Download the files of a live-bootstrap checkout, or of a list, and check them
    #[cfg(feature = "net")]
    Fetch(super::fetch_args::FetchArgs),
    /// Add hashes and redundancy behind a payload, with which damage is found and healed
    #[cfg(feature = "cli")]
    Protect(ProtectArgs),
    /// Repair a protected payload that is damaged
    #[cfg(feature = "cli")]
    Repair(RepairArgs),
    /// Mount a payload as a read-only directory, through FUSE
    #[cfg(feature = "mount")]
    Mount(MountArgs),
    /// Unmount a payload, and wait until its server has ended
    #[cfg(feature = "mount")]
    Unmount(UnmountArgs),
    /// Stage overlay files and build outputs into a Jetson BSP image tree
    #[cfg(feature = "promote")]
    Promote(super::promote_args::PromoteArgs),
    /// Write to rootfs/ for `promote`, which starts this command through sudo
    #[cfg(feature = "promote")]
    #[command(name = crate::promote::HELPER_COMMAND, hide = true)]
    PromoteHelper {
        /// The directory to write to; its path must not contain symlinks
        #[arg(value_hint = clap::ValueHint::DirPath)]
        rootfs: std::path::PathBuf,
    },
    /// Print shell completions
    #[cfg(feature = "cli")]
    Completions {
        /// The shell to print completions for
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all manual pages to a directory
    #[cfg(feature = "cli")]
    Man {
        /// Write lbpayload.1 and a page for each command to DIR
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct PackArgs {
    /// Where to write: a file, a block device (with --force), or - for standard output
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// Files, or directories whose regular files are packed; written sorted by name
    #[arg(value_name = "PATH", required_unless_present_any = ["list", "live_bootstrap"],
          conflicts_with_all = ["list", "live_bootstrap"], value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,

    /// Pack the files that FILE lists, in its order; each line is NAME, a space, an absolute
    /// PATH (- reads the list from standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "live_bootstrap",
          value_hint = ValueHint::FilePath)]
    pub list: Option<PathBuf>,

    /// Pack what the live-bootstrap checkout DIR needs after its import_payload step
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub live_bootstrap: Option<PathBuf>,

    /// Download the files that the checkout does not have first, as `lbpayload fetch` does
    #[cfg(feature = "net")]
    #[arg(long, requires = "live_bootstrap")]
    pub fetch: bool,

    #[cfg(feature = "net")]
    #[command(flatten)]
    pub download: super::fetch_args::DownloadArgs,

    /// Check every input against the checksums in FILE (sha256sum format; can be repeated)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub checksums: Vec<PathBuf>,

    /// Add an entry SHA256SUMS with the checksums of all other entries, as the last one
    #[arg(long)]
    pub embed_checksums: bool,

    /// Sign the embedded checksums with this secret key of minisign (the password is asked for, or
    /// read from MINISIGN_PASSWORD)
    #[arg(long, value_name = "SECRETKEY", requires = "embed_checksums",
          conflicts_with = "signature", value_hint = ValueHint::FilePath)]
    pub sign: Option<PathBuf>,

    /// Add the signature of the embedded checksums that minisign has made elsewhere
    #[arg(long, value_name = "FILE", requires = "embed_checksums",
          value_hint = ValueHint::FilePath)]
    pub signature: Option<PathBuf>,

    /// The width of the integers: u64, or u32 for the earliest importers
    #[arg(long, value_name = "WIDTH", default_value = "u64")]
    pub dialect: Dialect,

    /// Pad the image to a multiple of BYTES (K, M and G are powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub pad: Option<NonZeroU64>,

    /// Allow overwriting a block device
    #[arg(long)]
    pub force: bool,

    /// Read the written image back and compare it (done for block devices without this option)
    #[arg(long, overrides_with = "no_verify")]
    pub verify: bool,

    /// Do not read a block device back
    #[arg(long, overrides_with = "verify")]
    pub no_verify: bool,

    /// Allow a payload without files
    #[arg(long)]
    pub allow_empty: bool,

    /// Show what would be written, and what is on the device, without writing anything
    #[arg(long)]
    pub dry_run: bool,

    /// Add a protection trailer, with which PERCENT of damage can be healed (1 to 50, default 5)
    #[arg(long, value_name = "PERCENT", value_parser = percent, num_args = 0..=1,
          require_equals = true, default_missing_value = "5", conflicts_with = "pad")]
    pub protect: Option<u32>,

    /// The memory limit for --protect in bytes, at least 4M (K, M and G are powers of 1024)
    #[arg(long, value_name = "BYTES", default_value = "192M", value_parser = memory)]
    pub memory: NonZeroU64,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The image file, block device or http(s) URL
    #[arg(value_name = "SRC", value_hint = ValueHint::FilePath)]
    pub source: PathBuf,

    #[command(flatten)]
    pub input: SourceArgs,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The image file, block device or http(s) URL
    #[arg(value_name = "SRC", value_hint = ValueHint::FilePath)]
    pub source: PathBuf,

    #[command(flatten)]
    pub input: SourceArgs,

    /// Read every byte, and show what is damaged
    #[arg(long)]
    pub verify: bool,

    /// Write the map as an SVG drawing to FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,

    /// Write the map and a table of the files as one HTML page to FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The image file, block device or http(s) URL
    #[arg(value_name = "SRC", required_unless_present = "device", conflicts_with = "device",
          value_hint = ValueHint::FilePath)]
    pub source: Option<PathBuf>,

    /// In place of SRC, several copies of one payload: what one copy cannot give, the next must
    #[arg(long, value_name = "SRC", value_hint = ValueHint::FilePath)]
    pub device: Vec<PathBuf>,

    /// Write a map of the sectors that cannot be read to FILE, in the format of GNU ddrescue
    #[arg(long, value_name = "FILE", conflicts_with = "device", value_hint = ValueHint::FilePath)]
    pub map: Option<PathBuf>,

    #[command(flatten)]
    pub input: SourceArgs,

    #[command(flatten)]
    pub trust: TrustArgs,

    /// Check the files against the checksums in FILE (sha256sum format; can be repeated)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub checksums: Vec<PathBuf>,

    /// Read the checksums from the sources of the live-bootstrap checkout DIR
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub live_bootstrap: Option<PathBuf>,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(override_usage = "lbpayload cat [OPTIONS] <SRC> <NAME>...\n       \
                            lbpayload cat [OPTIONS] --device <SRC> --device <SRC> <NAME>...")]
pub(super) struct CatArgs {
    /// The image file, block device or http(s) URL
    #[arg(value_name = "SRC", required_unless_present = "device", value_hint = ValueHint::FilePath)]
    pub source: Option<PathBuf>,

    /// Names of files in the payload
    #[arg(value_name = "NAME", required_unless_present = "device")]
    pub names: Vec<OsString>,

    /// In place of SRC, several copies of one payload: what cannot be read from one is read from
    /// the next
    #[arg(long, value_name = "SRC", value_hint = ValueHint::FilePath)]
    pub device: Vec<PathBuf>,

    #[command(flatten)]
    pub input: SourceArgs,

    #[command(flatten)]
    pub trust: TrustArgs,
}

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The old image file, block device or http(s) URL
    #[arg(value_name = "OLD", value_hint = ValueHint::FilePath)]
    pub old: PathBuf,

    /// The new image file, block device or http(s) URL
    #[arg(value_name = "NEW", value_hint = ValueHint::FilePath)]
    pub new: PathBuf,

    #[command(flatten)]
    pub input: SourceArgs,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// Probe only these devices instead of every block device
    #[arg(value_name = "DEVICE", value_hint = ValueHint::FilePath)]
    pub devices: Vec<PathBuf>,

    /// Print a table of all devices with the result for each
    #[arg(long)]
    pub all: bool,

    /// Print the properties of one DEVICE for a rule of udev, after reading only its first headers
    #[arg(long, requires = "devices", conflicts_with_all = ["all", "json"])]
    pub udev: bool,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The directory to copy to; created if missing
    #[arg(value_name = "DEST", default_value = "/external/distfiles",
          value_hint = ValueHint::DirPath)]
    pub dest: PathBuf,

    /// A second positional argument. It is parsed only to explain that an image needs --device
    #[arg(hide = true)]
    pub extra: Option<PathBuf>,

    /// The image file, block device or http(s) URL (default: the only payload that probing finds). Repeat it for
    /// several copies of one payload: what cannot be read from one is read from the next
    #[arg(long, value_name = "SRC", value_hint = ValueHint::FilePath)]
    pub device: Vec<PathBuf>,

    /// Without --device: use all devices that hold the same payload, as copies of each other
    #[arg(long, conflicts_with = "device")]
    pub copies: bool,

    #[command(flatten)]
    pub input: SourceArgs,

    #[command(flatten)]
    pub trust: TrustArgs,

    /// Copy only these files (put DEST before this option, or after --)
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub files: Vec<String>,

    /// Check the files against the checksums in FILE while copying (sha256sum format; can be
    /// repeated)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub checksums: Vec<PathBuf>,

    /// Read the checksums from the sources of the live-bootstrap checkout DIR
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub live_bootstrap: Option<PathBuf>,

    /// Whether to use O_DIRECT: where it works (auto), always (or fail), or never
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = direct,
          hide_default_value = false)]
    pub direct: DirectPolicy,

    /// How to keep several reads and writes in flight: auto (uring where it works), uring or
    /// threads
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub io: IoEngine,

    /// The memory limit for buffers and batches in bytes, at least 4M (default: 64M, or a quarter
    /// of what the machine has available, if that is less)
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    pub memory: Option<NonZeroU64>,

    /// What to do if a file of the same name has other content: replace it, keep it, or fail
    /// (error)
    #[arg(long, value_name = "WHAT", default_value = "replace")]
    pub existing: ExistingPolicy,

    /// How often to read bad sectors again, after everything that reads well
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        conflicts_with = "fail_fast"
    )]
    pub retries: u32,

    /// Stop at the first file that cannot be read
    #[arg(long)]
    pub fail_fast: bool,

    /// Keep what could be read of a damaged file as NAME.partial, with zeros in place of the rest
    #[arg(long, conflicts_with = "fail_fast")]
    pub partial: bool,

    /// Show what would be done, without doing it
    #[arg(long)]
    pub dry_run: bool,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ProtectArgs {
    /// The image file or block device (with --force)
    #[arg(value_name = "SRC", value_hint = ValueHint::FilePath)]
    pub source: PathBuf,

    /// Where the payload starts in SRC, in bytes (K, M and G are powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = whole_bytes)]
    pub offset: Option<u64>,

    /// How much may be damaged and still be healed, in percent of the payload (1 to 50)
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = percent)]
    pub percent: u32,

    /// Write to a device, and over data behind the payload
    #[arg(long)]
    pub force: bool,

    /// Take the protection away; a file gets its former length back
    #[arg(long, conflicts_with = "percent")]
    pub remove: bool,

    /// The memory limit in bytes, at least 4M (K, M and G are powers of 1024)
    #[arg(long, value_name = "BYTES", default_value = "192M", value_parser = memory)]
    pub memory: NonZeroU64,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    /// The image file or block device
    #[arg(value_name = "SRC", value_hint = ValueHint::FilePath)]
    pub source: PathBuf,

    /// Where the payload starts in SRC, in bytes (K, M and G are powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = whole_bytes)]
    pub offset: Option<u64>,

    /// Another copy of the payload, protected or not, to take intact blocks from (can be repeated).
    /// It may be an http or https URL
    #[arg(long, value_name = "COPY", value_hint = ValueHint::FilePath)]
    pub from: Vec<PathBuf>,

    /// Write a repaired copy to OUT, and leave SRC as it is
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,

    /// Show what would be repaired, without writing anything
    #[arg(long)]
    pub dry_run: bool,

    /// Repair what is possible even if not everything is
    #[arg(long, conflicts_with = "output")]
    pub force: bool,

    /// The memory limit in bytes, at least 4M (K, M and G are powers of 1024)
    #[arg(long, value_name = "BYTES", default_value = "192M", value_parser = memory)]
    pub memory: NonZeroU64,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = MOUNT_OPTIONS)]
pub(super) struct MountArgs {
    /// The image file, block device or http(s) URL
    #[arg(value_name = "SRC", value_hint = ValueHint::FilePath)]
    pub source: PathBuf,

    #[command(flatten)]
    pub input: SourceArgs,

    #[command(flatten)]
    pub trust: TrustArgs,

    /// The directory to mount on; if missing, it is created, and removed after the unmount
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,

    /// Mount options, separated by commas (see --help; can be repeated)
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    pub options: Vec<String>,

    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,

    /// Stay in the foreground and log the requests of the kernel (-f -o debug)
    #[arg(short)]
    pub debug: bool,

    /// Read with a single thread (-o max_threads=1)
    #[arg(short)]
    pub single_thread: bool,

    /// Serve the intact parts of a broken image
    #[arg(long)]
    pub lenient: bool,

    /// Whether to bypass the page cache of the source: where it works (auto), always or never;
    /// always if no value is given, never without the option
    #[arg(long, value_name = "WHEN", value_parser = direct, num_args = 0..=1,
          require_equals = true, default_missing_value = "always")]
    pub direct: Option<DirectPolicy>,

    /// Save the contents of the headers in FILE, and read them from there at the next mount of
    /// the image
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub index: Option<PathBuf>,

    /// Write a line feed to the open file descriptor N once the mount answers, and close it
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<i32>,
}

const MOUNT_OPTIONS: &str = "\
Mount options:
  allow_other           let all users read the files, as the file modes allow; for other
                        users than root, /etc/fuse.conf must have the line user_allow_other
  allow_root            let root and the user who mounted it read the files, nobody else
  auto_unmount          unmount even when the server is killed
  uid=ID, gid=ID        owner and group of the files, numbers or names (default: those of
                        the caller)
  umask=OCTAL           bits to remove from the modes 0444 (files) and 0555 (directory)
  fsname=NAME           the first field of /proc/mounts (default: SRC)
  timeout=TIME          unmount after this time without use (seconds, or 5m, 2h, 1d)
  max_threads=N         how many reads may wait for the disk at the same time (default: 16)
  log=FILE              where the server logs (default: syslog, with -f standard error)
  debug                 log the requests of the kernel
  nolistxattr           leave our extended attributes out of listings, for programs that
                        copy all of them (rsync -X, overlayfs)
  direct_io             read past the mount's page cache: better for several readers of
                        large files that are read once, worse for everything else
  lenient, direct=WHEN, index=FILE, offset=BYTES, trust=PUBLICKEY
                        the same as the command line options
  noexec                nothing on it can be executed
  nosandbox             the server keeps the right to open other files
It is always ro, nosuid and nodev. What mount(8) and fstab add is accepted.";

#[derive(Debug, Args)]
pub(super) struct UnmountArgs {
    /// The mount point
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,

    /// Detach it at once even if it is in use, without asking the server or waiting for it
    #[arg(short, long)]
    pub lazy: bool,

    /// How long to wait for the server to end
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub timeout: u32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
