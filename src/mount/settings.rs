//! What a mount is to be like, and the attributes of its files that follow from that.

use std::time::{Duration, SystemTime};

use nix::unistd::{getgid, getuid};

/// Who may look inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// The user who mounted it.
    #[default]
    Owner,
    /// That user and root.
    OwnerAndRoot,
    /// Everybody, as the files' modes allow.
    Everybody,
}

/// What a mount is to be like. It is always read-only, and without devices and
/// set-user-ID.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Who may look inside.
    pub access: Access,
    /// The files' owner; the user who mounts unless given. With
    /// [`Access::OwnerAndRoot`] always that user.
    pub uid: Option<u32>,
    /// The files' group; that of the user who mounts unless given.
    pub gid: Option<u32>,
    /// Bits taken from 0444 and 0555. [`Access::OwnerAndRoot`] adds 0077.
    pub umask: u16,
    /// All times of all files, since the image has none; 1970 unless given.
    pub time: Option<SystemTime>,
    /// Whether it is unmounted even when the server is killed.
    pub auto_unmount: bool,
    /// The first field of /proc/mounts; the source's path unless given.
    pub fsname: Option<String>,
    /// Whether nothing on it may be executed.
    pub noexec: bool,
    /// Whether reads go past the mount's page cache.
    pub direct_io: bool,
    /// Unmounted when nobody has used it for that long.
    pub timeout: Option<Duration>,
}

impl Settings {
    pub(super) fn attr_defaults(&self) -> AttrDefaults {
        let mounter = getuid().as_raw();
        let (uid, umask) = match self.access {
            // The kernel answers from its caches, whoever asks: only the modes keep
            // others out.
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
