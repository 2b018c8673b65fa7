//! The settings of a mount, and the attributes of its files that follow from them.

use std::time::{Duration, SystemTime};

use nix::unistd::{getgid, getuid};

use crate::sandbox::Sandbox;

/// The users that may access the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// The user that mounted it.
    #[default]
    Owner,
    /// That user and root.
    OwnerAndRoot,
    /// All users, as the modes of the files allow.
    Everybody,
}

/// The settings of a mount. It is always read-only, without devices and set-user-ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The users that may access the mount.
    pub access: Access,
    /// The owner of the files. The default is the user that mounts. With [`Access::OwnerAndRoot`]
    /// it is always that user.
    pub uid: Option<u32>,
    /// The group of the files. The default is that of the user that mounts.
    pub gid: Option<u32>,
    /// The bits to remove from 0444 and 0555. [`Access::OwnerAndRoot`] adds 0077.
    pub umask: u16,
    /// The value of all times of all files, since the image has none. The default is 1970.
    pub time: Option<SystemTime>,
    /// Whether to unmount even when the server is killed.
    pub auto_unmount: bool,
    /// The first field of /proc/mounts. The default is the path of the source.
    pub fsname: Option<String>,
    /// Whether to forbid the execution of files.
    pub noexec: bool,
    /// Whether reads bypass the mount's page cache.
    pub direct_io: bool,
    /// The idle time after which it is unmounted.
    pub timeout: Option<Duration>,
    /// The number of reads that may wait for the disk at the same time, each in a thread.
    pub max_threads: usize,
    /// Whether listings of extended attributes are empty. They can still be read by name.
    pub hides_attributes: bool,
    /// What the threads that read the payload may still do. `None` means everything.
    pub sandbox: Option<Sandbox<'static>>,
}

/// The default of [`Settings::max_threads`].
const MAX_THREADS: usize = 16;

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            uid: None,
            gid: None,
            umask: 0,
            time: None,
            auto_unmount: false,
            fsname: None,
            noexec: false,
            direct_io: false,
            timeout: None,
            max_threads: MAX_THREADS,
            hides_attributes: false,
            sandbox: None,
        }
    }
}

impl Settings {
    pub(super) fn attr_defaults(&self) -> AttrDefaults {
        let mounter = getuid().as_raw();
        let (uid, umask) = match self.access {
            // The kernel answers every user from its caches, so only the modes keep other users
            // out.
            Access::OwnerAndRoot => (mounter, self.umask | 0o077),
            Access::Owner | Access::Everybody => (self.uid.unwrap_or(mounter), self.umask),
        };
        AttrDefaults {
            uid,
            gid: self.gid.unwrap_or_else(|| getgid().as_raw()),
            umask,
            time: self.time.unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

/// The attributes that the directory and all files have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttrDefaults {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: u16,
    pub(super) time: SystemTime,
}
