//! What tells that a file was touched.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Inode, length in bytes, and the times of the last modification and of the last
/// change of anything, in seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatKey {
    /// The inode.
    pub inode: u64,
    /// The length in bytes.
    pub bytes: u64,
    /// When its bytes last changed, which anybody may say.
    pub modified: (i64, i64),
    /// When anything of it last changed, which only the kernel says.
    pub changed: (i64, i64),
}

impl StatKey {
    /// That of a regular file; `None` of anything else.
    pub fn of(meta: &Metadata) -> Option<Self> {
        meta.is_file().then(|| Self {
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Whether it last changed more than `age` before `time`, so that a change after
    /// `time` shows. Never where the file system counts whole seconds.
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
    fn a_file_that_could_change_within_the_same_tick_is_not_old() {
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
        // FAT and NFS of old count in seconds.
        assert!(!at(900, 0).is_older_than(now, tick));
    }
}
