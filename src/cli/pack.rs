//! `lbpayload pack`

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Kind, Result, printable};
use crate::pack::{self, Contents, Inputs, Options, OutputDevice, Plan, Report};

use super::args::{PackArgs, ProgressForm};
use super::exit::Outcome;
use super::output::{Level, Out, human_bytes, labelled, lossy, to_stderr};
use super::{progress, signals, signer, sums};

#[derive(Serialize)]
struct JsonReport<'a> {
    #[serde(serialize_with = "lossy")]
    output: &'a Path,
    #[serde(flatten)]
    report: Report,
    /// What the device was and held before.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Contents>,
    dry_run: bool,
}

/// Where the image goes.
enum Output {
    Stdout,
    File,
    Device(OutputDevice),
}

pub(super) fn run(
    args: &PackArgs,
    form: Option<ProgressForm>,
    quiet: bool,
    verbose: bool,
) -> Result<Outcome> {
    // The names in /dev count too: they lead to a pipe or an open file, not to a device.
    let to_stdout = ["-", "/dev/stdout"]
        .iter()
        .any(|name| args.output == Path::new(name));
    if to_stdout {
        refuse_for_stdout(args)?;
    }
    let is_device = is_block_device(&args.output);
    if is_device && !args.force && !args.dry_run {
        return Err(Error::new(
            Kind::Refused,
            "it is a block device, its content would be lost",
        )
        .with_code("needs-force")
        .doing("write")
        .with_path(&args.output));
    }
    if !to_stdout {
        // With a stream there is nothing to clean up, and waiting for a full pipe would delay the
        // reaction to the signal.
        signals::listen()?;
    }
    if !to_stdout && !is_device && !args.dry_run {
        // Before the inputs are read: leftovers may be among them.
        pack::remove_leftovers(&args.output);
    }
    #[cfg(feature = "net")]
    fetch_first(args, form, quiet)?;
    let plan = plan(args, verbose)?;
    let output = if to_stdout {
        Output::Stdout
    } else if is_device {
        let device = OutputDevice::open(&args.output)?;
        device.refuse_too_small(plan.image_bytes)?;
        Output::Device(device)
    } else {
        Output::File
    };
    let name = match to_stdout {
        true => "standard output".into(),
        false => printable(&args.output.to_string_lossy()),
    };
    let device = match &output {
        Output::Device(device) => Some(device.contents().clone()),
        _ => None,
    };
    if args.dry_run {
        plan.refuse_output_among_inputs(&args.output)?;
        if matches!(output, Output::File) {
            pack::refuse_too_little_room(&args.output, plan.image_bytes)?;
        }
        return show_plan(args, &plan, &name, device);
    }
    if let (Some(device), false) = (&device, quiet) {
        let text = format!("overwriting {}", describe(&args.output, device));
        to_stderr(&labelled("lbpayload", Level::Warning, &text));
        for line in found_lines(device) {
            to_stderr(&labelled("lbpayload", Level::Note, &line));
        }
    }
    let progress = progress::shown(form);
    let report = match output {
        Output::Stdout => {
            let out = std::io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|e| Error::io("open", e).with_path("standard output"))?;
            pack::to_stream(&plan, File::from(out), &*progress)?
        }
        Output::File => pack::to_file(&plan, &args.output, &*progress)?,
        Output::Device(device) => pack::to_device(&plan, device, &*progress)?,
    };
    drop(progress);
    if !quiet {
        to_stderr(&format!("{}\n", closing_line(&name, &report)));
    }
    if args.json {
        let mut out = Out::new();
        out.json(&JsonReport {
            output: &args.output,
            report,
            device,
            dry_run: false,
        })?;
        out.end()?;
    }
    Ok(Outcome::Done)
}

/// Downloads what is missing, with `--fetch`.
#[cfg(feature = "net")]
fn fetch_first(args: &PackArgs, form: Option<ProgressForm>, quiet: bool) -> Result<()> {
    use super::fetch_args::DownloadArgs;
    match &args.live_bootstrap {
        Some(dir) if args.fetch && !args.dry_run => {
            super::fetch::before_pack(dir, &args.download, form, quiet)
        }
        _ if !args.fetch && args.download != DownloadArgs::default() => {
            let message = "--mirror, --mirrors, --jobs and --stall-timeout need --fetch";
            Err(Error::new(Kind::Usage, message).advice("add --fetch"))
        }
        _ => Ok(()),
    }
}

