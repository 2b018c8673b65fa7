//! The key that shows whether a file was changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

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
