//! Writes a payload to a block device.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::{AlignedBuf, Devices, PAGE, Roots, SourceOptions, open_exclusive_for_writing};
use crate::error::{Error, Kind, Result};
use crate::payload::Payload;
use crate::protection::{Walked, header_places, last_block};
use crate::sys;

use super::contents::{Contents, Mark, examine};
use super::read_back::{BLOCK, Written};
use super::trailer::DeviceTarget;

/// The part at both ends of a device that is cleared as a whole, in bytes. Almost all file
/// systems, volumes and partition tables have their signatures there.
const EDGE: u64 = 2 << 20;

/// A block device that is not in use, open to be overwritten.
pub struct OutputDevice {
    file: File,
    path: PathBuf,
    size: u64,
    sector: usize,
    contents: Contents,
    /// The magic bytes that were found.
    marks: Vec<Mark>,
    /// Where the headers of an old protection trailer are.
    trailer_headers: Vec<u64>,
}

impl OutputDevice {
    /// Opens the device at `path` and finds out what it holds. Nothing is written.
    ///
    /// # Errors
    /// The device cannot be opened, is in use or is read-only.
    pub fn open(path: &Path) -> Result<Self> {
        refuse_what_others_show(path)?;
        let (file, size, sector) = open_exclusive_for_writing(path)?;
        let (contents, marks) = examine(&file, path, size, &Roots::default().sys);
        let old = SourceOptions::default().open(path)?;
        let mut end = || match Payload::open(Arc::clone(&old)).and_then(|p| end_of(&p)) {
            Ok(end) => Walked::Valid(end),
            Err(_) => Walked::Invalid,
        };
        Ok(Self {
            trailer_headers: header_places(&old, &mut end),
            path: path.to_path_buf(),
            file,
            size,
            sector,
            contents,
            marks,
        })
    }

    /// Returns what the device is and what it holds.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a device with fewer than `image_bytes`.
    ///
    /// # Errors
    /// The device is too small.
    pub fn refuse_too_small(&self, image_bytes: u64) -> Result<()> {
        if image_bytes <= self.size {
            return Ok(());
        }
        let size = self.size;
        Err(Error::new(
            Kind::Space,
            format!("too small: the payload needs {image_bytes} bytes, the device has {size}"),
        )
        .with_path(&self.path)
        .advice("nothing was written, use a larger device"))
    }

    /// Clears everything by which the device could be taken for something else.
    ///
    /// First only sectors with magic bytes are cleared. So if a power failure leaves some of
    /// them, what they belong to is still complete.
    fn erase(&self) -> io::Result<()> {
        let sector = self.sector as u64;
        self.clear(0..sector)?;
        for &(at, len) in &self.marks {
            let end = (at + len as u64).next_multiple_of(sector);
            self.clear(at - at % sector..end.min(self.size))?;
        }
        for at in &self.trailer_headers {
            self.clear(*at..(at + PAGE as u64).min(self.size))?;
        }
        self.file.sync_all()?;
        self.clear(0..EDGE.min(self.size))?;
        self.clear(self.size.saturating_sub(EDGE).max(EDGE)..self.size)?;
        self.file.sync_all()
    }

    /// Writes zeros to a range of whole sectors.
    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return Ok(());
        }
        let zeros = AlignedBuf::new(len as usize)?;
        self.file.write_all_at(&zeros[..len as usize], range.start)
    }
}

/// Writes to a device from its start, without the page cache. The first sector is written
/// last.
pub(super) struct DeviceWriter {
    device: OutputDevice,
    buf: AlignedBuf,
    filled: usize,
    at: u64,
    first: Option<AlignedBuf>,
    written: Option<Written>,
}