fn refuse_for_stdout(args: &PackArgs) -> Result<()> {
    let usage = |message: &str| Error::new(Kind::Usage, message);
    if args.json && !args.dry_run {
        return Err(usage("--json and `-o -` both write to standard output"));
    }
    if args.protect.is_some() {
        return Err(usage("--protect needs a file or a device"));
    }
    if args.verify {
        return Err(usage("--verify cannot read standard output back"));
    }
    if std::io::stdout().is_terminal() && !args.dry_run {
        return Err(
            usage("standard output is a terminal").advice("redirect it, or name a file with -o")
        );
    }
    Ok(())
}

fn plan(args: &PackArgs, verbose: bool) -> Result<Plan> {
    let inputs = match (&args.list, &args.live_bootstrap) {
        (Some(list), _) if list == Path::new("-") => {
            let mut text = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut text)
                .map_err(|e| Error::io("read", e).with_path("standard input"))?;
            Inputs::ListText(text)
        }
        (Some(list), _) => Inputs::List(list.clone()),
        (_, Some(dir)) => Inputs::Bootstrap(dir.clone()),
        _ => Inputs::Paths(args.paths.clone()),
    };
    let checksums = if args.checksums.is_empty() {
        None
    } else {
        Some(sums::read(&args.checksums, None)?)
    };
    let verify = match (args.verify, args.no_verify) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    let options = Options {
        dialect: args.dialect,
        checksums,
        embed: args.embed_checksums,
        signer: match (&args.sign, &args.signature) {
            (Some(key), _) => Some(signer::with_key(key)?),
            (None, Some(file)) => Some(signer::from_file(file)?),
            (None, None) => None,
        },
        pad: args.pad.map(Into::into),
        allow_empty: args.allow_empty,
        verify,
        sum_image: verbose,
        protect: args.protect,
        memory: usize::try_from(args.memory.get()).ok(),
    };
    pack::plan(&inputs, options)
}

/// Prints what would be written, and what is on the device.
fn show_plan(
    args: &PackArgs,
    plan: &Plan,
    name: &str,
    device: Option<Contents>,
) -> Result<Outcome> {
    let mut out = Out::new();
    let report = plan.report();
    if args.json {
        out.json(&JsonReport {
            output: &args.output,
            report,
            device,
            dry_run: true,
        })?;
    } else {
        let name = match &device {
            Some(device) => describe(&args.output, device),
            None => name.to_owned(),
        };
        out.line(&format!("would pack {} into {name}", amount(&report)))?;
        for line in device.iter().flat_map(found_lines) {
            out.line(&line)?;
        }
    }
    out.end()?;
    Ok(Outcome::Done)
}

/// Returns the line that says what was done.
fn closing_line(output: &str, report: &Report) -> String {
    let mut line = format!("packed {} into {output}", amount(report));
    if let Some(percent) = report.protect {
        line += &format!(", protected with {percent} percent");
    }
    if report.verified {
        line += ", read back and compared";
    }
    if let Some(sum) = report.sha256 {
        line += &format!(", SHA-256 {sum}");
    }
    line
}

fn amount(report: &Report) -> String {
    let files = report.files;
    let plural = if files == 1 { "" } else { "s" };
    format!("{files} file{plural} ({})", human_bytes(report.image_bytes))
}

/// Returns the device's path, size and model.
fn describe(path: &Path, device: &Contents) -> String {
    let path = path.to_string_lossy();
    let mut text = format!("`{}` ({}", printable(&path), human_bytes(device.size_bytes));
    if let Some(model) = &device.model {
        text += &format!(", {}", printable(model));
    }
    if let Some(serial) = &device.serial {
        text += &format!(", serial number {}", printable(serial));
    }
    if let Some(file) = &device.backing_file {
        text += &format!(", backed by {}", printable(file));
    }
    text + ")"
}

fn found_lines(device: &Contents) -> Vec<String> {
    let found = device.found.iter();
    match device.found.is_empty() {
        true => vec!["found on it: no file system, no partition table".into()],
        false => found
            .map(|content| format!("found on it: {content}"))
            .collect(),
    }
}

fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}
