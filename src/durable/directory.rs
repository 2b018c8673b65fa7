//! A destination directory, held open so that no path leads elsewhere meanwhile.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::syncfs;

use crate::block::Room;
use crate::error::{Error, Kind, Result};

/// A directory that files are put into. Everything goes through its descriptor,
/// by names of one component.
#[derive(Debug)]
pub struct Directory {
    file: File,
    path: PathBuf,
    lock: Option<Flock<File>>,
}

/// What a name in a directory is, without following a symlink.
#[derive(Debug)]
pub enum Found {
    /// Nothing has the name.
    Nothing,
    /// A regular file, open for reading.
    File(Existing),
    /// A directory, which nothing of ours replaces.
    Directory,
    /// A symlink, a device, a socket, or a file that cannot be read.
    Other,
}

/// A regular file that is there already.
#[derive(Debug)]
pub struct Existing {
    file: File,
    meta: Metadata,
}

impl Existing {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.meta.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it is.
    pub fn metadata(&self) -> &Metadata {
        &self.meta
    }

    /// Syncs it where flushing the whole directory would not tell of a failure.
    ///
    /// # Errors
    /// What the system says.
    pub fn settle(&self) -> io::Result<()> {
        settle(&self.file)
    }

    /// Whether its bytes at `offset` are exactly `bytes`. What was read is
    /// dropped from the page cache again. `scratch` is overwritten.
    ///
    /// # Errors
    /// What the system says.
    pub fn holds(&self, bytes: &[u8], offset: u64, scratch: &mut [u8]) -> io::Result<bool> {
        use std::os::unix::fs::FileExt;
        let mut done = 0;
        while done < bytes.len() {
            let want = scratch.len().min(bytes.len() - done);
            let n = self
                .file
                .read_at(&mut scratch[..want], offset + done as u64)?;
            if n == 0 || scratch[..n] != bytes[done..done + n] {
                return Ok(false);
            }
            done += n;
        }
        crate::block::drop_cached(self.file.as_fd(), offset, done as u64);
        Ok(true)
    }
}

impl Directory {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// It is not there, no directory, or may not be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)
            .map_err(|e| Error::io("opening the directory", e).path(path))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            lock: None,
        })
    }

    /// Opens the directory at `path`, and makes it (mode 0755) where it is
    /// missing; with `parents` those above it too. Each new one is synced into
    /// the one above.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open_or_make(path: &Path, parents: bool) -> Result<Self> {
        make(path, parents)?;
        Self::open(path)
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tries to become the only one that works in this directory, as flock(2) has
    /// it: the lock goes with the process, however that ends. False when another
    /// has it. On a file system without locks nobody is kept out.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_lock(&mut self) -> Result<bool> {
        let failed = |e: io::Error| Error::io("locking", e).path(&self.path);
        let file = self.file.try_clone().map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                self.lock = Some(lock);
                Ok(true)
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(false),
            Err((_, nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS)) => {
                log::warn!(
                    "{}: no locks here; do not import twice at once",
                    self.path.display()
                );
                Ok(true)
            }
            Err((_, e)) => Err(failed(e.into())),
        }
    }

    /// Brings everything in it onto stable storage, and its names.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&self) -> Result<()> {
        let flush = || -> io::Result<()> {
            if syncfs_reports() {
                syncfs(&self.file)?;
            }
            self.file.sync_all()
        };
        flush().map_err(|e| Error::io("syncing", e).path(&self.path))
    }

    /// How much room its file system has.
    ///
    /// # Errors
    /// What the system says.
    pub fn room(&self) -> Result<Room> {
        crate::block::room(self.file.as_fd())
            .map_err(|e| Error::io("asking for the free space of", e).path(&self.path))
    }

    /// Whether nothing is in it, so that no name needs to be looked for.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_empty(&self) -> Result<bool> {
        let failed = |e: io::Error| Error::io("listing", e).path(&self.path);
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(&self.file, ".", flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let mut dir = nix::dir::Dir::from_fd(fd).map_err(|e| failed(e.into()))?;
        for entry in dir.iter() {
            let entry = entry.map_err(|e| failed(e.into()))?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What `name` is in it.
    ///
    /// # Errors
    /// What the system says, other than that nothing has the name.
    pub fn find(&self, name: &str) -> Result<Found> {
        let failed = |e: io::Error| Error::io("looking at", e).path(self.path.join(name));
        single_component(name).map_err(failed)?;
        // O_PATH first: opening a device or a FIFO would do something to it.
        let open = |flags| {
            openat(
                &self.file,
                name,
                flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_LARGEFILE,
                Mode::empty(),
            )
        };
        let place = match open(OFlag::O_PATH) {
            Ok(fd) => File::from(fd),
            Err(nix::errno::Errno::ENOENT) => return Ok(Found::Nothing),
            Err(e) => return Err(failed(e.into())),
        };
        let meta = place.metadata().map_err(failed)?;
        if meta.is_dir() {
            return Ok(Found::Directory);
        }
        if !meta.is_file() {
            return Ok(Found::Other);
        }
        match open(OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => {
                let file = File::from(fd);
                let meta = file.metadata().map_err(failed)?;
                if !meta.is_file() {
                    return Ok(Found::Other);
                }
                Ok(Found::File(Existing { file, meta }))
            }
            Err(_) => Ok(Found::Other),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Directory {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

/// Syncs `file` where flushing the file system that it is in would not tell of a
/// failure.
///
/// # Errors
/// What the system says.
pub fn settle(file: &File) -> io::Result<()> {
    if syncfs_reports() {
        Ok(())
    } else {
        file.sync_all()
    }
}

/// Since Linux 5.8 syncfs(2) reports that a file could not be written back.
/// Before, each file must be synced for that.
pub(super) fn syncfs_reports() -> bool {
    let Ok(uname) = nix::sys::utsname::uname() else {
        return false;
    };
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(8))
}

/// Refuses what could name anything but an entry of the directory itself.
pub(super) fn single_component(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not the name of a file",
        ));
    }
    Ok(())
}

fn make(path: &Path, parents: bool) -> Result<()> {
    let failed = |e: io::Error| Error::io("making the directory", e).path(path);
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if path.is_dir() {
                return Ok(());
            }
            return Err(Error::new(Kind::Refused, "it is there, and no directory")
                .doing("making the directory")
                .path(path)
                .advice("name another destination"));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && parents => {
            let parent = path
                .parent()
                .filter(|p| !p.as_os_str().is_empty())
                .ok_or_else(|| failed(e))?;
            make(parent, parents)?;
            DirBuilder::new().mode(0o755).create(path).map_err(failed)?;
        }
        Err(e) => return Err(failed(e)),
    }
    log::info!("made the directory {}", path.display());
    sync_parent(path)
}

/// Syncs the directory that holds `path`, so that a name in it lasts.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io("syncing the directory", e).path(parent))
}
