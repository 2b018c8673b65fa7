//! Writes the protection trailer of a payload while the payload is packed.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::protection::{FileTarget, Header, Target, TrailerWriter};

use super::plan::Plan;
use super::read_back::BLOCK;

/// The number of blocks that may wait to be hashed.
const WAITING: usize = 4;

/// Passes what is packed to the thread that hashes it.
pub(super) struct Tee {
    send: SyncSender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
    buf: Vec<u8>,
}

impl Tee {
    /// Passes on the next bytes.
    pub(super) fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(BLOCK - self.buf.len()));
            self.buf.extend_from_slice(part);
            bytes = rest;
            if self.buf.len() == BLOCK {
                self.pass_on();
            }
        }
    }

    fn pass_on(&mut self) {
        let mut next = self.free.try_recv().unwrap_or_default();
        next.clear();
        // If the thread has failed, its error is reported when it is joined.
        let _ = self.send.send(std::mem::replace(&mut self.buf, next));
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.pass_on();
    }
}

/// Starts the trailer of a plan.
pub(super) fn begin<'a>(
    plan: &Plan,
    target: &'a dyn Target,
    former_len: u64,
) -> io::Result<Option<TrailerWriter<'a>>> {
    let Some(geometry) = &plan.geometry else {
        return Ok(None);
    };
    let begun = TrailerWriter::begin(target, geometry.clone(), plan.memory, former_len);
    let mut writer = begun?;
    plan.headers(&mut |bytes| writer.headers(bytes))?;
    Ok(Some(writer))
}

/// Runs `pack`. What it passes to the tee is hashed on another thread.
pub(super) fn beside<'a, T>(
    writer: Option<TrailerWriter<'a>>,
    path: &Path,
    pack: impl FnOnce(Option<Tee>) -> Result<T>,
) -> Result<(T, Option<TrailerWriter<'a>>)> {
    let Some(writer) = writer else {
        return Ok((pack(None)?, None));
    };
    let (send, blocks) = mpsc::sync_channel(WAITING);
    let (give, free) = mpsc::channel();
    let buf = Vec::with_capacity(BLOCK);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("hash".into())
            .spawn_scoped(scope, move || hash(writer, &blocks, &give))
            .map_err(|e| Error::io("start a thread", e))?;
        let packed = pack(Some(Tee { send, free, buf }));
        let writer = thread.join().map_err(|_| Error::bug("a thread panicked"))?;
        let packed = packed?;
        Ok((packed, Some(writer.map_err(|e| failed(e, path))?)))
    })
}

fn hash<'a>(
    mut writer: TrailerWriter<'a>,
    blocks: &Receiver<Vec<u8>>,
    give: &Sender<Vec<u8>>,
) -> io::Result<TrailerWriter<'a>> {
    for block in blocks {
        writer.payload(&block)?;
        // The packing may have ended.
        let _ = give.send(block);
    }
    Ok(writer)
}

/// Writes the rest of the trailer, after the payload is complete.
pub(super) fn finish(
    writer: TrailerWriter<'_>,
    plan: &Plan,
    third: Option<u64>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Header> {
    progress.begin("protecting", plan.payload_bytes);
    let advance = |bytes| {
        progress.advance(bytes);
        match progress.cancelled() {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    };
    let finished = writer.finish(third, plan.memory, &advance);
    let header = finished.map_err(|e| failed(e, path))?;
    progress.end();
    Ok(header)
}

pub(super) fn failed(e: io::Error, path: &Path) -> Error {
    match e.kind() {
        io::ErrorKind::Interrupted => Error::interrupted(),
        _ => Error::io("write the protection trailer to", e).with_path(path),
    }
}

/// Returns the error of a trailer that is not read as it was written.
pub(super) fn read_back_failed(path: &Path) -> Error {
    let message = "other bytes came back than were written to the protection trailer";
    Error::new(Kind::Io, message)
        .with_code("read-back")
        .with_path(path)
        .note("the device holds no payload now")
        .advice("use another device")
}

/// A device whose first sector is not written yet.
pub(super) struct DeviceTarget {
    target: FileTarget,
    first: Mutex<Vec<u8>>,
}

impl DeviceTarget {
    pub(super) fn new(file: File) -> Self {
        Self {
            target: FileTarget::new(file, 0),
            first: Mutex::default(),
        }
    }

    /// Sets the first sector, which is read in place of the one on the device.
    pub(super) fn set_first(&self, sector: &[u8]) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        *first = sector.to_vec();
    }
}

impl Target for DeviceTarget {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.target.read_at(buf, offset)?;
        if offset == 0 {
            let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            let len = first.len().min(n);
            buf[..len].copy_from_slice(&first[..len]);
        }
        Ok(n)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.target.write_all_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.target.sync()
    }
}
