//! Says which devices were examined, and why no payload was found.

use crate::error::{Error, Kind, printable};
use nix::unistd::geteuid;

use super::finding::{Finding, Verdict};

/// The number of devices with problems that a message names.
const NAMED: usize = 3;

/// Returns the error for findings without a payload.
pub fn nothing_found(findings: &[Finding], from: &str) -> Error {
    let mut tried = findings.iter().filter(|f| f.verdict != Verdict::Empty);
    if tried.clone().next().is_some() && tried.all(Finding::is_denied) {
        let what = match findings {
            [one] => path(one),
            _ => format!("any of the {} devices", findings.len()),
        };
        let error = Error::new(Kind::NotFound, format!("no permission to read {what}"))
            .with_code("no-permission");
        return match geteuid().is_root() {
            true => {
                error.advice("root was refused too: check that the container may use the devices")
            }
            false => error,
        };
    }
    let mut damaged = findings.iter().filter(|f| f.verdict == Verdict::Corrupt);
    if let (Some(only), None) = (damaged.next(), damaged.next()) {
        let why = only.error.as_ref().map(Error::to_string);
        let line = format!(
            "the only payload is damaged: {}",
            why.unwrap_or_else(|| path(only))
        );
        let mut error = Error::new(Kind::NotFound, "")
            .with_line(line)
            .with_path(&only.path)
            .with_code("damaged-candidate");
        if let Some(found) = &only.error {
            if let Some((index, name)) = found.entry() {
                error = error.with_entry(index, name);
            }
            // What repairs it, if that is known.
            if let Some(help) = found.help() {
                error = error.advice(help);
            }
        }
        return match findings.len() {
            1 => error,
            _ => error.note(examined(findings, from, &[Verdict::Unreadable])),
        };
    }
    match findings {
        [one] if one.verdict == Verdict::Unreadable => {
            let message = format!("could not read {}{}", path(one), why(one));
            let error = Error::new(Kind::NotFound, message);
            match one.error.as_ref().and_then(Error::help) {
                Some(help) => error.advice(help),
                None => error,
            }
        }
        [one] => Error::new(Kind::NotFound, format!("no payload in {}", path(one))),
        _ => Error::new(Kind::NotFound, "no payload found").note(summary(findings, from)),
    }
}

/// Returns a summary of the findings in one line. It names the first devices with problems.
pub fn summary(findings: &[Finding], from: &str) -> String {
    examined(findings, from, &[Verdict::Corrupt, Verdict::Unreadable])
}

/// Returns the same, but names only devices with one of these verdicts.
fn examined(findings: &[Finding], from: &str, verdicts: &[Verdict]) -> String {
    let named = |verdict| findings.iter().filter(move |f| f.verdict == verdict);
    let bad: Vec<String> = verdicts
        .iter()
        .flat_map(|&verdict| named(verdict))
        .map(|f| format!("{} is {}{}", path(f), f.verdict, why(f)))
        .collect();
    let devices = match findings.len() {
        1 => "1 device".into(),
        n => format!("{n} devices"),
    };
    let mut line = format!("examined {devices} from {from}");
    for (n, text) in bad.iter().take(NAMED).enumerate() {
        line.push_str(if n == 0 { ": " } else { ", " });
        line.push_str(text);
    }
    if bad.len() > NAMED {
        line.push_str(&format!(", and {} more", bad.len() - NAMED));
    }
    line
}

fn path(finding: &Finding) -> String {
    format!("`{}`", printable(&finding.path.to_string_lossy()))
}

/// The reason, with a colon before it.
fn why(finding: &Finding) -> String {
    let cause = finding.error.as_ref().map(Error::cause);
    cause.map_or_else(String::new, |cause| format!(": {cause}"))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;
    use crate::block::{Device, DeviceKind};

    fn finding(name: &str, verdict: Verdict, error: Option<Error>) -> Finding {
        let device = Device {
            name: name.into(),
            major: 1,
            minor: 1,
            kind: DeviceKind::Disk,
            size_bytes: None,
            lower: Vec::new(),
            backing: None,
        };
        let mut finding = Finding::new(device, PathBuf::from("/dev").join(name), verdict);
        finding.error = error;
        finding
    }

    fn unreadable(name: &str, errno: i32) -> Finding {
        let error = Error::io("open", io::Error::from_raw_os_error(errno));
        finding(name, Verdict::Unreadable, Some(error))
    }

    #[test]
    fn without_permission_for_any_device_the_help_is_to_run_as_root() {
        let drive = || finding("sr0", Verdict::Empty, None);
        let denied = || unreadable("sda", libc::EACCES);
        let code = |findings: &[Finding]| nothing_found(findings, "/dev").code();
        let all = [denied(), unreadable("sdb", libc::EPERM), drive()];
        let error = nothing_found(&all, "/dev");
        assert_eq!(error.code(), "no-permission");
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.help().is_some(), geteuid().is_root());
        assert_eq!(code(&[denied(), unreadable("sdb", libc::EIO)]), "not-found");
        assert_eq!(
            code(&[denied(), finding("sdb", Verdict::NoMagic, None)]),
            "not-found"
        );
        assert_eq!(code(&[drive()]), "not-found");
        assert_eq!(code(&[]), "not-found");
    }

    #[test]
    fn the_only_payload_comes_first_if_it_is_damaged() {
        let corrupt = |name: &str| {
            let error = Error::new(Kind::Format, "cut off").with_path(format!("/dev/{name}"));
            finding(name, Verdict::Corrupt, Some(error))
        };
        let mut findings: Vec<Finding> = (0..10)
            .map(|n| unreadable(&format!("loop{n}"), libc::EIO))
            .collect();
        findings.push(corrupt("sdb"));
        let error = nothing_found(&findings, "/dev");
        assert_eq!(error.code(), "damaged-candidate");
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.path(), Some(std::path::Path::new("/dev/sdb")));
        let line = error.to_string();
        assert!(
            line.contains("`/dev/sdb`") && !line.contains("loop"),
            "{line}"
        );
        let notes = error.notes();
        assert!(
            notes.len() == 1 && notes[0].matches("loop").count() <= 3,
            "{notes:?}"
        );
        findings.push(corrupt("sdc"));
        assert_eq!(nothing_found(&findings, "/dev").code(), "not-found");
    }
}
