//! Reads a tree without changing it.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use super::lookup::{Lookup, lookup};
use super::resolve::{self, Last};
use super::stat_key::StatKey;
use super::tree::{Tree, parent};

impl Tree {
    /// Returns the place that `path` means. See [`Bounds`](super::Bounds).
    ///
    /// # Errors
    /// EXDEV if the path leaves the tree, ELOOP, ENOTDIR, and any other error that the system
    /// reports.
    pub fn resolve(&self, path: &Path, last: Last) -> io::Result<PathBuf> {
        self.resolve_in(Path::new(""), path, last)
    }

    /// Does the same with a path in the directory `dir`, which [`Tree::resolve`] returned.
    ///
    /// # Errors
    /// The same as for [`Tree::resolve`].
    pub fn resolve_in(&self, dir: &Path, path: &Path, last: Last) -> io::Result<PathBuf> {
        resolve::resolve(self.root.as_fd(), dir, path, self.bounds, last)
    }

    /// Looks up `place`, which [`Tree::resolve`] returned.
    ///
    /// # Errors
    /// The error that the system reports, except that the file does not exist. A regular file
    /// that cannot be opened for reading is an error too.
    pub fn lookup(&self, place: &Path) -> io::Result<Lookup> {
        let dir = match self.dir(parent(place)) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lookup::Nothing),
            Err(e) => return Err(e),
        };
        let Some(name) = place.file_name() else {
            return Ok(Lookup::Directory);
        };
        match lookup(&*dir, name)? {
            Lookup::Unreadable(e) => Err(e),
            found => Ok(found),
        }
    }

    /// Returns the names in the directory at `place`, in no certain order, and what each is.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn entries(&self, place: &Path) -> io::Result<Vec<(OsString, FileType)>> {
        let dir = self.dir(place)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&*dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Not every file system has the type in its directories.
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            let name = OsString::from_vec(name.to_bytes().to_vec());
            entries.push((name, kind));
        }
        Ok(entries)
    }

    /// Returns whether `directory` is the directory at `place`, a path without symlinks.
    ///
    /// # Errors
    /// The error that the system reports: ELOOP if the path contains a symlink.
    pub fn is_directory_at(&self, place: &Path, directory: &impl AsFd) -> io::Result<bool> {
        let there = rustix::fs::fstat(&*self.dir(place)?)?;
        let given = rustix::fs::fstat(directory)?;
        Ok((there.st_dev, there.st_ino) == (given.st_dev, given.st_ino))
    }

    /// Returns the key that shows whether the regular file at `place` was changed.
    ///
    /// # Errors
    /// The error that the system reports, or InvalidInput if it is not a regular file.
    pub fn stat_key(&self, place: &Path) -> io::Result<StatKey> {
        let name = place.file_name().ok_or(Errno::ISDIR)?;
        let dir = self.dir(parent(place))?;
        let stat = statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        StatKey::of_stat(&stat).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Bounds;

    #[test]
    fn a_file_cannot_be_opened_as_a_tree() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = Tree::open(file.path(), Bounds::AsRoot).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTDIR));
    }

    #[test]
    fn entries_of_a_directory_have_their_types() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let tree = Tree::open(dir.path(), Bounds::AsRoot).unwrap();
        let mut entries = tree.entries(Path::new("")).unwrap();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        let wanted = [
            ("directory", FileType::Directory),
            ("file", FileType::RegularFile),
            ("link", FileType::Symlink),
        ];
        assert_eq!(entries, wanted.map(|(name, kind)| (name.into(), kind)));
        assert!(tree.entries(Path::new("link")).is_err());
        let nothing = tree.entries(Path::new("none")).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_fifo_in_the_middle_of_a_path_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let tree = Tree::open(dir.path(), Bounds::AsRoot).unwrap();
        // Opening a FIFO for reading would wait for a writer.
        let refused = tree.lookup(Path::new("fifo/file")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTDIR));
    }

    #[test]
    fn child_processes_do_not_inherit_opened_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let tree = Tree::open(dir.path(), Bounds::AsRoot).unwrap();
        let Lookup::File(file, _) = tree.lookup(Path::new("file")).unwrap() else {
            panic!("a regular file is there");
        };
        let flags = rustix::io::fcntl_getfd(&file).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
