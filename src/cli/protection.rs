//! Protected sources: opens them, and reports what was healed.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::block::Source;
use crate::error::{Error, Result, printable};
use crate::progress::Progress;
use crate::protect::walk;
use crate::protection::{
    BLOCK, Header, Healer, ProtectedSource, Report, Trailer, Walked, find, search,
};

use super::output::{Level, human_bytes, labelled, to_stderr};

/// The memory for healing where a command has no `--memory`, in bytes.
pub(super) const MEMORY: u64 = 64 << 20;

/// The source of a payload, with or without protection.
pub(super) struct Protected {
    /// What the command reads.
    pub source: Arc<dyn Source>,
    /// The protection of the source, if it has any.
    pub protection: Option<Arc<ProtectedSource>>,
}

impl Protected {
    /// Reads a source without protection.
    pub(super) fn without(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            protection: None,
        }
    }

    /// Reads a source with its protection, if it has any. `memory` is what healing may take, in
    /// bytes. If `progress` is given, a device whose payload cannot be read is searched.
    ///
    /// # Errors
    /// The search fails or is interrupted.
    pub(super) fn open(
        source: Arc<dyn Source>,
        memory: u64,
        progress: Option<&dyn Progress>,
    ) -> Result<Self> {
        let Some(header) = trailer(&source, progress)? else {
            return Ok(Self::without(source));
        };
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let healer = Healer::new(Arc::clone(&source), header, memory);
        let protected = Arc::new(ProtectedSource::new(source, healer, memory));
        Ok(Self {
            source: Arc::clone(&protected) as Arc<dyn Source>,
            protection: Some(protected),
        })
    }

    /// Returns the length of the source in bytes, with what is behind the payload.
    pub(super) fn source_len(&self) -> u64 {
        match &self.protection {
            Some(protection) => protection.inner().len(),
            None => self.source.len(),
        }
    }

    /// Returns what a JSON report says about the protection.
    pub(super) fn json(&self) -> Option<JsonProtection> {
        let report = self.protection.as_ref()?.report();
        Some(JsonProtection::new(&report))
    }

    /// Warns of damage that was healed.
    pub(super) fn warn(&self) {
        if let Some(protection) = &self.protection {
            warn_of_healed(
                &protection.report(),
                self.source.path(),
                self.source.start(),
            );
        }
    }
}

/// What a JSON report says about the protection of a payload.
#[derive(Serialize)]
pub(super) struct JsonProtection {
    pub percent: u32,
    pub checked_bytes: u64,
    pub damaged_blocks: u64,
    pub healed_blocks: u64,
    pub lost_blocks: u64,
}

impl JsonProtection {
    fn new(report: &Report) -> Self {
        Self {
            percent: report.percent,
            checked_bytes: report.checked_bytes,
            damaged_blocks: report.found.damaged.count(),
            healed_blocks: report.found.healed.count(),
            lost_blocks: report.found.lost.count(),
        }
    }
}

/// Returns the header of the trailer of a source. A trailer that cannot be used is noted.
///
/// # Errors
/// The search fails or is interrupted.
pub(super) fn trailer(
    source: &Arc<dyn Source>,
    progress: Option<&dyn Progress>,
) -> Result<Option<Header>> {
    let mut walked = None;
    let found = find(source, &mut || *walked.insert(walk(source)));
    let shown = printable(&source.path().to_string_lossy());
    match found {
        Trailer::Found(header) => return Ok(Some(*header)),
        Trailer::Unusable(why) => {
            log::warn!("the protection trailer of `{shown}` is not used: {why}");
        }
        _ => {}
    }
    let (Some(Walked::Invalid), Some(progress), true) = (walked, progress, source.is_device())
    else {
        return Ok(None);
    };
    log::warn!("no payload can be read at the start of `{shown}`, searching for a trailer");
    search(source, progress).map_err(|e| match e.kind() {
        std::io::ErrorKind::Interrupted => Error::interrupted(),
        _ => Error::io("search", e).with_path(source.path()),
    })
}

fn warn_of_healed(report: &Report, path: &Path, start: u64) {
    let count = report.found.healed.count();
    if count == 0 {
        return;
    }
    let shown = printable(&path.to_string_lossy());
    let (blocks, were) = if count == 1 {
        ("block", "was")
    } else {
        ("blocks", "were")
    };
    let size = human_bytes(count * BLOCK);
    log::warn!("{count} damaged {blocks} ({size}) of `{shown}` {were} healed while reading");
    if !log::log_enabled!(log::Level::Warn) {
        return;
    }
    let offset = match start {
        0 => String::new(),
        start => format!(" --offset {start}"),
    };
    let help = format!("`lbpayload repair {shown}{offset}` repairs the source itself");
    to_stderr(&labelled("lbpayload", Level::Help, &help));
}
