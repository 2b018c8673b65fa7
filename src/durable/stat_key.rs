//! The key that shows whether a file was changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

/// The inode, the length in bytes, and the times of the last modification and of the last
/// status change, in seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatKey {
    /// The inode number.
    pub inode: u64,
    /// The length in bytes.
    pub bytes: u64,
    /// When its content last changed. Any program can set this time.
    pub modified: (i64, i64),
    /// When anything about it last changed. Only the kernel sets this time.
    pub changed: (i64, i64),
}

impl StatKey {
    /// Returns the key of a regular file, or `None` for anything else.
    pub fn of(meta: &Metadata) -> Option<Self> {
        meta.is_file().then(|| Self {
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Does the same with what fstatat(2) returns.
    #[allow(clippy::unnecessary_cast)] // the types differ between architectures
    pub(super) fn of_stat(stat: &Stat) -> Option<Self> {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        is_file.then_some(Self {
            inode: stat.st_ino as u64,
            bytes: stat.st_size as u64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        })
    }

    /// Returns whether the file last changed more than `age` before `time`, so that any change
    /// after `time` is visible. Always false if the file system stores only whole seconds.
    pub fn is_older_than(&self, time: SystemTime, age: Duration) -> bool {
        let (Ok(seconds), Ok(nanoseconds)) =
            (u64::try_from(self.changed.0), u32::try_from(self.changed.1))
        else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        nanoseconds != 0 && changed + age < time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_metadata_give_the_same_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "bytes").unwrap();
        let of = |path: &std::path::Path| {
            let meta = path.symlink_metadata().unwrap();
            let stat = rustix::fs::lstat(path).unwrap();
            assert_eq!(StatKey::of(&meta), StatKey::of_stat(&stat));
            StatKey::of(&meta)
        };
        assert_eq!(of(file.path()).unwrap().bytes, 5);
        assert_eq!(of(std::path::Path::new("/proc/self/exe")), None);
    }

    #[test]
    fn a_file_that_may_change_within_the_same_tick_is_not_old() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds, nanoseconds| StatKey {
            inode: 1,
            bytes: 1,
            modified: (0, 0),
            changed: (seconds, nanoseconds),
        };
        let tick = Duration::from_millis(25);
        assert!(at(999, 900_000_000).is_older_than(now, tick));
        assert!(!at(999, 980_000_000).is_older_than(now, tick));
        assert!(!at(1001, 1).is_older_than(now, tick));
        // FAT and old NFS store whole seconds.
        assert!(!at(900, 0).is_older_than(now, tick));
    }
}
