//! Writes a payload to a block device.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::block::{AlignedBuf, Devices, Roots, open_exclusive_for_writing};
use crate::error::{Error, Kind, Result};

/// The size of one write in bytes.
const BLOCK: usize = 1 << 20;

/// Writes to a device from its start, without the page cache. The first sector is written
/// last.
pub(super) struct DeviceWriter {
    file: File,
    sector: usize,
    buf: AlignedBuf,
    filled: usize,
    at: u64,
    first: Option<AlignedBuf>,
}

impl DeviceWriter {
    /// Opens the device exclusively, and clears its first sector.
    pub(super) fn open(path: &Path, image_bytes: u64) -> Result<Self> {
        refuse_what_others_show(path)?;
        let (file, size, sector) = open_exclusive_for_writing(path)?;
        if image_bytes > size {
            return Err(Error::new(
                Kind::Space,
                format!("too small: the payload needs {image_bytes} bytes, the device has {size}"),
            )
            .with_path(path)
            .advice("nothing was written, use a larger device"));
        }
        let no_memory = |e| Error::io("get a buffer to write", e).with_path(path);
        let zeros = AlignedBuf::new(sector).map_err(no_memory)?;
        file.write_all_at(&zeros[..sector], 0)
            .and_then(|()| file.sync_all())
            .map_err(|e| Error::io("clear the first sector of", e).with_path(path))?;
        let buf = AlignedBuf::new(BLOCK).map_err(no_memory)?;
        Ok(Self {
            file,
            sector,
            buf,
            filled: 0,
            at: 0,
            first: None,
        })
    }

    /// Writes the remaining data, syncs, writes the first sector, and syncs again.
    pub(super) fn commit(mut self) -> io::Result<()> {
        self.write_block()?;
        self.file.sync_all()?;
        if let Some(first) = self.first {
            self.file.write_all_at(&first[..self.sector], 0)?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    fn write_block(&mut self) -> io::Result<()> {
        let len = self.filled.next_multiple_of(self.sector);
        self.buf[self.filled..len].fill(0);
        if self.at == 0 && len > 0 {
            let mut first = AlignedBuf::new(self.sector)?;
            first[..self.sector].copy_from_slice(&self.buf[..self.sector]);
            self.first = Some(first);
            // Leave the first sector cleared. The rest of the block does not start at a page
            // boundary, so direct I/O would refuse to write it alone.
            self.buf[..self.sector].fill(0);
        }
        self.file.write_all_at(&self.buf[..len], self.at)?;
        self.at += len as u64;
        self.filled = 0;
        Ok(())
    }
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
