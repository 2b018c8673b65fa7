//! Protected sources: opens them, and reports what was healed.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::block::{FailureRecorder, Source};
use crate::error::{Error, Result, printable};
use crate::payload::{Headers, Payload};
use crate::progress::Progress;
use crate::protect::walked;
use crate::protection::{
    BLOCK, Header, Healer, ProtectedSource, Report, Trailer, Walked, find, search,
};
use crate::sys::available_memory;

use super::output::{Level, human_bytes, labelled, to_stderr};
use super::values::is_url;

/// Returns the memory limit of a command without `--memory`, in bytes: no more than a quarter of
/// what the machine has, so that a boot image works too.
pub(super) fn default_memory() -> u64 {
    (available_memory() / 4).clamp(4 << 20, 64 << 20)
}

/// The source of a payload, with or without protection.
pub(super) struct Protected {
    /// What the command reads.
    pub source: Arc<dyn Source>,
    /// The protection of the source, if it has any.
    pub protection: Option<Arc<ProtectedSource>>,
    /// Whether there is a trailer of which all headers are damaged.
    pub damaged_trailer: bool,
    /// The headers of the payload, if they were read to find the trailer, or from the trailer.
    headers: Option<Headers>,
}

impl Protected {
    /// Reads a source without protection.
    pub(super) fn without(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            protection: None,
            damaged_trailer: false,
            headers: None,
        }
    }

    /// Reads a source with its protection, if it has any. `memory` is what healing may take, in
    /// bytes. If `progress` is given, a device whose payload cannot be read is searched. If
    /// `extent` is given, the payload has this length and so many bytes of headers, and is not
    /// walked to find its trailer.
    ///
    /// # Errors
    /// A server does not answer; the search fails or is interrupted.
    pub(super) fn open(
        source: Arc<dyn Source>,
        memory: u64,
        progress: Option<&dyn Progress>,
        extent: Option<Extent>,
    ) -> Result<Self> {
        let found = trailer(&source, progress, extent)?;
        let Some(header) = found.header else {
            return Ok(Self {
                damaged_trailer: found.damaged,
                headers: found.headers,
                ..Self::without(source)
            });
        };
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let healer = Healer::new(Arc::clone(&source), header, memory);
        let protected = Arc::new(ProtectedSource::new(source, healer, memory));
        // The headers that were read have not been checked. Behind a URL, each of them costs a
        // round trip, and the trailer has a copy of all.
        let headers = match is_url(protected.path()) {
            true => protected.stored_headers(),
            false => None,
        };
        Ok(Self {
            headers: headers.and_then(|bytes| Headers::parse(&bytes, protected.len())),
            protection: Some(Arc::clone(&protected)),
            ..Self::without(protected)
        })
    }

    /// Opens the payload. Headers that have been read are not read again.
    ///
    /// # Errors
    /// There is no payload, its header is invalid, or it cannot be read.
    pub(super) fn payload(&self) -> Result<Payload> {
        Ok(self.with_headers(Payload::open(Arc::clone(&self.source))?))
    }

    /// Adds the headers that have been read to a payload of this source.
    pub(super) fn with_headers(&self, payload: Payload) -> Payload {
        match &self.headers {
            Some(headers) => payload.with_headers(headers),
            None => payload,
        }
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

/// The length of a payload, and of all headers and names in it, in bytes.
pub(super) type Extent = (u64, u64);

/// What was found of the trailer of a source.
#[derive(Default)]
pub(super) struct Found {
    /// The header of the trailer, if it can be used.
    pub header: Option<Header>,
    /// Whether there is a trailer of which all headers are damaged.
    pub damaged: bool,
    /// The headers of the payload, if they were read.
    pub headers: Option<Headers>,
}

/// Looks for the trailer of a source. A trailer that cannot be used is noted.
///
/// # Errors
/// A server does not answer; the search fails or is interrupted.
pub(super) fn trailer(
    source: &Arc<dyn Source>,
    progress: Option<&dyn Progress>,
    extent: Option<Extent>,
) -> Result<Found> {
    let mut headers = None;
    let mut is_invalid = false;
    let recorder = Arc::new(FailureRecorder::new(Arc::clone(source)));
    let recorded: Arc<dyn Source> = recorder.clone();
    let found = find(&recorded, &mut || {
        if let Some((end, headers_len)) = extent {
            return Walked::Whole { end, headers_len };
        }
        headers = Headers::read(&recorded);
        is_invalid = headers.is_none();
        walked(headers.as_ref())
    });
    // A trailer that did not come is there all the same.
    recorder
        .check(0)
        .map_err(|e| Error::io("look for the protection trailer", e).with_path(source.path()))?;
    let mut result = Found {
        // Of several copies, a job finds out itself which of them lacks a header.
        headers: headers.filter(|_| source.copies().is_empty()),
        ..Found::default()
    };
    let shown = printable(&source.path().to_string_lossy());
    match found {
        Trailer::Found(header) => {
            result.header = Some(*header);
            return Ok(result);
        }
        Trailer::Unusable(why) => {
            log::warn!("the protection trailer of `{shown}` is not used: {why}");
        }
        Trailer::Damaged => {
            result.damaged = true;
            log::warn!(
                "`{shown}` is read without protection, all headers of its protection trailer are \
                 damaged"
            );
            help(&format!(
                "`lbpayload repair --from COPY {shown}{}` takes them from another copy",
                offset_option(source.start())
            ));
        }
        _ => {}
    }
    let (true, Some(progress), true) = (is_invalid, progress, source.is_device()) else {
        return Ok(result);
    };
    log::warn!("no payload can be read at the start of `{shown}`, searching for a trailer");
    result.header = search(source, progress).map_err(|e| match e.kind() {
        std::io::ErrorKind::Interrupted => Error::interrupted(),
        _ => Error::io("search", e).with_path(source.path()),
    })?;
    Ok(result)
}

/// Prints what to do about a warning, if warnings are shown.
fn help(text: &str) {
    if log::log_enabled!(log::Level::Warn) {
        to_stderr(&labelled("lbpayload", Level::Help, text));
    }
}

fn offset_option(start: u64) -> String {
    match start {
        0 => String::new(),
        start => format!(" --offset {start}"),
    }
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
    help(&format!(
        "`lbpayload repair {shown}{}` repairs the source itself",
        offset_option(start)
    ));
}
