//! Adds a trailer to a payload, and takes it away.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::block::{AlignedBuf, PAGE, Source, SourceOptions, read_exact_at};
use crate::error::{Error, Kind, Result};
use crate::payload::{Headers, Index, Payload};
use crate::progress::Progress;
use crate::protection::{
    BLOCK, DEFAULT_MEMORY, FileTarget, Geometry, Header, Healer, Target, TrailerWriter, Walked,
    erase_headers, header_at, last_block,
};

use super::opened::{Opened, advance, failed_at};
use super::stream::put_payload;

/// How a trailer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The redundancy in percent, 1 to 50.
    pub percent: u32,
    /// Where the payload starts, in bytes from the start of the file or device.
    pub offset: u64,
    /// Whether data behind the payload may be lost, and an old trailer replaced unseen.
    pub force: bool,
    /// The memory limit in bytes.
    pub memory: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            percent: 5,
            offset: 0,
            force: false,
            memory: DEFAULT_MEMORY,
        }
    }
}

/// The result of adding a trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The length of the payload in bytes.
    pub payload_bytes: u64,
    /// The length of the trailer in bytes.
    pub trailer_bytes: u64,
    /// The redundancy in percent.
    pub percent: u32,
    /// The BLAKE3 hash of the payload.
    pub blake3: [u8; 32],
}

/// Returns what a walk over the headers of a payload finds, for
/// [`protection::find`](crate::protection::find()).
pub fn walk(source: &Arc<dyn Source>) -> Walked {
    Headers::read(source).map_or(Walked::Invalid, |headers| {
        Walked::Valid(headers.payload_bytes())
    })
}

/// Returns what a walk has found, from the headers that it read.
pub fn walked(headers: Option<&Headers>) -> Walked {
    headers.map_or(Walked::Invalid, |headers| Walked::Whole {
        end: headers.payload_bytes(),
        headers_len: headers.header_bytes(),
    })
}

/// Adds a trailer to the payload in a file or on a device. The payload is not changed.
///
/// # Errors
/// There is no valid payload, no room for the trailer, something else behind the payload, or a
/// damaged payload with a trailer. Nothing is written then. Or the file or device fails.
pub fn protect(path: &Path, options: Options, progress: &dyn Progress) -> Result<Report> {
    let source = SourceOptions {
        offset: options.offset,
        ..SourceOptions::default()
    }
    .open(path)?;
    let payload = Payload::open(Arc::clone(&source))?;
    let index = Index::strict(&payload, progress)?;
    let len = index.payload_bytes();
    let headers_len = len - index.data_bytes();
    let geometry = Geometry::plan(len, headers_len, options.percent).ok_or_else(|| {
        Error::new(Kind::Refused, "too large for a protection trailer").with_path(path)
    })?;
    let opened = Opened::open(path)?;
    let old = old_trailer(&source, &geometry);
    let room = opened.len.saturating_sub(options.offset);
    if opened.device && geometry.end() > room {
        return Err(no_room(path, &geometry, room));
    }
    let former_len = match &old {
        _ if opened.device => 0,
        Some(old) => old.former_len,
        None => opened.len - options.offset,
    };
    if !options.force {
        match &old {
            Some(old) if !old.incomplete => refuse_damaged(&source, old, path, progress)?,
            Some(_) => {}
            None => refuse_data(&source, &geometry, opened.device, "protect")?,
        }
    }
    let failed = |e: io::Error| failed_at("write the protection trailer to", e, path);
    let target = FileTarget::new(opened.file, options.offset);
    let memory = options.memory;
    let begun = TrailerWriter::begin(&target, geometry.clone(), memory, former_len);
    let mut writer = begun.map_err(failed)?;
    if let Some(old) = &old {
        // The mark that the new one has at its start stays.
        let erased = erase_headers(&target, &source, old.geometry(), Some(geometry.start()));
        erased.map_err(failed)?;
    }
    put_payload(&mut writer, &index, &source, progress)?;
    let third = last_block(room).filter(|at| opened.device && *at >= geometry.end());
    progress.begin("protecting", len);
    let header = writer
        .finish(third, memory, &|bytes| advance(progress, bytes))
        .map_err(failed)?;
    progress.end();
    if !opened.device {
        let end = options.offset + geometry.end();
        target.set_len(end).map_err(failed)?;
    }
    Ok(Report {
        payload_bytes: len,
        trailer_bytes: geometry.end() - len,
        percent: options.percent,
        blake3: header.root,
    })
}

