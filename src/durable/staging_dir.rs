//! The directory of files that are incomplete: the one staging engine, for the flat
//! destination of an import and for a tree.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, fsync, mkdirat, openat, renameat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

/// The directory inside the destination that holds incomplete files, and nothing
/// else: what a run that was cut off leaves there, the next removes.
pub const STAGING_NAME: &str = ".lbpayload-staging";

/// The open staging directory of a destination. A staged file is known by its slot.
#[derive(Debug)]
pub(super) struct StagingDir(OwnedFd);

impl StagingDir {
    /// Opens the one in `parent`, and makes it (mode 0700) where it is missing.
    ///
    /// # Errors
    /// What the system says: ENOTDIR or ELOOP where something else has the name.
    pub(super) fn open_or_make(parent: impl AsFd) -> io::Result<Self> {
        match mkdirat(&parent, STAGING_NAME, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        Self::open(parent)
    }

    /// Opens the one in `parent`.
    ///
    /// # Errors
    /// What the system says: ENOENT where there is none.
    pub(super) fn open(parent: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(openat(parent, STAGING_NAME, flags, Mode::empty())?))
    }

    /// Whether `parent` has one.
    pub(super) fn is_in(parent: impl AsFd) -> bool {
        rustix::fs::statat(parent, STAGING_NAME, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Removes what is in it, and returns how much that was.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn empty(&self) -> io::Result<u64> {
        let mut removed = 0;
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match unlinkat(&self.0, name, AtFlags::empty()) {
                // A directory that was being made.
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
    /// What the system says.
    pub(super) fn remove_from(&self, parent: impl AsFd) -> io::Result<()> {
        self.empty()?;
        Ok(unlinkat(parent, STAGING_NAME, AtFlags::REMOVEDIR)?)
    }

    /// Removes the one in `parent` if nothing is in it; it can stay where that fails.
    pub(super) fn remove_if_empty(parent: impl AsFd) {
        if let Err(e) = unlinkat(parent, STAGING_NAME, AtFlags::REMOVEDIR) {
            log::debug!("the staging directory stays for the next run: {e}");
        }
    }

    /// Makes a file in `slot`, for reading and writing. `mode` is less the umask.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn create(&self, slot: u64, mode: Mode, flags: OFlags) -> io::Result<File> {
        self.create_named(&slot_name(slot), mode, flags)
    }

    /// As [`StagingDir::create`], under a name that is no slot's.
    pub(super) fn create_named(&self, name: &str, mode: Mode, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, mode)?))
    }

    /// Makes a symlink in `slot`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn symlink(&self, slot: u64, target: &std::path::Path) -> io::Result<()> {
        Ok(symlinkat(target, &self.0, slot_name(slot))?)
    }

    /// Opens the file in `slot` for reading.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open_file(&self, slot: u64) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.0, slot_name(slot), flags, Mode::empty())?;
        Ok(File::from(fd))
    }

    /// Removes what is in `slot`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn discard(&self, slot: u64) -> io::Result<()> {
        self.discard_named(&slot_name(slot))
    }

    /// As [`StagingDir::discard`], of what [`StagingDir::create_named`] made.
    pub(super) fn discard_named(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Brings everything that is staged onto stable storage, its names included. Where
    /// [`syncfs_reports`] is false, each file must have been synced before.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn flush(&self) -> io::Result<()> {
        if syncfs_reports() {
            syncfs(&self.0)?;
        }
        // Some file systems' syncfs leaves the drive's own cache alone; fsync never.
        self.flush_names()
    }

    /// Brings it onto stable storage that names have come and gone here.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn flush_names(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }

    /// Renames what is in `slot` to `name` in `dir`, and replaces what has that name.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn publish(
        &self,
        slot: u64,
        dir: impl AsFd,
        name: impl rustix::path::Arg,
    ) -> io::Result<()> {
        Ok(renameat(&self.0, slot_name(slot), dir, name)?)
    }

    /// As [`StagingDir::publish`], where nothing has that name.
    ///
    /// # Errors
    /// AlreadyExists, and what else the system says.
    pub(super) fn publish_new(&self, slot: u64, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        use rustix::fs::{RenameFlags, renameat_with, statat};
        let from = slot_name(slot);
        match renameat_with(&self.0, &from, dir, name, RenameFlags::NOREPLACE) {
            // Not every file system knows the flag.
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

/// The name of a file without one of its own.
pub(super) fn slot_name(slot: u64) -> String {
    format!("{slot:x}")
}

/// Since Linux 5.8 syncfs(2) reports that a file could not be written back.
/// Before, each file must be synced for that.
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
    fn what_is_discarded_is_gone_at_once() {
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
