//! What is on one device.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::block::{Device, DirectPolicy, FileSource, Node, Properties, Source};
use crate::error::{Error, Result};
use crate::format::{Dialect, Fault};
use crate::payload::{Cause, Index, Payload, Problem, Sha256Sum};
use crate::progress::Progress;

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
    /// The device that shows the same payload and counts in its place.
    pub same_as: Option<PathBuf>,
    /// What udev knows of it, where it was asked.
    pub udev: Option<Properties>,
    /// A sum over the headers, to tell the same payload from another.
    pub(super) fingerprint: Option<Sha256Sum>,
    /// The node, where one had to be made; it lives as long as the finding.
    pub(super) node: Option<Node>,
}

impl Finding {
    pub(super) fn new(device: Device, path: PathBuf, verdict: Verdict) -> Self {
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
            same_as: None,
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

    pub(super) fn failed(mut self, error: &Error) -> Self {
        self.error = Some(error.one_line());
        self
    }
}

/// Looks at what is open at `path`, or can be.
///
/// # Errors
/// Only an interruption.
pub(super) fn probe_device(
    device: Device,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Finding> {
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
        finding.logical_block_size = u32::try_from(source.alignment()).ok().filter(|&n| n > 1);
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
                self.error = Some(e.one_line());
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
        self.error = Some(problem.into_error(source).one_line());
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
