//! The source that reads a regular file or a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::buffer::{AlignedBuf, PAGE};
use super::file_type::file_type_name;
use super::source::{DirectPolicy, ReadMode, Source};
use crate::error::{Error, Kind, Result};
use crate::sys;

/// Buffered reads of at least this many bytes are part of a long stream. The data that they
/// leave in the page cache is dropped, unless the caller wants to keep it.
const STREAMING: usize = 256 * 1024;

/// A regular file or a block device, open for reading.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: PathBuf,
    len: u64,
    alignment: usize,
    mode: ReadMode,
    device: bool,
    id: (u64, u64),
    in_memory: bool,
    keeps_cache: bool,
    /// The same file with O_DIRECT, for single reads past the page cache.
    past_cache: Option<File>,
}

impl FileSource {
    /// Opens `path`, with O_DIRECT according to `policy`.
    ///
    /// # Errors
    /// The path cannot be opened, is neither a regular file nor a block device, or does
    /// not support direct I/O and `policy` requires it.
    pub fn open(path: &Path, policy: DirectPolicy) -> Result<Self> {
        let failed = |e: io::Error| Error::io("open", e).with_path(path);
        // Check before opening it: opening a FIFO would wait for a writer.
        let kind = std::fs::metadata(path)
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => failed(e).with_code("source-missing"),
                _ => failed(e),
            })
            .map_err(|e| e.advice("check the path"))?
            .file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let found = file_type_name(kind);
            return Err(Error::new(
                Kind::Refused,
                format!("expected a file or a block device, found {found}"),
            )
            .with_code("not-a-source")
            .doing("open")
            .with_path(path)
            .advice("name the image file or the disk"));
        }
        match policy {
            DirectPolicy::Never => Self::with_flags(path, 0),
            DirectPolicy::Always => Self::with_flags(path, libc::O_DIRECT).map_err(|e| {
                if e.io_error().is_some_and(refuses_direct) {
                    e.with_code("no-direct-io")
                } else {
                    e
                }
            }),
            DirectPolicy::Auto => Self::with_flags(path, libc::O_DIRECT).or_else(|e| {
                if !e.io_error().is_some_and(refuses_direct) {
                    return Err(e);
                }
                log::debug!(
                    "{}: no direct I/O here, reading through the cache",
                    path.display()
                );
                Self::with_flags(path, 0)
            }),
        }
    }

    fn with_flags(path: &Path, flags: i32) -> Result<Self> {
        let failed = |e: io::Error| Error::io("open", e).with_path(path);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags | libc::O_CLOEXEC)
            .open(path)
            .map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let device = meta.file_type().is_block_device();
        let len = if device {
            sys::device_size(&file)
                .map_err(|e| Error::io("ask for the size of", e).with_path(path))?
        } else {
            meta.len()
        };
        let direct = flags & libc::O_DIRECT != 0;
        let sector = if device {
            logical_block_size(&file, path)?
        } else {
            1
        };
        // Linux may report a size that ends within a sector, for example for a loop
        // device over a file of such a size. The last partial sector cannot be read.
        let len = len - len % sector as u64;
        let alignment = match (direct, device) {
            (false, _) => 1,
            (true, true) => sector,
            (true, false) => file_alignment(&file).map_err(failed)?,
        };
        if !alignment.is_power_of_two() || alignment > PAGE {
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "direct I/O needs blocks of {alignment} bytes, at most {PAGE} are supported"
                ),
            )
            .with_path(path));
        }
        let source = Self {
            in_memory: !device && sys::is_in_memory(file.as_fd()),
            keeps_cache: false,
            past_cache: None,
            file,
            path: path.to_path_buf(),
            len,
            alignment,
            mode: if direct {
                ReadMode::Direct
            } else {
                ReadMode::Buffered
            },
            device,
            id: if device {
                (0, meta.rdev())
            } else {
                (meta.dev(), meta.ino())
            },
        };
        if direct && !device {
            source.try_direct()?;
        }
        Ok(source)
    }

    /// Keeps the data of buffered reads in the page cache, for callers that read the same
    /// data again. [`Source::read_past_cache`] then reads without it.
    #[must_use]
    pub fn keeping_cache(mut self) -> Self {
        self.keeps_cache = true;
        if self.mode == ReadMode::Buffered && !self.in_memory {
            let direct = Self::with_flags(&self.path, libc::O_DIRECT);
            // The path may lead to another file by now.
            let same = direct.ok().filter(|direct| direct.id == self.id);
            self.past_cache = same.map(|direct| direct.file);
        }
        self
    }

    /// Tries a direct read, because some file systems accept the flag and refuse the read.
    fn try_direct(&self) -> Result<()> {
        let failed = |e: io::Error| Error::io("read", e).with_path(&self.path).with_offset(0);
        let mut buf = AlignedBuf::new(self.alignment).map_err(failed)?;
        let alignment = self.alignment;
        self.read_at(&mut buf[..alignment], 0)
            .map(drop)
            .map_err(failed)
    }

    /// Returns the device number of a block device, packed as by makedev(3).
    pub fn rdev(&self) -> Option<u64> {
        self.device.then_some(self.id.1)
    }
}

fn logical_block_size(file: &File, path: &Path) -> Result<usize> {
    let failed = |e| Error::io("ask for the logical block size of", e).with_path(path);
    let size = sys::logical_block_size(file).map_err(failed)?;
    if size == 0 {
        return Err(failed(io::ErrorKind::InvalidData.into()));
    }
    Ok(size as usize)
}

