//! The program as `payload-import`: a drop-in replacement for the reference importer.
//!
//! It keeps the calls, the lines on standard output and the exit statuses that existing scripts
//! rely on. The import itself is ours, synced and atomic.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::block::{Devices, Roots, SourceOptions, mount_proc};
use crate::durable::Directory;
use crate::error::Result;
use crate::import::{Options, Tuning, import};
use crate::probe::has_magic;
use crate::sys::share_one_heap;

use super::args::ProgressForm;
use super::output::{Out, to_stderr};
use super::protection::{Protected, default_memory};
use super::{logging, progress, signals};

/// The program name that selects this mode.
pub(super) const NAME: &str = "payload-import";

const USAGE: &str = "Usage:
  payload-import --mount-proc
  payload-import --probe <device>
  payload-import --device <device> <dest-dir>
  payload-import --from-proc <dest-dir>
  payload-import <dest-dir>
";

#[derive(Debug, PartialEq, Eq)]
enum Call<'a> {
    MountProc,
    Probe(&'a Path),
    Device(&'a Path, &'a Path),
    FromProc(&'a Path),
    FromAnywhere(&'a Path),
}

pub(super) fn main(args: &[OsString]) -> ExitCode {
    logging::start(NAME, 0, false);
    let Some(call) = parse(args) else {
        to_stderr(USAGE);
        return ExitCode::from(1);
    };
    match run(&call) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            to_stderr(&format!("{NAME}: {error}\n"));
            signals::die_as_asked();
            ExitCode::from(1)
        }
    }
}

fn parse(args: &[OsString]) -> Option<Call<'_>> {
    let args: Vec<&Path> = args.iter().map(Path::new).collect();
    let is = |arg: &Path, option: &str| arg == Path::new(option);
    match args.as_slice() {
        [option] if is(option, "--mount-proc") => Some(Call::MountProc),
        [option, device] if is(option, "--probe") => Some(Call::Probe(device)),
        [option, dest] if is(option, "--from-proc") => Some(Call::FromProc(dest)),
        _ => parse_import(&args),
    }
}

/// Parses the arguments of an import. `--device` may come before and after the destination, and
/// the last one wins.
fn parse_import<'a>(args: &[&'a Path]) -> Option<Call<'a>> {
    let (mut device, mut dest) = (None, None);
    let mut args = args.iter().copied();
    while let Some(arg) = args.next() {
        if arg == Path::new("--device") {
            device = Some(args.next()?);
        } else if dest.replace(arg).is_some() {
            return None;
        }
    }
    match (device, dest?) {
        (Some(device), dest) => Some(Call::Device(device, dest)),
        (None, dest) if dest.as_os_str().as_encoded_bytes().starts_with(b"-") => None,
        (None, dest) => Some(Call::FromAnywhere(dest)),
    }
}

fn run(call: &Call<'_>) -> Result<u8> {
    match *call {
        Call::MountProc => mount_proc().map(|()| 0),
        Call::Probe(device) => Ok(u8::from(!has_magic(device))),
        Call::Device(device, dest) => copy(device, dest),
        Call::FromProc(dest) => {
            mount_proc()?;
            first_of(&Devices::from_proc(&Roots::default())?, dest)
        }
        Call::FromAnywhere(dest) => {
            let listed = mount_proc().and_then(|()| Devices::from_proc(&Roots::default()));
            match listed {
                Ok(devices) => match first_of(&devices, dest)? {
                    2 => first_of(&Devices::from_dev(&Roots::default()), dest),
                    status => Ok(status),
                },
                Err(_) => {
                    to_stderr(
                        "payload-import: /proc/partitions unavailable, falling back to /dev scan\n",
                    );
                    first_of(&Devices::from_dev(&Roots::default()), dest)
                }
            }
        }
    }
}

/// Imports the first listed device that has the magic. Returns 2 if there is none.
fn first_of(devices: &Devices, dest: &Path) -> Result<u8> {
    for device in devices.iter() {
        match devices.node(device) {
            Ok(node) if has_magic(node.path()) => return copy(node.path(), dest),
            Ok(_) => {}
            Err(e) => log::debug!("{e}"),
        }
    }
    Ok(2)
}

fn copy(device: &Path, dest: &Path) -> Result<u8> {
    let source = SourceOptions::default().open(device)?;
    // It never searches a device for a trailer.
    let memory = default_memory();
    let protected = Protected::open(source, memory / 4, None, None)?;
    let payload = protected.payload()?;
    // The reference also opens the directory before it prints its first line.
    drop(Directory::open_or_make(dest, false)?);
    share_one_heap();
    signals::listen()?;
    let mut out = Out::new();
    let mut said = out
        .line(&format!(
            "{NAME}: reading {} files from {}",
            payload.claimed_files(),
            device.display()
        ))
        .and_then(|()| out.flush());
    let options = Options {
        dest: dest.to_path_buf(),
        make_parents: false,
        use_embedded: false,
        keep_owner_and_mode: true,
        tuning: Tuning::for_memory(memory),
        ..Options::default()
    };
    let progress = progress::shown(Some(ProgressForm::None));
    let mut tell = |name: &str| {
        if said.is_ok() {
            said = out.line(&format!("{NAME}: {name}"));
        }
    };
    let result = import(&payload, options, &*progress, Some(&mut tell));
    let ended = out.end();
    protected.warn();
    let report = result?;
    // Errors of standard output are not failures, as in the reference: the files are complete.
    if let Err(e) = said.and(ended) {
        log::debug!("{e}");
    }
    if report.failed.is_empty() {
        return Ok(0);
    }
    // The others are complete, but a script must not go on as if all were.
    for failed in report.failed {
        let error = failed.into_error(&**payload.source());
        to_stderr(&format!("{NAME}: {error}\n"));
    }
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_existing_scripts_are_parsed() {
        let parsed = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            format!("{:?}", parse(&args))
        };
        assert_eq!(parsed(&["--mount-proc"]), "Some(MountProc)");
        assert_eq!(parsed(&["--probe", "/dev/x"]), "Some(Probe(\"/dev/x\"))");
        assert_eq!(
            parsed(&["--device", "/dev/x", "d"]),
            "Some(Device(\"/dev/x\", \"d\"))"
        );
        assert_eq!(
            parsed(&["d", "--device", "/dev/x"]),
            "Some(Device(\"/dev/x\", \"d\"))"
        );
        assert_eq!(
            parsed(&["--device", "/dev/x", "d", "--device", "/dev/y"]),
            "Some(Device(\"/dev/y\", \"d\"))"
        );
        assert_eq!(parsed(&["--from-proc", "d"]), "Some(FromProc(\"d\"))");
        assert_eq!(parsed(&["d"]), "Some(FromAnywhere(\"d\"))");
        for wrong in [
            &[][..],
            &["--device"],
            &["--device", "x"],
            &["d", "--device"],
            &["--device", "x", "d", "--device"],
            &["--device", "x", "d", "e"],
            &["a", "b"],
            &["--help"],
        ] {
            assert_eq!(parsed(wrong), "None", "{wrong:?}");
        }
    }
}
