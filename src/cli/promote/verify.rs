//! `lbpayload promote verify`: a line for each check, as a gate before the image is flashed.

use std::path::Path;

use serde::Serialize;

use crate::error::{Result, printable};
use crate::promote::{Check, CheckState, CoherenceReport, Problem, shell_word, verify};

use super::super::args::ProgressForm;
use super::super::exit::Outcome;
use super::super::output::{Out, lossy};
use super::super::promote_args::{ImageArgs, PromoteArgs};
use super::super::{progress, signals};
use super::{recorded, shown};

/// The number of problems that are printed for a check. JSON has more of them.
const SHOWN: usize = 5;

#[derive(Serialize)]
struct JsonVerify<'a> {
    #[serde(serialize_with = "lossy")]
    image: &'a Path,
    ok: bool,
    release: Option<&'a str>,
    checks: Vec<JsonCheck<'a>>,
}

#[derive(Serialize)]
struct JsonCheck<'a> {
    name: &'a str,
    state: CheckState,
    message: &'a str,
    problems: Vec<JsonProblem<'a>>,
    more: u64,
    help: Vec<String>,
}

#[derive(Serialize)]
struct JsonProblem<'a> {
    #[serde(serialize_with = "lossy")]
    path: &'a Path,
    state: CheckState,
    message: &'a str,
}

impl<'a> From<&'a Problem> for JsonProblem<'a> {
    fn from(problem: &'a Problem) -> Self {
        Self {
            path: &problem.path,
            state: problem.state,
            message: &problem.message,
        }
    }
}

pub(super) fn run(
    args: &PromoteArgs,
    named: &ImageArgs,
    form: Option<ProgressForm>,
    quiet: bool,
) -> Result<Outcome> {
    signals::listen()?;
    let image = recorded::image(args, named)?;
    let progress = progress::shown(form);
    let report = verify(&image, &*progress);
    drop(progress);
    let report = report?;
    let mut out = Out::new();
    if args.json {
        out.json(&JsonVerify {
            image: &report.image,
            ok: report.is_ok(),
            release: report.release.as_deref(),
            checks: report
                .checks
                .iter()
                .map(|check| JsonCheck {
                    name: check.name,
                    state: check.state,
                    message: &check.message,
                    problems: check.problems.iter().map(JsonProblem::from).collect(),
                    more: check.more,
                    help: help(&report, check).into_iter().collect(),
                })
                .collect(),
        })?;
    } else {
        for check in &report.checks {
            if !quiet || check.state != CheckState::Ok {
                words(&mut out, &report, check)?;
            }
        }
        if !quiet {
            out.line(&format!("image: {}", shown(&report.image)))?;
        }
    }
    out.end()?;
    Ok(match report.is_ok() {
        true => Outcome::Done,
        false => Outcome::Wrong,
    })
}

fn words(out: &mut Out, report: &CoherenceReport, check: &Check) -> Result<()> {
    let state = match check.state {
        CheckState::Ok => "OK",
        CheckState::Failed => "FAILED",
        CheckState::Unchecked => "could not be checked",
    };
    out.line(&format!("{}: {state} ({})", check.name, check.message))?;
    for problem in check.problems.iter().take(SHOWN) {
        let message = printable(&problem.message);
        out.line(&format!("  {}: {message}", shown(&problem.path)))?;
    }
    let more = check.problems.len().saturating_sub(SHOWN) as u64 + check.more;
    if more > 0 {
        out.line(&format!("  and {more} more"))?;
    }
    match help(report, check) {
        Some(help) => out.line(&format!("  help: {help}")),
        None => Ok(()),
    }
}

/// Returns what to do about a check that is not OK.
fn help(report: &CoherenceReport, check: &Check) -> Option<String> {
    match check.state {
        CheckState::Ok => return None,
        CheckState::Unchecked if nix::unistd::geteuid().is_root() => return None,
        CheckState::Unchecked => return Some("run the same command as root".into()),
        CheckState::Failed => {}
    }
    let rootfs = shell_word(&report.image.join("rootfs"));
    let image = shell_word(&report.image);
    Some(match check.name {
        "kernel-images" => "`lbpayload promote` copies kernel/Image to rootfs/boot/Image".into(),
        "kernel-release" => {
            "put the arm64 kernel image there, or promote a build that has it".into()
        }
        "vermagic" => "build these modules again for this kernel, then promote them".into(),
        "bootloader-initrd" | "rootfs-initrd" => {
            format!("(cd {image} && sudo ./tools/l4t_update_initrd.sh)")
        }
        "modules-dep" => format!(
            "sudo depmod -b {rootfs} {}",
            report.release.as_deref().unwrap_or("RELEASE")
        ),
        "promoted-files" => {
            "`lbpayload promote` puts back what the overlay and the build have".into()
        }
        "initramfs-refresh" => "`lbpayload promote` rebuilds the initramfs".into(),
        _ => return None,
    })
}
