//! A file that several runs may need to complete. It gets its name only when it is complete.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fsync, openat, renameat, unlinkat};

use crate::error::{Error, Result};
use crate::sys::{Room, names_hold_sizes};

use super::atomic_file::{AtomicFile, DOWNLOAD, SUFFIX};
use super::directory::{Directory, single_component};

/// The incomplete file `key` of a directory. Dropping it leaves it there, for the next run.
#[derive(Debug)]
pub struct Partial<'a> {
    dir: &'a Directory,
    file: File,
    name: String,
}

impl<'a> Partial<'a> {
    /// Opens the incomplete file with this key, or creates it. The key says what the complete
    /// file holds (its checksum), so that nothing is added to the start of another one.
    ///
    /// `pack` leaves a file of this name out.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn open(dir: &'a Directory, key: &str) -> Result<Self> {
        let name = format!("{DOWNLOAD}{key}{SUFFIX}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // 0666 minus the umask, which is the mode that the complete file has.
        let mode = Mode::from_bits_truncate(0o666);
        let file = single_component(&name)
            .and_then(|()| Ok(openat(dir, &*name, flags, mode)?))
            .map_err(|e| Error::io("make a file in", e).with_path(dir.path()))?;
        Ok(Self {
            dir,
            file: file.into(),
            name,
        })
    }

    /// Returns the file, at the position where the last read or write ended.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns how much room its file system has.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn room(&self) -> Result<Room> {
        self.dir.room()
    }

    /// Forgets its contents.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn clear(&mut self) -> Result<()> {
        let mut clear = || -> io::Result<()> {
            self.file.set_len(0)?;
            io::Seek::rewind(&mut self.file)
        };
        clear().map_err(|e| self.failed("empty", e))
    }

    /// Syncs the file, renames it to `name`, which replaces a file of that name, and syncs the
    /// directory.
    ///
    /// # Errors
    /// The error that the system reports. Before the rename, nothing has changed.
    pub fn commit(self, name: &str) -> Result<()> {
        let named =
            |doing: &str, e: io::Error| Error::io(doing, e).with_path(self.dir.path().join(name));
        self.file.sync_all().map_err(|e| self.failed("sync", e))?;
        single_component(name)
            .and_then(|()| Ok(renameat(self.dir, &*self.name, self.dir, name)?))
            .map_err(|e| named("rename to", e))?;
        if names_hold_sizes(self.file.as_fd()) {
            self.file.sync_all().map_err(|e| named("sync", e))?;
        }
        fsync(self.dir)
            .map_err(|e| Error::io("sync the directory", e.into()).with_path(self.dir.path()))
    }

    /// Removes it.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn discard(self) -> Result<()> {
        unlinkat(self.dir, &*self.name, AtFlags::empty())
            .map_err(|e| self.failed("remove", e.into()))
    }

    /// Removes all incomplete files in `dir`.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn discard_all(dir: &Directory) -> Result<()> {
        let discard = || -> io::Result<()> {
            for entry in Dir::read_from(dir)? {
                let entry = entry?;
                let name = entry.file_name();
                if name.to_str().is_ok_and(AtomicFile::is_download) {
                    unlinkat(dir, name, AtFlags::empty())?;
                }
            }
            Ok(())
        };
        discard().map_err(|e| Error::io("remove incomplete files in", e).with_path(dir.path()))
    }

    fn failed(&self, doing: &str, error: io::Error) -> Error {
        Error::io(doing, error).with_path(self.dir.path().join(&self.name))
    }
}

impl Write for Partial<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_file_is_found_again_and_named_only_by_the_commit() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Directory::open(temp.path()).unwrap();
        let mut file = Partial::open(&dir, "12").unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        let names = || -> Vec<_> {
            let entries = std::fs::read_dir(temp.path()).unwrap();
            entries
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        assert!(AtomicFile::is_download(&names()[0]) && !AtomicFile::is_leftover(&names()[0]));
        let file = Partial::open(&dir, "12").unwrap();
        assert_eq!(io::read_to_string(file.file()).unwrap(), "half");
        file.commit("whole").unwrap();
        assert_eq!(names(), ["whole"]);
        assert!(Partial::open(&dir, "x").unwrap().commit("../y").is_err());
        Partial::discard_all(&dir).unwrap();
        assert_eq!(names(), ["whole"]);
    }

    #[test]
    fn a_cleared_file_starts_again_and_a_symlink_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Directory::open(temp.path()).unwrap();
        let mut file = Partial::open(&dir, "a").unwrap();
        file.write_all(b"garbage").unwrap();
        file.clear().unwrap();
        file.write_all(b"new").unwrap();
        file.commit("a").unwrap();
        assert_eq!(std::fs::read(temp.path().join("a")).unwrap(), b"new");
        let link = temp.path().join(format!("{DOWNLOAD}b{SUFFIX}"));
        std::os::unix::fs::symlink("a", link).unwrap();
        assert!(Partial::open(&dir, "b").is_err());
    }
}