/// Takes the trailer away. A file gets its former length back.
///
/// # Errors
/// There is no trailer, or the file or device fails.
pub fn unprotect(path: &Path, header: &Header, offset: u64) -> Result<()> {
    let source = SourceOptions {
        offset,
        ..SourceOptions::default()
    }
    .open(path)?;
    let opened = Opened::open(path)?;
    let failed = |e: io::Error| failed_at("take the protection trailer from", e, path);
    let target = FileTarget::new(opened.file, offset);
    let geometry = header.geometry();
    erase_headers(&target, &source, geometry, None).map_err(failed)?;
    if !opened.device {
        let len = geometry.payload_len();
        let former = header.former_len.clamp(len, opened.len - offset);
        // What was behind the payload were zeros.
        let set = target.set_len(offset + len);
        set.and_then(|()| target.set_len(offset + former))
            .map_err(failed)?;
    }
    target.sync().map_err(failed)
}

/// Returns the trailer that is already there, also an incomplete one.
fn old_trailer(source: &Arc<dyn Source>, geometry: &Geometry) -> Option<Header> {
    let places = [Some(geometry.start()), last_block(source.len())];
    places
        .into_iter()
        .flatten()
        .find_map(|at| header_at(&**source, at).ok())
}

/// Refuses a payload that does not match its trailer: a new one would take the damage as right.
fn refuse_damaged(
    source: &Arc<dyn Source>,
    old: &Header,
    path: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let healer = Healer::new(Arc::clone(source), old.clone(), 8 << 20);
    progress.begin("checking", old.geometry().payload_len());
    let damaged = healer
        .damaged_blocks(progress)
        .map_err(|e| failed_at("read", e, path))?;
    progress.end();
    if damaged.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        "it does not match the protection trailer that it has",
    )
    .with_code("trailer-mismatch")
    .doing("protect")
    .with_path(path)
    .note(format!("{} blocks of 4096 bytes differ", damaged.count())))
}

/// Returns the error that a device of `room` bytes is too small for a trailer.
pub(super) fn no_room(path: &Path, geometry: &Geometry, room: u64) -> Error {
    let message = format!(
        "no room for the protection trailer: it ends at {}, the device at {room}",
        geometry.end()
    );
    Error::new(Kind::Space, message)
        .with_path(path)
        .advice("use less redundancy, or a larger device")
}

/// Refuses to overwrite something behind the payload: everything in a file, and on a device where
/// the trailer will be. `doing` says what is refused.
pub(super) fn refuse_data(
    source: &Arc<dyn Source>,
    geometry: &Geometry,
    device: bool,
    doing: &str,
) -> Result<()> {
    let path = source.path();
    let read = |e: io::Error| failed_at("read", e, path);
    let end = match device {
        true => geometry.end().min(source.len()),
        false => source.len(),
    };
    let mut buf = AlignedBuf::new(64 * PAGE).map_err(read)?;
    let start = geometry.payload_len() / BLOCK * BLOCK;
    for at in (start..end).step_by(64 * PAGE) {
        let want = (end - at).min(64 * PAGE as u64) as usize;
        let len = want.next_multiple_of(PAGE);
        let n = read_exact_at(&**source, &mut buf[..len], at).map_err(read)?;
        let from = geometry.payload_len().saturating_sub(at).min(n as u64) as usize;
        if let Some(place) = buf[from..n.min(want)].iter().position(|byte| *byte != 0) {
            let message = "there is data behind the payload, where the trailer would be";
            return Err(Error::new(Kind::Refused, message)
                .with_code("data-behind-payload")
                .doing(doing)
                .with_path(path)
                .with_offset(at + (from + place) as u64));
        }
    }
    Ok(())
}
