//! The staging of incomplete files, and how they get their names.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, syncfs};
use rustix::io::Errno;

use crate::block::{AlignedBuf, DirectPolicy, PAGE, Sink};
use crate::error::{Error, Kind, Result};
use crate::sys::{
    allocate, direct_alignment, drop_cached, is_in_memory, names_hold_sizes, write_uncached,
};

use super::attributes::inherit;
use super::directory::{Directory, single_component};
use super::staged::StagedFile;
use super::staging_dir::{STAGING_NAME, StagingDir, slot_name, syncfs_reports};
use super::store::{Store, WriteMode};
use super::tmpfile::TmpFiles;

/// 0666 minus the umask, like fopen(3) in the reference importer.
const MODE: Mode = Mode::from_bits_truncate(0o666);

/// The name of a file for testing a write mode. No slot has this name.
const PROBE: &str = "probe";

/// Preallocating a file saves time from this size on, in bytes.
const ALLOCATE_FROM: u64 = 256 * 1024;

/// The real [`Store`]: a directory of staged files inside a [`Directory`].
#[derive(Debug)]
pub struct Staging {
    dir: File,
    staging: StagingDir,
    mode: WriteMode,
    sync_each: bool,
    in_memory: bool,
    names_hold_sizes: bool,
    uncached: bool,
    tmpfiles: Option<TmpFiles>,
    keeps_owner_and_mode: bool,
}

impl Staging {
    /// Creates or empties the staging directory of `dir`, and determines how files can be
    /// written there. The caller must have locked `dir`.
    ///
    /// # Errors
    /// The directory cannot be created, or `policy` requires direct I/O and it is not
    /// supported.
    pub fn prepare(dir: &Directory, policy: DirectPolicy) -> Result<Self> {
        Self::find_out(dir, policy).inspect_err(|_| StagingDir::remove_if_empty(dir))
    }

    fn find_out(dir: &Directory, policy: DirectPolicy) -> Result<Self> {
        let path = dir.path().join(STAGING_NAME);
        let failed = |doing: &str, e: io::Error| Error::io(doing, e).with_path(&path);
        let staging = StagingDir::open_or_make(dir).map_err(|e| {
            failed("open", e).advice(format!(
                "move {} away, import needs this name for its incomplete files",
                path.display()
            ))
        })?;
        let dir = dir.file().try_clone().map_err(|e| failed("open", e))?;
        let in_memory = is_in_memory(staging.as_fd());
        let names_hold_sizes = names_hold_sizes(staging.as_fd());
        let mut this = Self {
            dir,
            staging,
            mode: WriteMode::Buffered,
            // tmpfs is memory, so there is nothing to sync to.
            sync_each: !in_memory && !syncfs_reports(),
            in_memory,
            names_hold_sizes,
            uncached: false,
            tmpfiles: None,
            keeps_owner_and_mode: false,
        };
        let left = this.staging.empty().map_err(|e| {
            failed("empty", e)
                .advice("move it away, import needs this name for its incomplete files")
        })?;
        if left > 0 {
            log::info!(
                "removed {left} incomplete files that an earlier run left in {}",
                path.display()
            );
        }
        this.tmpfiles = TmpFiles::try_in(this.staging.as_fd());
        let first = |e| failed("write a first file in", e);
        this.uncached = !in_memory && this.can_write_uncached().map_err(first)?;
        this.mode = this
            .best_mode(policy)
            .map_err(|e| failed("write a first file in", e))?;
        if policy == DirectPolicy::Always && this.mode != WriteMode::Direct {
            return Err(
                Error::new(Kind::Refused, "the file system does not support direct I/O")
                    .with_code("no-direct-io")
                    .with_path(&path),
            );
        }
        Ok(this)
    }

    /// Gives files that replace others their owner and mode. See [`Store::inherit`].
    #[must_use]
    pub fn keeping_owner_and_mode(mut self) -> Self {
        self.keeps_owner_and_mode = true;
        self
    }

    /// Returns whether the destination is memory (tmpfs). There, several threads create small
    /// files faster than one. On a disk they only wait for each other.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Removes the staging directory and everything that a failure left in it.
    ///
    /// This needs no sync: if the directory comes back after a crash, the next run removes it.
    /// FAT is the exception, because there it could come back with clusters that belong to
    /// another file by then.
    ///
    /// # Errors
    /// The error that the system reports.
    pub fn remove(self) -> io::Result<()> {
        self.staging.remove_from(&self.dir)?;
        if self.names_hold_sizes {
            syncfs(&self.dir)?;
        }
        Ok(())
    }

