//! A block device, as the kernel lists it.

use std::fmt;
use std::path::{Path, PathBuf};

/// The kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A whole disk.
    Disk,
    /// A partition of any device.
    Partition,
    /// A loop device.
    Loop,
    /// A device-mapper device.
    Dm,
    /// A software RAID device.
    Md,
    /// A network block device.
    Nbd,
    /// Any other: a RAM disk, an optical drive, a floppy disk, a regular file.
    Other,
}

impl DeviceKind {
    /// Returns whether this kind of device is stacked on others.
    pub(crate) fn is_stacked(self) -> bool {
        matches!(self, Self::Dm | Self::Md)
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Disk => "disk",
            Self::Partition => "partition",
            Self::Loop => "loop",
            Self::Dm => "dm",
            Self::Md => "md",
            Self::Nbd => "nbd",
            Self::Other => "other",
        })
    }
}

/// A block device as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's name, a path below /dev ("sda1", "cciss/c0d0").
    pub name: String,
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// The kind of device.
    pub kind: DeviceKind,
    /// The size in bytes, if the listing contains it.
    pub size_bytes: Option<u64>,
    /// The names of the devices whose data this one shows from the start: those that it
    /// is stacked on (dm, md, a loop over a device, a partition at sector 0).
    pub lower: Vec<String>,
    /// The backing file of a loop device, and the offset in it.
    pub backing: Option<(PathBuf, u64)>,
}

impl Device {
    /// Creates a device that was named on the command line and is in no listing.
    pub(crate) fn unlisted(path: &Path, number: Option<(u32, u32)>) -> Self {
        let name = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        let (major, minor) = number.unwrap_or((0, 0));
        Self {
            kind: if number.is_some() {
                kind_by_name(&name)
            } else {
                DeviceKind::Other
            },
            name,
            major,
            minor,
            size_bytes: None,
            lower: Vec::new(),
            backing: None,
        }
    }
}

pub(super) fn kind_by_name(name: &str) -> DeviceKind {
    let starts = |prefix: &str| name.starts_with(prefix);
    if starts("loop") {
        DeviceKind::Loop
    } else if starts("dm-") {
        DeviceKind::Dm
    } else if starts("md") {
        DeviceKind::Md
    } else if starts("nbd") {
        DeviceKind::Nbd
    } else if ["ram", "zram", "sr", "fd", "mtdblock", "pmem"]
        .iter()
        .any(|p| starts(p))
    {
        DeviceKind::Other
    } else {
        DeviceKind::Disk
    }
}