impl DeviceWriter {
    /// Clears the signatures on the device. `written` notes what is written, to compare it
    /// later.
    pub(super) fn start(device: OutputDevice, written: Option<Written>) -> Result<Self> {
        let failed = |doing: &str, e| Error::io(doing, e).with_path(&device.path);
        let buf = AlignedBuf::new(BLOCK).map_err(|e| failed("get a buffer to write", e))?;
        device
            .erase()
            .map_err(|e| failed("erase the old signatures of", e))?;
        Ok(Self {
            device,
            buf,
            filled: 0,
            at: 0,
            first: None,
            written,
        })
    }

    /// Returns what a protection trailer is written to.
    pub(super) fn trailer_target(&self) -> io::Result<DeviceTarget> {
        Ok(DeviceTarget::new(self.device.file.try_clone()?))
    }

    /// Returns the first sector, which is not written yet.
    pub(super) fn first_sector(&self) -> &[u8] {
        let sector = self.device.sector;
        self.first.as_ref().map_or(&[], |first| &first[..sector])
    }

    /// Returns where the third header of a trailer is that ends at `end`.
    pub(super) fn third_header(&self, end: u64) -> Option<u64> {
        last_block(self.device.size).filter(|at| *at >= end)
    }

    /// Writes the remaining data and syncs it. The first sector is still cleared. Returns what
    /// was written.
    pub(super) fn complete(&mut self) -> io::Result<Option<Written>> {
        self.write_block()?;
        self.device.file.sync_all()?;
        Ok(self.written.take())
    }

    /// Writes the first sector and syncs it. With `check`, reads it again, and clears it if it
    /// is not the same. Returns false in this case.
    pub(super) fn publish(self, check: bool) -> io::Result<bool> {
        let (device, sector) = (&self.device, self.device.sector);
        if let Some(first) = &self.first {
            device.file.write_all_at(&first[..sector], 0)?;
            device.file.sync_all()?;
            if check {
                let mut read = AlignedBuf::new(sector)?;
                device.file.read_exact_at(&mut read[..sector], 0)?;
                if read[..sector] != first[..sector] {
                    device.clear(0..sector as u64)?;
                    device.file.sync_all()?;
                    return Ok(false);
                }
            }
        }
        // Otherwise the kernel keeps the partitions of the old table.
        if let Err(e) = sys::reread_partitions(&device.file) {
            log::debug!("{}: partitions not read again: {e}", device.path.display());
        }
        Ok(true)
    }

    fn write_block(&mut self) -> io::Result<()> {
        let sector = self.device.sector;
        let len = self.filled.next_multiple_of(sector);
        self.buf[self.filled..len].fill(0);
        if self.at == 0 && len > 0 {
            let mut first = AlignedBuf::new(sector)?;
            first[..sector].copy_from_slice(&self.buf[..sector]);
            self.first = Some(first);
            // Leave the first sector cleared. The rest of the block does not start at a page
            // boundary, so direct I/O would refuse to write it alone.
            self.buf[..sector].fill(0);
        }
        self.device.file.write_all_at(&self.buf[..len], self.at)?;
        if let Some(written) = &mut self.written {
            written.note(&self.buf[..len]);
        }
        self.at += len as u64;
        self.filled = 0;
        Ok(())
    }
}

/// Returns where a payload ends.
fn end_of(payload: &Payload) -> Result<u64> {
    let mut walk = payload.walk()?;
    for step in &mut walk {
        step.map_err(|problem| problem.into_error(&**payload.source()))?;
    }
    Ok(walk.offset())
}

/// Refuses a device with a loop device over it. O_EXCL does not detect that, but /sys shows it.
fn refuse_what_others_show(path: &Path) -> Result<()> {
    let Ok(devices) = Devices::scan(&Roots::default()) else {
        return Ok(());
    };
    match devices.stacked_on(path) {
        None => Ok(()),
        Some(upper) => Err(Error::new(Kind::Busy, format!("`{}` uses it", upper.name))
            .doing("open for writing")
            .with_path(path)
            .advice("stop what uses it first, `lsblk` shows that")),
    }
}

impl Write for DeviceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(BLOCK - self.filled);
        self.buf[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
        self.filled += n;
        if self.filled == BLOCK {
            self.write_block()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