    /// Determines the best mode with a temporary file: from statx(2), and from a trial write
    /// if statx reports nothing.
    fn best_mode(&self, policy: DirectPolicy) -> io::Result<WriteMode> {
        if self.in_memory && policy == DirectPolicy::Auto {
            // tmpfs accepts O_DIRECT but copies anyway, so alignment would only cost time.
            return Ok(WriteMode::Buffered);
        }
        if policy != DirectPolicy::Never {
            let page = AlignedBuf::new(PAGE)?;
            let direct = self.attempt(
                OFlags::DIRECT,
                &|file| match direct_alignment(file.as_fd()) {
                    Some(n) if n == 0 || n as usize > PAGE => Err(Errno::INVAL.into()),
                    _ => file.write_all_at(&page, 0),
                },
            );
            match direct {
                Ok(()) => return Ok(WriteMode::Direct),
                Err(e) if is_unsupported(&e) => log::debug!("no direct writes here: {e}"),
                Err(e) => return Err(e),
            }
        }
        Ok(if self.uncached {
            WriteMode::Uncached
        } else {
            WriteMode::Buffered
        })
    }

    fn can_write_uncached(&self) -> io::Result<bool> {
        let write = |file: &File| write_uncached(file.as_fd(), &[0; 512], 0).map(drop);
        match self.attempt(OFlags::empty(), &write) {
            Ok(()) => Ok(true),
            Err(e) if is_unsupported(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Writes to a temporary file.
    fn attempt(&self, flags: OFlags, write: &dyn Fn(&File) -> io::Result<()>) -> io::Result<()> {
        let file = self.staging.create_named(PROBE, MODE, flags);
        let result = file.and_then(|file| write(&file));
        match self.staging.discard_named(PROBE) {
            Ok(()) => result,
            // open(2) may refuse the flag with or without having created the file.
            Err(e) if e.kind() == io::ErrorKind::NotFound => result,
            Err(e) => Err(e),
        }
    }
}

/// Returns whether this is the error for a flag that the kernel or file system does not know.
fn is_unsupported(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)
    )
}

impl Store for Staging {
    fn mode(&self) -> WriteMode {
        self.mode
    }

    fn create(&self, slot: u64, size: u64) -> io::Result<Arc<dyn Sink>> {
        let flags = match self.mode {
            WriteMode::Direct => OFlags::DIRECT,
            WriteMode::Uncached | WriteMode::Buffered => OFlags::empty(),
        };
        let file = self.staging.create(slot, MODE, flags)?;
        if size >= ALLOCATE_FROM && !self.in_memory {
            // Round up to whole pages, so that the padded last write does not extend the file.
            match allocate(file.as_fd(), size.next_multiple_of(PAGE as u64)) {
                Err(e) if !is_unsupported(&e) => return Err(e),
                _ => {}
            }
        }
        let forget = self.mode == WriteMode::Buffered && !self.in_memory;
        Ok(Arc::new(StagedFile::new(
            file,
            self.mode,
            self.sync_each,
            forget,
        )))
    }

    fn put(&self, slot: u64, bytes: &[u8]) -> io::Result<()> {
        let tmpfiles = self.tmpfiles.as_ref();
        let (file, named) = match tmpfiles.and_then(|t| t.open(self.staging.as_fd())) {
            Some(file) => (file, false),
            None => (self.staging.create(slot, MODE, OFlags::empty())?, true),
        };
        file.write_all_at(bytes, 0)?;
        if self.sync_each {
            file.sync_data()?;
        }
        match tmpfiles {
            Some(tmpfiles) if !named => tmpfiles.hold(slot, file),
            _ => {}
        }
        Ok(())
    }

