//! Small files without a name until they get their final one: O_TMPFILE and
//! linkat(2), where the kernel and the file system have them.
//!
//! A name in the staging directory costs two more searches and insertions in
//! directories than none; for small files that is what they take. A file without a
//! name is gone when its descriptor is, so nothing of it can stay behind.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, unlinkat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are left to everything else.
const SPARE: u64 = 256;

/// More are of no use: a commit of four batches of 4096 is due before. Each takes
/// about a kilobyte of the kernel's memory.
const ENOUGH: u64 = 16 * 1024 + SPARE;

/// How a file without a name gets one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By its descriptor; the kernel wants a capability or, since 6.10, that we
    /// opened it ourselves.
    Descriptor,
    /// By /proc/self/fd.
    Proc,
}

/// Files that have no name yet, by slot.
#[derive(Debug)]
pub(super) struct TmpFiles {
    way: Way,
    max: usize,
    held: Mutex<HashMap<u64, Arc<File>>>,
}

impl TmpFiles {
    /// Tries it out in the directory `dir`; `None` where it does not work.
    pub(super) fn try_in(dir: BorrowedFd<'_>) -> Option<Self> {
        let file = open(dir).ok()?;
        let name = "probe";
        let way = [Way::Descriptor, Way::Proc]
            .into_iter()
            .find(|&way| link(way, &file, dir, name).is_ok())?;
        unlinkat(dir, name, AtFlags::empty()).ok()?;
        let max = usize::try_from(raise_limit().saturating_sub(SPARE)).ok()?;
        grow_table(dir, max);
        (max > 0).then(|| Self {
            way,
            max,
            held: Mutex::default(),
        })
    }

    /// A new file, if it can be had and there is a descriptor for it.
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

    /// The file in `slot`, where it is one of ours.
    pub(super) fn get(&self, slot: u64) -> Option<Arc<File>> {
        self.held().get(&slot).cloned()
    }

    /// Gives the file in `slot` its name, which must not exist.
    pub(super) fn publish(
        &self,
        slot: u64,
        dir: BorrowedFd<'_>,
        name: &str,
    ) -> Option<io::Result<()>> {
        // Out of the map first: the lock is not held while the kernel works.
        let file = self.held().remove(&slot)?;
        let linked = link(self.way, &file, dir, name);
        if linked.is_err() {
            self.held().insert(slot, file);
        }
        Some(linked)
    }

    /// Lets go of the file in `slot`: without a name, it is gone.
    pub(super) fn drop_file(&self, slot: u64) -> bool {
        self.held().remove(&slot).is_some()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<File>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(dir: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    // 0666 less the umask, as the reference importer's fopen(3).
    let mode = Mode::from_bits_truncate(0o666);
    Ok(File::from(openat(dir, ".", flags, mode)?))
}

fn link(way: Way, file: &File, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match way {
        Way::Descriptor => linkat(file.as_fd(), "", dir, name, AtFlags::EMPTY_PATH)?,
        Way::Proc => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(dir, &*path, dir, name, AtFlags::SYMLINK_FOLLOW)?;
        }
    }
    Ok(())
}

/// Makes room for `max` descriptors at once. The kernel grows the table step by step
/// otherwise, and once there are threads it waits for all processors each time.
fn grow_table(dir: BorrowedFd<'_>, max: usize) {
    if let Ok(highest) = i32::try_from(max) {
        // Closed again at once. Where it fails the table grows later.
        drop(rustix::io::fcntl_dupfd_cloexec(dir, highest));
    }
}

/// Raises the soft limit of open files as far as it is of use to us, and returns how
/// much of it is. (By rustix: nix's limits have 32 bits on i686.)
fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None is no limit.
    let soft = current.unwrap_or(u64::MAX);
    let wanted = maximum.unwrap_or(u64::MAX).min(ENOUGH);
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    if wanted > soft && setrlimit(Resource::Nofile, raised).is_ok() {
        return wanted;
    }
    // Containers may have a million, and room for so many would be made at once.
    soft.min(ENOUGH)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn no_more_files_are_open_than_there_are_descriptors_for() {
        let dir = tempfile::tempdir().unwrap();
        let opened = File::open(dir.path()).unwrap();
        let has_them = open(opened.as_fd()).is_ok();
        let files = TmpFiles::try_in(opened.as_fd());
        // Not every file system has files without a name.
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
