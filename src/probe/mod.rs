//! Finds the block devices of the machine that hold a payload.

mod distinct;
mod finding;
mod glance;
mod nothing;

use std::path::Path;
use std::sync::Arc;

use crate::block::{
    Device, Devices, DirectPolicy, FileSource, ReadAhead, Roots, Source, properties,
};
use crate::error::{Error, Kind, Result};
use crate::format::MAGIC;
use crate::progress::Progress;

use distinct::shown_by;
use finding::probe_device;

pub use finding::{Finding, Verdict};
pub use glance::glance;
pub use nothing::{nothing_found, summary};

/// Examines every block device that `devices` lists, one after the other. A device that
/// cannot be examined is a finding too.
///
/// # Errors
/// Only an interruption.
pub fn probe_all(devices: &Devices, progress: &dyn Progress) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for device in devices.iter() {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        let finding = match devices.node(device) {
            Ok(node) => {
                let mut finding = probe_device(device.clone(), node.path(), progress)?;
                if finding.verdict == Verdict::Payload {
                    finding.node = Some(node);
                }
                finding
            }
            Err(e) => {
                let path = Path::new("/dev").join(&device.name);
                Finding::new(device.clone(), path, Verdict::Unreadable).failed(e)
            }
        };
        log::debug!("{}: {}", finding.path.display(), finding.verdict);
        findings.push(finding);
    }
    mark_the_same(&mut findings);
    Ok(findings)
}

/// Examines a path that the user gave: a block device or a regular file.
///
/// # Errors
/// Only an interruption.
pub fn probe_path(
    path: &Path,
    devices: Option<&Devices>,
    progress: &dyn Progress,
) -> Result<Finding> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::metadata(path).ok();
    let number = meta
        .filter(|m| m.file_type().is_block_device())
        .and_then(|m| {
            #[allow(clippy::useless_conversion)] // dev_t differs between C libraries
            let (major, minor) = (
                nix::sys::stat::major(m.rdev()),
                nix::sys::stat::minor(m.rdev()),
            );
            Some((u32::try_from(major).ok()?, u32::try_from(minor).ok()?))
        });
    let listed = number
        .and_then(|(major, minor)| devices?.by_number(major, minor))
        .cloned();
    let device = listed.unwrap_or_else(|| Device::unlisted(path, number));
    probe_device(device, path, progress)
}

/// Examines a source that is neither a file nor a device, or says why it could not be opened.
///
/// # Errors
/// Only an interruption.
pub fn probe_source(
    path: &Path,
    opened: Result<Arc<dyn Source>>,
    progress: &dyn Progress,
) -> Result<Finding> {
    let finding = Finding::new(Device::unlisted(path, None), path.into(), Verdict::Empty);
    finding::examine(finding, opened, progress)
}

/// Marks the payloads that another device shows too (a dm or md over a disk, a loop over a
/// device, two loops over a file). Only the upper device counts, because it is the one that
/// can be opened exclusively.
fn mark_the_same(findings: &mut [Finding]) {
    for (n, other) in shown_by(findings).into_iter().enumerate() {
        findings[n].same_as = other.map(|other| findings[other].path.clone());
    }
}

/// Returns the payloads in `findings`, each once.
pub fn payloads(findings: Vec<Finding>) -> Vec<Finding> {
    let is_first = |f: &Finding| f.verdict == Verdict::Payload && f.same_as.is_none();
    findings.into_iter().filter(is_first).collect()
}

/// Returns the only payload of the machine.
///
/// # Errors
/// [`Kind::NotFound`] if there is none, [`Kind::Ambiguous`] if there are several. Both say
/// which devices were examined, and with what result.
pub fn the_only_payload(roots: &Roots, progress: &dyn Progress) -> Result<Finding> {
    let mut found = all_payloads(roots, progress)?;
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => Err(several(&found)),
    }
}

/// Returns the devices of the machine that hold the same payload. There is at least one.
///
/// # Errors
/// [`Kind::NotFound`] if there is no payload, [`Kind::Ambiguous`] if two payloads have different
/// headers.
pub fn the_copies(roots: &Roots, progress: &dyn Progress) -> Result<Vec<Finding>> {
    let found = all_payloads(roots, progress)?;
    if found.iter().any(|f| f.fingerprint != found[0].fingerprint) {
        return Err(several(&found).with_code("copies-differ"));
    }
    Ok(found)
}

/// Returns every payload of the machine, each once. There is at least one.
fn all_payloads(roots: &Roots, progress: &dyn Progress) -> Result<Vec<Finding>> {
    let devices = Devices::scan(roots)?;
    let findings = probe_all(&devices, progress)?;
    if !findings.iter().any(|f| f.verdict == Verdict::Payload) {
        return Err(nothing_found(&findings, devices.from()));
    }
    Ok(payloads(findings))
}

fn several(found: &[Finding]) -> Error {
    let paths: Vec<String> = found.iter().map(|f| f.path.display().to_string()).collect();
    let message = format!("{} payloads found: {}", found.len(), paths.join(", "));
    Error::new(Kind::Ambiguous, message)
}

/// Returns whether `path` starts with the magic, whatever follows, as `--probe` of the
/// reference importer does.
pub fn has_magic(path: &Path) -> bool {
    let Ok(source) = FileSource::open(path, DirectPolicy::Auto) else {
        return false;
    };
    let starts =
        ReadAhead::new(&source).and_then(|mut window| Ok(window.at(0, MAGIC.len())? == MAGIC));
    starts.unwrap_or(false)
}

/// Asks udev for the properties of each finding.
pub fn ask_udev(findings: &mut [Finding]) {
    for finding in findings.iter_mut().filter(|f| f.is_device) {
        finding.udev = properties(&finding.path);
    }
}
