//! Small files without a name until they get their final one: O_TMPFILE and linkat(2),
//! if the kernel and the file system support them.
//!
//! A name in the staging directory would cost two more lookups and insertions in
//! directories, which take most of the time of a small file. A file without a name is
//! removed when its descriptor is closed, so nothing of it can stay behind.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, unlinkat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The number of file descriptors that are left for everything else.
const SPARE: u64 = 256;

/// The maximum limit of open files. More are never used, because a commit of four batches of
/// 4096 files is due before. Each takes about a kilobyte of the kernel's memory.
const ENOUGH: u64 = 16 * 1024 + SPARE;

/// How a file without a name gets one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkMethod {
    /// By its descriptor. The kernel requires a capability or, since 6.10, that this process
    /// opened the file itself.
    Descriptor,
    /// By /proc/self/fd.
    Proc,
}

/// The files that have no name yet, by slot.
#[derive(Debug)]
pub(super) struct TmpFiles {
    method: LinkMethod,
    max: usize,
    held: Mutex<HashMap<u64, Arc<File>>>,
}

impl TmpFiles {
    /// Tests in the directory `dir` whether this works. Returns `None` if it does not.
    pub(super) fn try_in(dir: BorrowedFd<'_>) -> Option<Self> {
        let file = open(dir).ok()?;
        let name = "probe";
        let method = [LinkMethod::Descriptor, LinkMethod::Proc]
            .into_iter()
            .find(|&method| link(method, &file, dir, name).is_ok())?;
        unlinkat(dir, name, AtFlags::empty()).ok()?;
        let max = usize::try_from(raise_limit().saturating_sub(SPARE)).ok()?;
        grow_table(dir, max);
        (max > 0).then(|| Self {
            method,
            max,
            held: Mutex::default(),
        })
    }

    /// Opens a new file, or returns `None` if that fails or there is no descriptor left for it.
    pub(super) fn open(&self, dir: BorrowedFd<'_>) -> Option<File> {
        if self.held().len() >= self.max {
            return None;
        }
        open(dir).ok()
    }

    /// Keeps `file` until it is published.
    pub(super) fn hold(&self, slot: u64, file: File) {
        self.held().insert(slot, Arc::new(file));
    }

    /// Returns the file in `slot`, if there is one.
    pub(super) fn get(&self, slot: u64) -> Option<Arc<File>> {
        self.held().get(&slot).cloned()
    }

    /// Gives the file in `slot` its name, which must not exist yet.
    pub(super) fn publish(
        &self,
        slot: u64,
        dir: BorrowedFd<'_>,
        name: &str,
    ) -> Option<io::Result<()>> {
        // Remove it from the map first, so that the lock is not held during the system call.
        let file = self.held().remove(&slot)?;
        let linked = link(self.method, &file, dir, name);
        if linked.is_err() {
            self.held().insert(slot, file);
        }
        Some(linked)
    }

    /// Closes the file in `slot`. Because it has no name, this removes it.
    pub(super) fn drop_file(&self, slot: u64) -> bool {
        self.held().remove(&slot).is_some()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<File>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(dir: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    // 0666 minus the umask, like fopen(3) in the reference importer.
    let mode = Mode::from_bits_truncate(0o666);
    Ok(File::from(openat(dir, ".", flags, mode)?))
}

fn link(method: LinkMethod, file: &File, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match method {
        LinkMethod::Descriptor => linkat(file.as_fd(), "", dir, name, AtFlags::EMPTY_PATH)?,
        LinkMethod::Proc => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(dir, &*path, dir, name, AtFlags::SYMLINK_FOLLOW)?;
        }
    }
    Ok(())
}

/// Makes room for `max` descriptors at once. Otherwise the kernel grows the table in steps,
/// and in a process with several threads it waits for all processors each time.
fn grow_table(dir: BorrowedFd<'_>, max: usize) {
    if let Ok(highest) = i32::try_from(max) {
        // Closed again at once. If this fails, the table grows later.
        drop(rustix::io::fcntl_dupfd_cloexec(dir, highest));
    }
}

/// Raises the soft limit of open files to at most [`ENOUGH`], and returns the limit or `ENOUGH`,
/// whichever is less. (With rustix, because nix's limits have 32 bits on i686.)
fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` means that there is no limit.
    let soft = current.unwrap_or(u64::MAX);
    let wanted = maximum.unwrap_or(u64::MAX).min(ENOUGH);
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    if wanted > soft && setrlimit(Resource::Nofile, raised).is_ok() {
        return wanted;
    }
    // The limit may be a million in a container, and room for all of it would be made at once.
    soft.min(ENOUGH)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn files_are_opened_only_while_descriptors_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let opened = File::open(dir.path()).unwrap();
        let has_them = open(opened.as_fd()).is_ok();
        let files = TmpFiles::try_in(opened.as_fd());
        // Some file systems do not support files without a name.
        assert_eq!(files.is_some(), has_them);
        let Some(mut files) = files else { return };
        files.max = 1;
        let file = files.open(opened.as_fd()).unwrap();
        files.hold(0, file);
        assert!(files.open(opened.as_fd()).is_none());
        assert!(files.drop_file(0));
        assert!(files.open(opened.as_fd()).is_some());
    }
    #[test]
    fn a_high_limit_of_open_files_makes_no_larger_table() {
        let before = getrlimit(Resource::Nofile);
        let high = Rlimit {
            current: before.maximum,
            ..before
        };
        setrlimit(Resource::Nofile, high).unwrap();
        assert!(raise_limit() <= ENOUGH);
        setrlimit(Resource::Nofile, before).unwrap();
    }
}
