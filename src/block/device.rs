//! One block device, as the kernel lists it.

use std::fmt;
use std::path::{Path, PathBuf};

/// What sort of device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A whole disk.
    Disk,
    /// A partition of whatever device.
    Partition,
    /// A loop device.
    Loop,
    /// A device-mapper device.
    Dm,
    /// A software RAID.
    Md,
    /// A network block device.
    Nbd,
    /// RAM disks, optical drives, floppies, regular files.
    Other,
}

impl DeviceKind {
    /// Whether it is one that stacks on others.
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
    /// What sort it is.
    pub kind: DeviceKind,
    /// Its size, where the listing tells.
    pub size_bytes: Option<u64>,
    /// Names of the devices whose very bytes it shows from the start: those that
    /// it is stacked on (dm, md, a loop over a device, a partition at sector 0).
    pub lower: Vec<String>,
    /// What a loop device shows: its backing file and offset.
    pub backing: Option<(PathBuf, u64)>,
}

impl Device {
    /// A device named on the command line that no listing has.
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
