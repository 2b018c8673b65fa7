//! Checks whether a tree can be written to.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, Statx, StatxAttributes, StatxFlags, accessat, statx};
use rustix::io::Errno;

use super::tree::{Tree, parent};

impl Tree {
    /// Checks whether this process may create, replace or remove a file at `place`.
    ///
    /// # Errors
    /// EACCES if the permissions forbid it, EROFS if the file system is read-only, EPERM if the
    /// file or its directory is immutable or append-only, EXDEV if another file system is
    /// mounted there, because a rename cannot cross file systems.
    pub fn check_writable(&self, place: &Path) -> io::Result<()> {
        let (dir, is_parent) = self.nearest(parent(place))?;
        accessat(
            &dir,
            ".",
            Access::WRITE_OK | Access::EXEC_OK,
            AtFlags::EACCESS,
        )?;
        let Some(top) = stat(&self.root, Path::new(""))? else {
            return Ok(());
        };
        let mut there = vec![stat(&dir, Path::new(""))?];
        if let (Some(name), true) = (place.file_name(), is_parent) {
            there.push(stat(&dir, Path::new(name))?);
        }
        for stat in there.into_iter().flatten() {
            let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
            if stat.stx_attributes.intersects(fixed) {
                return Err(Errno::PERM.into());
            }
            if mount(&stat) != mount(&top) {
                return Err(Errno::XDEV.into());
            }
        }
        Ok(())
    }

    /// Opens the directory `path`, or its nearest parent that exists. Also returns whether it is
    /// `path` itself.
    fn nearest(&self, path: &Path) -> io::Result<(Arc<OwnedFd>, bool)> {
        let mut at = path;
        loop {
            match self.dir(at) {
                Ok(dir) => return Ok((dir, at == path)),
                Err(e) if e.kind() == io::ErrorKind::NotFound && at != Path::new("") => {
                    at = parent(at);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Returns the status of `name`. Returns `None` if it does not exist, and before Linux 4.11,
/// which does not support statx(2).
fn stat(dir: &OwnedFd, name: &Path) -> io::Result<Option<Statx>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    match statx(dir, name, flags, StatxFlags::MNT_ID) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOSYS) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Returns which mount a file is on. Before Linux 5.8, returns which file system.
fn mount(stat: &Statx) -> (u64, u32, u32) {
    let id = match stat.stx_mask & StatxFlags::MNT_ID.bits() {
        0 => 0,
        _ => stat.stx_mnt_id,
    };
    (id, stat.stx_dev_major, stat.stx_dev_minor)
}
