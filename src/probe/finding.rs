//! The finding on one device.

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
    /// A payload with intact headers, no larger than the device.
    Payload,
    /// Something else.
    NoMagic,
    /// No data: a drive without a medium, or a device of 0 bytes.
    Empty,
    /// The device cannot be opened, or its headers cannot be read.
    Unreadable,
    /// The magic is there, but the headers are broken or do not fit the device.
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

/// A device and what was found on it.
#[derive(Debug)]
pub struct Finding {
    /// The path through which to open it.
    pub path: PathBuf,
    /// The device as the kernel lists it.
    pub device: Device,
    /// Whether it is a block device rather than a regular file.
    pub is_device: bool,
    /// The size in bytes, if it could be opened or the listing contains it.
    pub size_bytes: Option<u64>,
    /// The logical block size in bytes, if it could be opened.
    pub logical_block_size: Option<u32>,
    /// What was found on it.
    pub verdict: Verdict,
    /// The dialect of the payload, which is the width of the integers.
    pub dialect: Option<Dialect>,
    /// The number of files in the payload.
    pub files: Option<u64>,
    /// The length of the payload in bytes.
    pub payload_bytes: Option<u64>,
    /// The reason, if no intact payload was found.
    pub error: Option<Error>,
    /// The device that shows the same payload and counts instead of this one.
    pub same_as: Option<PathBuf>,
    /// The properties from udev, if it was asked.
    pub udev: Option<Properties>,
    /// A checksum of the headers, to compare payloads.
    pub(super) fingerprint: Option<Sha256Sum>,
    /// The node, if one had to be created. It is removed with the finding.
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

    /// Keeps the node that had to be created to open the device, so that others can use
    /// the path.
    pub fn keep_node(&mut self) {
        if let Some(node) = self.node.take() {
            self.path = node.keep();
        }
    }

    pub(super) fn failed(mut self, error: Error) -> Self {
        self.error = Some(error);
        self
    }

    /// Whether the user may not read it.
    pub(super) fn is_denied(&self) -> bool {
        let said = self.error.as_ref().and_then(Error::io_error);
        self.verdict == Verdict::Unreadable
            && said.is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Examines the device at `path`.
///
/// # Errors
/// Only an interruption.
pub(super) fn probe_device(
    device: Device,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Finding> {
    let finding = Finding::new(device, path.to_path_buf(), Verdict::Empty);
    let opened = FileSource::open(path, DirectPolicy::Auto);
    examine(
        finding,
        opened.map(|file| Arc::new(file) as Arc<dyn Source>),
        progress,
    )
}

/// Completes a finding from its source, or from the error of opening it.
///
/// # Errors
/// Only an interruption.
pub(super) fn examine(
    mut finding: Finding,
    opened: Result<Arc<dyn Source>>,
    progress: &dyn Progress,
) -> Result<Finding> {
    let source = match opened {
        Ok(source) => source,
        Err(e) => {
            finding.verdict = match e.io_error().and_then(io::Error::raw_os_error) {
                // The drive exists, but contains no medium.
                Some(libc::ENOMEDIUM | libc::ENXIO) => Verdict::Empty,
                _ => Verdict::Unreadable,
            };
            return Ok(finding.failed(e));
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
    finding.determine_verdict(&source, progress)?;
    Ok(finding)
}

impl Finding {
    fn determine_verdict(
        &mut self,
        source: &Arc<dyn Source>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let payload = match Payload::try_open(Arc::clone(source)) {
            Ok(payload) => payload,
            Err(problem) => {
                self.record_problem(problem, &**source);
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
            self.record_problem(problem, &**source);
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
                self.error = Some(e);
            }
        }
        Ok(())
    }

    fn record_problem(&mut self, problem: Problem, source: &dyn Source) {
        self.verdict = match &problem.cause {
            Cause::Fault(Fault::WrongMagic { .. }) => {
                self.verdict = Verdict::NoMagic;
                return;
            }
            Cause::Io(_) => Verdict::Unreadable,
            _ => Verdict::Corrupt,
        };
        self.error = Some(problem.into_error(source));
    }
}

/// Returns a checksum of the headers' contents.
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
