//! Which of the machine's block devices holds a payload.

mod distinct;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::block::{
    Device, DeviceKind, Devices, DirectPolicy, FileSource, Node, Properties, Roots, Source, Window,
    properties,
};
use crate::error::{Error, Kind, Result};
use crate::format::{Dialect, Fault, MAGIC};
use crate::payload::{Cause, Index, Payload, Problem, Sha256Sum};
use crate::progress::Progress;

use distinct::distinct;

/// What was found on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A payload, its headers intact, no larger than the device.
    Payload,
    /// Something else.
    NoMagic,
    /// Nothing: a drive without a medium, a device of no bytes.
    Empty,
    /// It cannot be opened, or not be read where the headers are.
    Unreadable,
    /// The magic, and headers that are broken or do not fit the device.
    Corrupt,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Payload => "payload",
            Self::NoMagic => "no-magic",
            Self::Empty => "empty",
            Self::Unreadable => "unreadable",
            Self::Corrupt => "corrupt",
        })
    }
}

/// One device and what is on it.
#[derive(Debug)]
pub struct Finding {
    /// The path to open it by.
    pub path: PathBuf,
    /// The device as the kernel lists it.
    pub device: Device,
    /// Whether it is a block device at all, and not a regular file.
    pub is_device: bool,
    /// Its size, where it could be opened or the listing tells.
    pub size_bytes: Option<u64>,
    /// Its logical block size, where it could be opened.
    pub logical_block_size: Option<u32>,
    /// What is on it.
    pub verdict: Verdict,
    /// How wide the payload's integers are.
    pub dialect: Option<Dialect>,
    /// How many files it holds.
    pub files: Option<u64>,
    /// How many bytes it takes.
    pub payload_bytes: Option<u64>,
    /// Why the verdict is none of the good ones.
    pub error: Option<String>,
    /// What udev knows of it, where it was asked.
    pub udev: Option<Properties>,
    /// A sum over the headers, to tell the same payload from another.
    fingerprint: Option<Sha256Sum>,
    /// The node, where one had to be made; it lives as long as the finding.
    node: Option<Node>,
}

impl Finding {
    fn new(device: Device, path: PathBuf, verdict: Verdict) -> Self {
        Self {
            size_bytes: device.size_bytes,
            device,
            path,
            is_device: true,
            logical_block_size: None,
            verdict,
            dialect: None,
            files: None,
            payload_bytes: None,
            error: None,
            udev: None,
            fingerprint: None,
            node: None,
        }
    }

    /// Leaves the node behind that had to be made to open the device, for whoever
    /// is told the path.
    pub fn keep_node(&mut self) {
        if let Some(node) = self.node.take() {
            self.path = node.keep();
        }
    }

    fn failed(mut self, error: &Error) -> Self {
        self.error = Some(error.to_string());
        self
    }
}

/// Looks at every block device that `devices` lists, one after the other. A device
/// that cannot be looked at is a finding too.
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
                Finding::new(device.clone(), path, Verdict::Unreadable).failed(&e)
            }
        };
        log::debug!("{}: {}", finding.path.display(), finding.verdict);
        findings.push(finding);
    }
    Ok(findings)
}

/// Looks at what somebody named: a block device, or a regular file.
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

fn probe_device(device: Device, path: &Path, progress: &dyn Progress) -> Result<Finding> {
    let mut finding = Finding::new(device, path.to_path_buf(), Verdict::Empty);
    let source = match FileSource::open(path, DirectPolicy::Auto) {
        Ok(source) => Arc::new(source),
        Err(e) => {
            finding.verdict = match e.io_error().and_then(io::Error::raw_os_error) {
                // The drive is there, and nothing is in it.
                Some(libc::ENOMEDIUM | libc::ENXIO) => Verdict::Empty,
                _ => Verdict::Unreadable,
            };
            return Ok(finding.failed(&e));
        }
    };
    finding.size_bytes = Some(source.len());
    finding.is_device = source.is_device();
    if source.is_device() {
        finding.logical_block_size = u32::try_from(source.granule()).ok().filter(|&n| n > 1);
    }
    if source.is_empty() {
        return Ok(finding);
    }
    let source: Arc<dyn Source> = source;
    finding.judge(&source, progress)?;
    Ok(finding)
}

