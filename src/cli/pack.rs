//! `lbpayload pack`

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::pack::{self, Inputs, Options, Report};

use super::args::{PackArgs, ProgressForm};
use super::exit::Outcome;
use super::output::{Out, human_bytes, lossy};
use super::{progress, signals, sums};

#[derive(Serialize)]
struct JsonReport<'a> {
    #[serde(serialize_with = "lossy")]
    output: &'a Path,
    #[serde(flatten)]
    report: Report,
}

pub(super) fn run(args: &PackArgs, form: Option<ProgressForm>) -> Result<Outcome> {
    // The names in /dev count too: they lead to a pipe or an open file, not to a device.
    let to_stdout = ["-", "/dev/stdout"]
        .iter()
        .any(|name| args.output == Path::new(name));
    if to_stdout && args.json {
        return Err(Error::new(
            Kind::Usage,
            "--json and `-o -` both write to standard output",
        ));
    }
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(Error::new(Kind::Usage, "standard output is a terminal")
            .advice("redirect it, or name a file with -o"));
    }
    let inputs = match (&args.list, &args.live_bootstrap) {
        (Some(list), _) => Inputs::List(list.clone()),
        (_, Some(dir)) => Inputs::Bootstrap(dir.clone()),
        _ => Inputs::Paths(args.paths.clone()),
    };
    let checksums = if args.checksums.is_empty() {
        None
    } else {
        Some(sums::read(&args.checksums, None)?)
    };
    let options = Options {
        dialect: args.dialect,
        checksums,
        embed: args.embed_checksums,
        pad: args.pad.map(Into::into),
    };
    let device = is_block_device(&args.output);
    if device && !args.force {
        return Err(Error::new(
            Kind::Refused,
            "it is a block device, its content would be lost",
        )
        .with_code("needs-force")
        .doing("write")
        .with_path(&args.output)
        .advice("add --force to overwrite it"));
    }
    if !to_stdout {
        // With a stream there is nothing to clean up, and waiting for a full pipe would delay the
        // reaction to the signal.
        signals::listen()?;
    }
    let plan = pack::plan(&inputs, options)?;
    let progress = progress::shown(form);
    let report = if to_stdout {
        let out = std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::io("open", e).with_path("standard output"))?;
        pack::to_stream(&plan, File::from(out), &*progress)?
    } else if device {
        pack::to_device(&plan, &args.output, &*progress)?
    } else {
        pack::to_file(&plan, &args.output, &*progress)?
    };
    drop(progress);
    log::info!(
        "packed {} files, {} ({}) into {}",
        report.files,
        human_bytes(report.image_bytes),
        report.dialect,
        args.output.display()
    );
    if args.json {
        let mut out = Out::new();
        out.json(&JsonReport {
            output: &args.output,
            report,
        })?;
        out.end()?;
    }
    Ok(Outcome::Done)
}

fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}
