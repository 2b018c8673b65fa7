//! A directory tree in which files can be written at any depth.
//!
//! Files stay in the staging directory at the top of the tree until they are complete and
//! flushed. Then they are renamed to their places. So an interrupted run leaves nothing
//! anywhere else, and the next run knows where to clean up.

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

/// The name of a directory that is being created. No slot has this name.
const NEW_DIR: &str = "new";

/// The maximum number of directories that are kept open.
const OPEN_DIRS: usize = 128;

/// A directory and everything below it. See the module documentation.
#[derive(Debug)]
pub struct Tree {
    pub(super) root: OwnedFd,
    path: PathBuf,
    pub(super) bounds: Bounds,
    staging: Mutex<Option<Arc<StagingDir>>>,
    dirs: Mutex<HashMap<PathBuf, Arc<OwnedFd>>>,
    /// The directories whose names changed since the last [`Tree::flush_names`].
    changed: Mutex<BTreeSet<PathBuf>>,
}

impl Tree {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// The directory does not exist, or is not a directory.
    pub fn open(path: &Path, bounds: Bounds) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self::of(root, path, bounds))
    }

    /// Creates a tree from the open directory `root`. `path` is its name in messages.
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

    /// Returns the path of the tree.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether an interrupted run left files behind.
    pub fn has_leftovers(&self) -> bool {
        StagingDir::is_in(&self.root)
    }

    /// Removes all staged files, of this run or of an interrupted one.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn clear(&self) -> io::Result<()> {
        *lock(&self.staging) = None;
        match StagingDir::open(&self.root) {
            Ok(staging) => staging.remove_from(&self.root)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        }
        Ok(fsync(&self.root)?)
    }

    /// Creates a staged file, which is not visible at its place yet.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn stage(&self, slot: u64) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        self.staging()?.create(slot, mode, OFlags::empty())
    }

    /// Gives a staged file its attributes, and syncs it if flushing the file system would not
    /// report a failure.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn finish(&self, file: &File, attributes: &Attributes) -> io::Result<()> {
        // The order matters: chown clears setuid and capabilities, chmod rewrites the mask of
        // an ACL, and the time comes last because none of the other calls changes it.
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
    /// The error that the system reports.
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

    /// Removes a staged file.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn discard(&self, slot: u64) -> io::Result<()> {
        self.staging()?.discard(slot)
    }

    /// Flushes everything that is staged to stable storage.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn flush(&self) -> io::Result<()> {
        self.staging()?.flush()
    }

    /// Creates the missing parent directories of `place` and returns their paths. Their mode is
    /// 0755, whatever the umask and the parent directory are. `owner` is their user and group;
    /// `None` means those of this process.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn make_parents(
        &self,
        place: &Path,
        owner: Option<(u32, u32)>,
    ) -> io::Result<Vec<PathBuf>> {
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
            // If interrupted before its mode is set, it would keep a wrong mode forever.
            let staging = self.staging()?;
            match mkdirat(&*staging, NEW_DIR, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let new = openat(&*staging, NEW_DIR, flags, Mode::empty())?;
            fchmod(&new, Mode::from_raw_mode(0o755))?;
            if let Some((user, group)) = owner {
                // Before it has its name, so that nobody can put another directory in its place.
                fchown(&new, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
            }
            match renameat(&*staging, NEW_DIR, &*above, name) {
                // Another process has created the directory meanwhile, and uses it.
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            lock(&self.changed).insert(parent(made).to_path_buf());
        }
        Ok(missing)
    }

    /// Renames a staged file to its place, and replaces any file there. A directory is never
    /// replaced.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn publish(&self, slot: u64, place: &Path) -> io::Result<()> {
        let name = place.file_name().ok_or(Errno::ISDIR)?;
        let dir = self.dir(parent(place))?;
        self.staging()?.publish(slot, &*dir, name)?;
        lock(&self.changed).insert(parent(place).to_path_buf());
        Ok(())
    }

    /// Removes a file or a symlink. It is no error if it does not exist.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn remove(&self, place: &Path) -> io::Result<()> {
        self.unlink(place, AtFlags::empty())
    }

    /// Removes a directory if it is empty.
    ///
    /// # Errors
    /// The error that the system reports, unless the directory is in use or does not exist, or
    /// `place` is not a directory.
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

    /// Flushes the names that changed since the last call to stable storage.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn flush_names(&self) -> io::Result<()> {
        for dir in std::mem::take(&mut *lock(&self.changed)) {
            match self.dir(&dir) {
                Ok(dir) => fsync(&*dir)?,
                // Removed meanwhile, like directories that became empty.
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
            // A directory that can be searched but not read is enough for lookups.
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

/// Locks a mutex even if a panic poisoned it, because the data in it is never half changed.
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
    fn a_file_is_invisible_until_it_is_published_with_its_attributes() {
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
        let made = tree.make_parents(place, None).unwrap();
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
    fn leftovers_of_an_interrupted_run_are_cleared() {
        let (dir, tree) = tree();
        put(&tree, 7, "half", &Attributes::default());
        let again = Tree::open(dir.path(), Bounds::AsRoot).unwrap();
        assert!(again.has_leftovers());
        again.clear().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_symlink_added_to_a_path_after_resolving_is_not_followed() {
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
    fn the_root_of_a_tree_cannot_be_removed() {
        let (_dir, tree) = tree();
        let refused = tree.remove_empty_dir(Path::new("")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EISDIR));
    }
}
