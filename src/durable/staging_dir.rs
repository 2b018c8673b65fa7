//! The directory for incomplete files. The flat destination of an import and the tree of a
//! promotion both use it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, fsync, mkdirat, openat, renameat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

/// The name of the directory for incomplete files inside the destination. It contains nothing
/// else: the next run removes everything that an interrupted run left in it.
pub const STAGING_NAME: &str = ".lbpayload-staging";

/// The open staging directory of a destination. A slot number identifies a staged file.
#[derive(Debug)]
pub(super) struct StagingDir(OwnedFd);

impl StagingDir {
    /// Opens the staging directory in `parent`, and creates it with mode 0700 if it is missing.
    ///
    /// # Errors
    /// The error that the system reports: ENOTDIR or ELOOP if something else has the name.
    pub(super) fn open_or_make(parent: impl AsFd) -> io::Result<Self> {
        match mkdirat(&parent, STAGING_NAME, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        Self::open(parent)
    }

    /// Opens the staging directory in `parent`.
    ///
    /// # Errors
    /// The error that the system reports: ENOENT if it does not exist.
    pub(super) fn open(parent: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(openat(parent, STAGING_NAME, flags, Mode::empty())?))
    }

    /// Returns whether `parent` has a staging directory.
    pub(super) fn is_in(parent: impl AsFd) -> bool {
        rustix::fs::statat(parent, STAGING_NAME, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Removes everything in it, and returns the number of files.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn empty(&self) -> io::Result<u64> {
        let mut removed = 0;
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match unlinkat(&self.0, name, AtFlags::empty()) {
                // A directory that was being created.
                Err(Errno::ISDIR | Errno::PERM) => unlinkat(&self.0, name, AtFlags::REMOVEDIR)?,
                other => other?,
            }
            removed += 1;
        }
        Ok(removed)
    }

    /// Empties it, and removes it from `parent`.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn remove_from(&self, parent: impl AsFd) -> io::Result<()> {
        self.empty()?;
        Ok(unlinkat(parent, STAGING_NAME, AtFlags::REMOVEDIR)?)
    }

    /// Removes the staging directory in `parent` if it is empty. A failure is harmless, because
    /// the next run removes the directory.
    pub(super) fn remove_if_empty(parent: impl AsFd) {
        if let Err(e) = unlinkat(parent, STAGING_NAME, AtFlags::REMOVEDIR) {
            log::debug!("the staging directory stays for the next run: {e}");
        }
    }

    /// Creates a file in `slot`, for reading and writing. The umask applies to `mode`.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn create(&self, slot: u64, mode: Mode, flags: OFlags) -> io::Result<File> {
        self.create_named(&slot_name(slot), mode, flags)
    }

    /// Does the same as [`StagingDir::create`], with a name that no slot has.
    pub(super) fn create_named(&self, name: &str, mode: Mode, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, mode)?))
    }

    /// Creates a symlink in `slot`.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn symlink(&self, slot: u64, target: &std::path::Path) -> io::Result<()> {
        Ok(symlinkat(target, &self.0, slot_name(slot))?)
    }

    /// Opens the file in `slot` for reading.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn open_file(&self, slot: u64) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.0, slot_name(slot), flags, Mode::empty())?;
        Ok(File::from(fd))
    }

    /// Opens the file in `slot` for reading and writing.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn reopen(&self, slot: u64) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.0, slot_name(slot), flags, Mode::empty())?;
        Ok(File::from(fd))
    }

    /// Removes the file or symlink in `slot`.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn discard(&self, slot: u64) -> io::Result<()> {
        self.discard_named(&slot_name(slot))
    }

    /// Does the same as [`StagingDir::discard`], for a file from [`StagingDir::create_named`].
    pub(super) fn discard_named(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Flushes everything that is staged to stable storage, including the names. If
    /// [`syncfs_reports`] is false, each file must have been synced before.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn flush(&self) -> io::Result<()> {
        if syncfs_reports() {
            syncfs(&self.0)?;
        }
        // syncfs of some file systems does not flush the drive's own cache; fsync always does.
        self.flush_names()
    }

    /// Flushes the names that were added and removed here to stable storage.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn flush_names(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }

    /// Renames the file in `slot` to `name` in `dir`, and replaces any file of that name.
    ///
    /// # Errors
    /// The error that the system reports.
    pub(super) fn publish(
        &self,
        slot: u64,
        dir: impl AsFd,
        name: impl rustix::path::Arg,
    ) -> io::Result<()> {
        Ok(renameat(&self.0, slot_name(slot), dir, name)?)
    }

    /// Does the same as [`StagingDir::publish`], but only if the name does not exist.
    ///
    /// # Errors
    /// AlreadyExists, and any other error that the system reports.
    pub(super) fn publish_new(&self, slot: u64, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        use rustix::fs::{RenameFlags, renameat_with, statat};
        let from = slot_name(slot);
        match renameat_with(&self.0, &from, dir, name, RenameFlags::NOREPLACE) {
            // Some file systems do not support the flag.
            Err(Errno::INVAL | Errno::NOSYS) => {
                match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => Err(Errno::EXIST.into()),
                    Err(_) => self.publish(slot, dir, name),
                }
            }
            other => Ok(other?),
        }
    }
}

impl AsFd for StagingDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns the name of the file in `slot` in the staging directory.
pub(super) fn slot_name(slot: u64) -> String {
    format!("{slot:x}")
}

/// Returns whether syncfs(2) reports that a file could not be written back, as it does since
/// Linux 5.8. Before that, each file must be synced to learn about it.
pub(super) fn syncfs_reports() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::DirectPolicy;
    use crate::durable::{Directory, Staging, Store};

    #[test]
    fn a_discarded_file_is_removed_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Directory::open(temp.path()).unwrap();
        let staging = Staging::prepare(&dir, DirectPolicy::Auto).unwrap();
        let staged = || std::fs::read_dir(temp.path().join(STAGING_NAME)).unwrap();
        staging.create(7, 5000).unwrap();
        assert_eq!(staged().count(), 1);
        staging.discard(7).unwrap();
        assert_eq!(staged().count(), 0);
    }
}
