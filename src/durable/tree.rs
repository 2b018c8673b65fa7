//! A tree of directories into which files are put at any depth.
//!
//! What is written lies in the staging directory at the top of the tree until it is
//! complete and flushed; then it is renamed to its place. So a run that is cut off
//! leaves nothing elsewhere, and the next one knows where to clear up.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, fsync, futimens, mkdirat, openat,
    renameat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::attributes::{self, Attributes, times};
use super::resolve::{self, Bounds};
use super::staging_dir::{StagingDir, slot_name, syncfs_reports};

/// A directory that is being made; no slot has this name.
const NEW_DIR: &str = "new";

/// Directories that are kept open, at most.
const OPEN_DIRS: usize = 128;

/// A directory and all that is beneath it; see the module.
#[derive(Debug)]
pub struct Tree {
    pub(super) root: OwnedFd,
    path: PathBuf,
    pub(super) bounds: Bounds,
    staging: Mutex<Option<Arc<StagingDir>>>,
    dirs: Mutex<HashMap<PathBuf, Arc<OwnedFd>>>,
    /// Directories whose names changed since the last [`Tree::flush_names`].
    changed: Mutex<BTreeSet<PathBuf>>,
}

impl Tree {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// It is not there, or no directory.
    pub fn open(path: &Path, bounds: Bounds) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self::of(root, path, bounds))
    }

    /// The directory that is open as `root`; `path` is what it is called.
    pub fn of(root: OwnedFd, path: &Path, bounds: Bounds) -> Self {
        Self {
            root,
            path: path.to_path_buf(),
            bounds,
            staging: Mutex::default(),
            dirs: Mutex::default(),
            changed: Mutex::default(),
        }
    }

    /// What it is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a run that was cut off left something.
    pub fn has_leftovers(&self) -> bool {
        StagingDir::is_in(&self.root)
    }

    /// Removes what is staged, by this run or by one that was cut off.
    ///
    /// # Errors
    /// What the system says.
    pub fn clear(&self) -> io::Result<()> {
        *lock(&self.staging) = None;
        match StagingDir::open(&self.root) {
            Ok(staging) => staging.remove_from(&self.root)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        }
        Ok(fsync(&self.root)?)
    }

    /// A new file that nobody sees yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn stage(&self, slot: u64) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        self.staging()?.create(slot, mode, OFlags::empty())
    }

    /// Gives a staged file its attributes, and syncs it where flushing the file
    /// system would not tell of a failure.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(&self, file: &File, attributes: &Attributes) -> io::Result<()> {
        // In this order: chown takes setuid and capabilities away, chmod rewrites an
        // ACL's mask, and the time comes last because all of them touch it not.
        if let Some((user, group)) = attributes.owner {
            fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        fchmod(file, Mode::from_raw_mode(attributes.mode & 0o7777))?;
        attributes::write_xattrs(file, &attributes.xattrs)?;
        futimens(file, &times(attributes.mtime))?;
        if !syncfs_reports() {
            file.sync_all()?;
        }
        Ok(())
    }

    /// Stages a symlink.
    ///
    /// # Errors
    /// What the system says.
    pub fn stage_symlink(
        &self,
        slot: u64,
        target: &Path,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let staging = self.staging()?;
        let name = slot_name(slot);
        staging.symlink(slot, target)?;
        let itself = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((user, group)) = attributes.owner {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            chownat(&*staging, &name, Some(user), Some(group), itself)?;
        }
        Ok(utimensat(
            &*staging,
            &name,
            &times(attributes.mtime),
            itself,
        )?)
    }

    /// Takes a staged file back.
    ///
    /// # Errors
    /// What the system says.
    pub fn discard(&self, slot: u64) -> io::Result<()> {
        self.staging()?.discard(slot)
    }

    /// Brings everything that is staged onto stable storage.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&self) -> io::Result<()> {
        self.staging()?.flush()
    }

    /// Makes the directories above `place` that are missing, with mode 0755 whatever the
    /// umask and the directory above are, and says which they are.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_parents(&self, place: &Path) -> io::Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        let mut at = parent(place);
        while self
            .dir(at)
            .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
        {
            missing.push(at.to_path_buf());
            at = parent(at);
        }
        missing.reverse();
        for made in &missing {
            let above = self.dir(parent(made))?;
            let name = made.file_name().unwrap_or_default();
            // Cut off between making it and its mode, it would keep a wrong one for good.
            let staging = self.staging()?;
            match mkdirat(&*staging, NEW_DIR, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let new = openat(&*staging, NEW_DIR, flags, Mode::empty())?;
            fchmod(&new, Mode::from_raw_mode(0o755))?;
            match renameat(&*staging, NEW_DIR, &*above, name) {
                // Somebody else made one meanwhile, and uses it.
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            lock(&self.changed).insert(parent(made).to_path_buf());
        }
        Ok(missing)
    }

    /// Renames a staged file to its place. What was there is gone; a directory is
    /// never replaced.
    ///
    /// # Errors
    /// What the system says.
    pub fn publish(&self, slot: u64, place: &Path) -> io::Result<()> {
        let name = place.file_name().ok_or(Errno::ISDIR)?;
        let dir = self.dir(parent(place))?;
        self.staging()?.publish(slot, &*dir, name)?;
        lock(&self.changed).insert(parent(place).to_path_buf());
        Ok(())
    }

    /// Removes a file or a symlink; one that is not there is removed already.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, place: &Path) -> io::Result<()> {
        self.unlink(place, AtFlags::empty())
    }

    /// Removes a directory if nothing is in it.
    ///
    /// # Errors
    /// What the system says, other than that it is in use, not there, or none.
    pub fn remove_empty_dir(&self, place: &Path) -> io::Result<()> {
        lock(&self.dirs).remove(place);
        match self.unlink(place, AtFlags::REMOVEDIR) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => Ok(()),
            other => other,
        }
    }

    fn unlink(&self, place: &Path, flags: AtFlags) -> io::Result<()> {
        let name = place.file_name().ok_or(Errno::ISDIR)?;
        let dir = match self.dir(parent(place)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match unlinkat(&*dir, name, flags) {
            Ok(()) => {
                lock(&self.changed).insert(parent(place).to_path_buf());
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Brings the names onto stable storage, and takes the staging directory away.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush_names(&self) -> io::Result<()> {
        for dir in std::mem::take(&mut *lock(&self.changed)) {
            match self.dir(&dir) {
                Ok(dir) => fsync(&*dir)?,
                // Removed meanwhile, as directories that became empty are.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn staging(&self) -> io::Result<Arc<StagingDir>> {
        let mut staging = lock(&self.staging);
        if let Some(fd) = &*staging {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(StagingDir::open_or_make(&self.root)?);
        attributes::remove_default_acl(&*fd)?;
        *staging = Some(Arc::clone(&fd));
        Ok(fd)
    }

    pub(super) fn dir(&self, path: &Path) -> io::Result<Arc<OwnedFd>> {
        let mut dirs = lock(&self.dirs);
        if let Some(fd) = dirs.get(path) {
            return Ok(Arc::clone(fd));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = match resolve::open(self.root.as_fd(), path, flags) {
            // One that may be entered, not listed, serves for looking.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                resolve::open(self.root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY)?
            }
            other => other?,
        };
        let fd = Arc::new(fd);
        if dirs.len() >= OPEN_DIRS {
            dirs.clear();
        }
        dirs.insert(path.to_path_buf(), Arc::clone(&fd));
        Ok(fd)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// A lock that a panic poisoned guards nothing that could be half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn parent(place: &Path) -> &Path {
    place.parent().unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::durable::{Last, Lookup};

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path(), Bounds::AsRoot).unwrap();
        (dir, tree)
    }

    fn put(tree: &Tree, slot: u64, text: &str, attributes: &Attributes) {
        let mut file = tree.stage(slot).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        tree.finish(&file, attributes).unwrap();
    }

    #[test]
    fn a_file_is_nowhere_until_it_is_published_and_then_has_its_attributes() {
        let (dir, tree) = tree();
        let attributes = Attributes {
            mode: 0o640,
            mtime: (1_700_000_000, 5),
            ..Attributes::default()
        };
        put(&tree, 0, "new", &attributes);
        let place = Path::new("usr/lib/modules/a.ko");
        assert!(matches!(tree.lookup(place).unwrap(), Lookup::Nothing));
        tree.flush().unwrap();
        let made = tree.make_parents(place).unwrap();
        assert_eq!(
            made,
            ["usr", "usr/lib", "usr/lib/modules"].map(PathBuf::from)
        );
        tree.publish(0, place).unwrap();
        tree.flush_names().unwrap();
        tree.clear().unwrap();
        let meta = std::fs::metadata(dir.path().join(place)).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_700_000_000, 5));
        assert!(!tree.has_leftovers());
    }

    #[test]
    fn what_a_run_that_was_cut_off_left_is_cleared() {
        let (dir, tree) = tree();
        put(&tree, 7, "half", &Attributes::default());
        let again = Tree::open(dir.path(), Bounds::AsRoot).unwrap();
        assert!(again.has_leftovers());
        again.clear().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_symlink_that_came_into_a_path_meanwhile_is_not_followed() {
        let (dir, tree) = tree();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let place = tree.resolve(Path::new("etc/hosts"), Last::Follow).unwrap();
        std::fs::remove_dir(dir.path().join("etc")).unwrap();
        symlink(outside.path(), dir.path().join("etc")).unwrap();
        put(&tree, 0, "new", &Attributes::default());
        assert!(tree.publish(0, &place).is_err());
        assert!(tree.remove(&place).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_is_never_replaced() {
        let (dir, tree) = tree();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        put(&tree, 0, "new", &Attributes::default());
        assert!(tree.publish(0, Path::new("etc")).is_err());
        assert!(matches!(
            tree.lookup(Path::new("etc")).unwrap(),
            Lookup::Directory
        ));
    }

    #[test]
    fn removing_a_directory_fails_where_there_is_another_reason_than_its_use() {
        let (_dir, tree) = tree();
        let refused = tree.remove_empty_dir(Path::new("")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EISDIR));
    }
}