impl Finding {
    fn judge(&mut self, source: &Arc<dyn Source>, progress: &dyn Progress) -> Result<()> {
        let payload = match Payload::try_open(Arc::clone(source)) {
            Ok(payload) => payload,
            Err(problem) => {
                self.blame(problem, &**source);
                return Ok(());
            }
        };
        self.dialect = Some(payload.dialect());
        let mut first = None;
        let index = Index::scan(&payload, progress, &mut |problem| {
            first.get_or_insert(problem);
            Ok(())
        })?;
        self.files = Some(payload.claimed_files());
        if let Some(problem) = first {
            self.blame(problem, &**source);
            return Ok(());
        }
        self.payload_bytes = Some(index.payload_bytes());
        match fingerprint(&index) {
            Ok(sum) => {
                self.fingerprint = Some(sum);
                self.verdict = Verdict::Payload;
            }
            Err(e) => {
                self.verdict = Verdict::Unreadable;
                self.error = Some(e.to_string());
            }
        }
        Ok(())
    }

    fn blame(&mut self, problem: Problem, source: &dyn Source) {
        self.verdict = match &problem.cause {
            Cause::Fault(Fault::WrongMagic { .. }) => {
                self.verdict = Verdict::NoMagic;
                return;
            }
            Cause::Io(_) => Verdict::Unreadable,
            _ => Verdict::Corrupt,
        };
        self.error = Some(problem.into_error(source).to_string());
    }
}

/// A sum over what the headers say.
fn fingerprint(index: &Index) -> Result<Sha256Sum> {
    let mut hasher = Sha256::new();
    hasher.update(index.dialect().to_string());
    hasher.update(index.files().to_le_bytes());
    for entry in index.entries()? {
        let entry = entry?;
        hasher.update((entry.raw_name.len() as u64).to_le_bytes());
        hasher.update(&entry.raw_name);
        hasher.update(entry.size.to_le_bytes());
    }
    Ok(Sha256Sum::from_hasher(hasher))
}

/// The payloads among `findings`, each once: where a device shows the bytes of
/// another (a dm or md over a disk, a loop over a device), only the upper one
/// counts, since that is the one that may be opened alone.
pub fn payloads(findings: Vec<Finding>) -> Vec<Finding> {
    let found: Vec<Finding> = findings
        .into_iter()
        .filter(|f| f.verdict == Verdict::Payload)
        .collect();
    let keep = distinct(&found);
    found
        .into_iter()
        .zip(keep)
        .filter_map(|(finding, keep)| keep.then_some(finding))
        .collect()
}

/// The only payload of the machine.
///
/// # Errors
/// [`Kind::NotFound`] where there is none, [`Kind::Ambiguous`] where there are
/// several; both say which devices were looked at, and to what end.
pub fn the_only_payload(roots: &Roots, progress: &dyn Progress) -> Result<Finding> {
    let devices = Devices::scan(roots)?;
    let findings = probe_all(&devices, progress)?;
    let looked_at = summary(&findings, devices.from());
    let mut found = payloads(findings);
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(
            Error::new(Kind::NotFound, format!("no payload found; {looked_at}"))
                .advice("attach the disk, or name the device or the image with --device"),
        ),
        n => {
            let paths: Vec<String> = found.iter().map(|f| f.path.display().to_string()).collect();
            Err(Error::new(
                Kind::Ambiguous,
                format!("{n} payloads found: {}", paths.join(", ")),
            )
            .advice("name one of them with --device"))
        }
    }
}

/// Whether `path` starts with the magic, whatever follows: what the reference
/// importer's `--probe` asks.
pub fn has_magic(path: &Path) -> bool {
    let Ok(source) = FileSource::open(path, DirectPolicy::Auto) else {
        return false;
    };
    let starts =
        Window::new(&source).and_then(|mut window| Ok(window.at(0, MAGIC.len())? == MAGIC));
    starts.unwrap_or(false)
}

/// What was looked at, in one line: the devices that were in the way by name.
pub fn summary(findings: &[Finding], from: &str) -> String {
    let bad: Vec<String> = findings
        .iter()
        .filter(|f| matches!(f.verdict, Verdict::Unreadable | Verdict::Corrupt))
        .map(|f| match &f.error {
            Some(error) => format!("{} ({}: {error})", f.path.display(), f.verdict),
            None => format!("{} ({})", f.path.display(), f.verdict),
        })
        .collect();
    let looked = format!("looked at {} devices from {from}", findings.len());
    if bad.is_empty() {
        looked
    } else {
        format!("{looked}; not to be had: {}", bad.join("; "))
    }
}

/// Asks udev about each finding.
pub fn ask_udev(findings: &mut [Finding]) {
    for finding in findings.iter_mut().filter(|f| f.is_device) {
        finding.udev = properties(&finding.path);
    }
}

/// Whether the kind is one that stacks on others.
pub(crate) fn is_stacked(kind: DeviceKind) -> bool {
    matches!(kind, DeviceKind::Dm | DeviceKind::Md)
}