    fn reopen(&self, slot: u64, size: u64) -> io::Result<File> {
        let file = match self.staging.reopen(slot) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.staging.create(slot, MODE, OFlags::empty())?
            }
            other => other?,
        };
        file.set_len(size)?;
        Ok(file)
    }

    fn forget(&self, slot: u64) {
        if self.in_memory {
            return;
        }
        if let Some(file) = self.tmpfiles.as_ref().and_then(|t| t.get(slot)) {
            drop_cached(file.as_fd(), 0, 0);
            return;
        }
        // Opening the file again costs less than writing uncached, which starts disk
        // I/O for each file.
        if let Ok(file) = self.staging.open_file(slot) {
            drop_cached(file.as_fd(), 0, 0);
        }
    }

    fn discard(&self, slot: u64) -> io::Result<()> {
        if self.tmpfiles.as_ref().is_some_and(|t| t.drop_file(slot)) {
            return Ok(());
        }
        self.staging.discard(slot)
    }

    fn inherit(&self, slot: u64, name: &str) -> io::Result<()> {
        if !self.keeps_owner_and_mode {
            return Ok(());
        }
        let file = match self.tmpfiles.as_ref().and_then(|t| t.get(slot)) {
            Some(file) => file,
            None => Arc::new(self.staging.open_file(slot)?),
        };
        inherit(&self.dir, name, &file)?;
        if self.sync_each {
            file.sync_all()?;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.staging.flush()
    }

    fn publish(&self, slot: u64, name: &str, replace: bool) -> io::Result<()> {
        single_component(name)?;
        if let Some(tmpfiles) = &self.tmpfiles {
            if !replace {
                if let Some(done) = tmpfiles.publish(slot, self.dir.as_fd(), name) {
                    return done;
                }
            } else if let Some(staged) =
                tmpfiles.publish(slot, self.staging.as_fd(), &slot_name(slot))
            {
                // Only a rename can replace a file, and a rename needs a name first.
                staged?;
            }
        }
        if replace {
            self.staging.publish(slot, &self.dir, name)
        } else {
            self.staging.publish_new(slot, self.dir.as_fd(), name)
        }
    }

    fn flush_names(&self) -> io::Result<()> {
        if self.names_hold_sizes {
            syncfs(&self.staging)?;
        }
        self.dir.sync_all()?;
        // The names have left the staging directory, which some file systems record separately.
        self.staging.flush_names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Lookup;

    fn staging() -> (tempfile::TempDir, Directory, Staging) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Directory::open(temp.path()).unwrap();
        let staging = Staging::prepare(&dir, DirectPolicy::Auto).unwrap();
        (temp, dir, staging)
    }

    #[test]
    fn a_file_has_no_name_before_it_is_published() {
        let (temp, dir, staging) = staging();
        let sink = staging.create(0, 5000).unwrap();
        let mut buf = AlignedBuf::new(8192).unwrap();
        buf[..5000].fill(b'x');
        sink.write_all_at(&buf, 0).unwrap();
        sink.finish(5000).unwrap();
        staging.put(1, b"small").unwrap();
        staging.flush().unwrap();
        assert!(matches!(dir.lookup("large").unwrap(), Lookup::Nothing));
        staging.publish(0, "large", false).unwrap();
        staging.publish(1, "small", false).unwrap();
        staging.flush_names().unwrap();
        staging.remove().unwrap();
        assert_eq!(
            std::fs::read(temp.path().join("large")).unwrap(),
            [b'x'; 5000]
        );
        assert_eq!(std::fs::read(temp.path().join("small")).unwrap(), b"small");
        assert!(!temp.path().join(STAGING_NAME).exists());
    }

    #[test]
    fn leftovers_of_an_earlier_run_are_removed() {
        let (temp, dir, staging) = staging();
        // Large files have a name in the staging directory; small ones may have none.
        staging.create(7, 5000).unwrap();
        drop(staging);
        assert_eq!(
            std::fs::read_dir(temp.path().join(STAGING_NAME))
                .unwrap()
                .count(),
            1
        );
        let again = Staging::prepare(&dir, DirectPolicy::Auto).unwrap();
        again.remove().unwrap();
    }

    #[test]
    fn a_name_that_exists_is_replaced_only_when_asked() {
        let (temp, _dir, staging) = staging();
        std::fs::write(temp.path().join("name"), "old").unwrap();
        staging.put(0, b"new").unwrap();
        let error = staging.publish(0, "name", false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(temp.path().join("name")).unwrap(), b"old");
        staging.publish(0, "name", true).unwrap();
        assert_eq!(std::fs::read(temp.path().join("name")).unwrap(), b"new");
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let (_temp, dir, staging) = staging();
        staging.put(0, b"x").unwrap();
        for name in ["..", ".", "", "a/b", "/etc/x", "a\0b"] {
            assert!(staging.publish(0, name, true).is_err(), "{name:?}");
            assert!(dir.lookup(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_symlink_is_neither_followed_nor_written_through() {
        let (temp, dir, staging) = staging();
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, temp.path().join("link")).unwrap();
        assert!(matches!(dir.lookup("link").unwrap(), Lookup::Symlink(..)));
        staging.put(0, b"new").unwrap();
        staging.publish(0, "link", true).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(std::fs::read(temp.path().join("link")).unwrap(), b"new");
    }

    #[test]
    fn a_directory_opened_twice_can_be_locked_only_once() {
        let temp = tempfile::tempdir().unwrap();
        let first = Directory::open(temp.path()).unwrap();
        let second = Directory::open(temp.path()).unwrap();
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
    }

    #[test]
    fn a_directory_is_empty_until_something_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        assert!(directory.is_empty().unwrap());
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(!directory.is_empty().unwrap());
    }
}