/// Returns the alignment of direct reads of a regular file, in bytes.
fn file_alignment(file: &File) -> io::Result<usize> {
    match sys::direct_alignment(file.as_fd()) {
        Some(0) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        Some(n) => Ok((n as usize).max(512)),
        // Before Linux 6.1 the kernel does not report it. A page suits every device.
        None => Ok(PAGE),
    }
}

impl Source for FileSource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.file.read_at(buf, offset)?;
        if self.mode == ReadMode::Buffered && n >= STREAMING && !self.keeps_cache {
            sys::drop_cached(self.file.as_fd(), offset, n as u64);
        }
        Ok(n)
    }

    fn read_cached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.mode {
            // tmpfs does not support RWF_NOWAIT and does not need it.
            ReadMode::Buffered if self.in_memory => self.file.read_at(buf, offset),
            ReadMode::Buffered => sys::read_cached(self.file.as_fd(), buf, offset),
            ReadMode::Direct => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn read_past_cache(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(file) = &self.past_cache else {
            return self.read_at(buf, offset);
        };
        match file.read_at(buf, offset) {
            // Some file systems refuse single direct reads, for example at a certain place.
            Err(e) if refuses_direct(&e) => self.read_at(buf, offset),
            read => read,
        }
    }

    fn mode(&self) -> ReadMode {
        self.mode
    }

    fn is_device(&self) -> bool {
        self.device
    }

    fn is_file(&self, meta: &std::fs::Metadata) -> bool {
        if meta.file_type().is_block_device() {
            self.device && self.id == (0, meta.rdev())
        } else {
            !self.device && self.id == (meta.dev(), meta.ino())
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // A buffered source drops its data from the page cache, which only its own
        // read_at does.
        (self.mode == ReadMode::Direct).then(|| self.file.as_fd())
    }
}

/// Opens a block device for exclusive writing. Returns the file, and the device's size and
/// logical block size in bytes.
///
/// O_EXCL on a block device fails with EBUSY while the device, or a partition of it, is
/// mounted or used by a device stacked on it (open(2)).
///
/// # Errors
/// The device cannot be opened or is in use.
pub fn open_exclusive_for_writing(path: &Path) -> Result<(File, u64, usize)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL | libc::O_DIRECT | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| {
            let busy = e.raw_os_error() == Some(libc::EBUSY);
            let error = Error::io("open for writing", e).with_path(path);
            if busy {
                let shown = path.display();
                error.with_kind(Kind::Busy).advice(format!(
                    "unmount it or stop what uses it, `lsblk {shown}` and /proc/swaps show that"
                ))
            } else {
                error
            }
        })?;
    let size =
        sys::device_size(&file).map_err(|e| Error::io("ask for the size of", e).with_path(path))?;
    let sector = logical_block_size(&file, path)?;
    if sys::is_read_only(&file) {
        return Err(Error::new(Kind::Refused, "the device is read-only")
            .doing("open for writing")
            .with_path(path)
            .with_code("read-only")
            .advice(format!(
                "remove its write protection: a switch on it, or `blockdev --setrw {}`",
                path.display()
            )));
    }
    Ok((file, size - size % sector as u64, sector))
}

/// Returns whether `error` says that direct I/O is not supported: open(2) or a read then fails
/// with one of these.
fn refuses_direct(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Returns whether the block device at `path` is in use: by a mount, as swap, or by a device
/// stacked on it. Also returns false if this cannot be determined.
pub fn is_held(path: &Path) -> bool {
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    matches!(open, Err(e) if e.raw_os_error() == Some(libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::read_exact_at;

    #[test]
    fn a_direct_read_of_an_odd_sized_file_stops_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd");
        std::fs::write(&path, vec![7; 5000]).unwrap();
        for policy in [DirectPolicy::Auto, DirectPolicy::Never] {
            let source = FileSource::open(&path, policy).unwrap();
            assert_eq!(source.len(), 5000);
            let mut buf = AlignedBuf::new(8192).unwrap();
            assert_eq!(read_exact_at(&source, &mut buf, 0).unwrap(), 5000);
            assert_eq!(read_exact_at(&source, &mut buf, 4096).unwrap(), 904);
        }
    }

    #[test]
    fn data_read_through_the_cache_can_be_read_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 5000]).unwrap();
        let source = FileSource::open(&path, DirectPolicy::Never).unwrap();
        let mut buf = AlignedBuf::new(8192).unwrap();
        let read = source.read_cached(&mut buf, 4096);
        if let Some(libc::EOPNOTSUPP) = read.as_ref().err().and_then(io::Error::raw_os_error) {
            use std::io::Write;
            // On qemu-user, for example.
            let _ = writeln!(io::stderr(), "SKIPPED: no RWF_NOWAIT here");
            return;
        }
        assert_eq!(read.unwrap(), 904);
        assert_eq!(buf[..904], [7; 904]);
        let direct = FileSource::open(&path, DirectPolicy::Auto).unwrap();
        if direct.mode() == ReadMode::Direct {
            assert!(direct.read_cached(&mut buf[..4096], 0).is_err());
        }
    }

    #[test]
    fn directories_and_fifos_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let error = FileSource::open(dir.path(), DirectPolicy::Auto).unwrap_err();
        assert!(error.to_string().contains("found a directory"), "{error}");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(FileSource::open(&fifo, DirectPolicy::Auto).is_err());
    }
}
