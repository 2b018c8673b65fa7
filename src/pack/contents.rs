//! What a block device is and what it holds, to show before it is overwritten.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::block::{AlignedBuf, PAGE, properties};
use crate::error::printable;

use super::signatures::{Found, detect};

/// A block device: what it is, and what is found on it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Contents {
    /// The size in bytes.
    pub size_bytes: u64,
    /// The vendor and model, if /sys shows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The serial number, if /sys or udev shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The file behind a loop device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// What is on the device and on its partitions.
    pub found: Vec<Content>,
}

/// A file system, volume or partition table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Content {
    /// What it is, such as `ext4`.
    pub kind: &'static str,
    /// The label of the file system, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The name of the partition that holds it. `None` for the device itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        if let Some(label) = &self.label {
            write!(f, " \"{}\"", printable(label))?;
        }
        match &self.partition {
            Some(name) => write!(f, " on {}", printable(name)),
            None => Ok(()),
        }
    }
}

/// Where magic bytes are, in bytes from the start of the device: offset and length.
pub(super) type Mark = (u64, usize);

/// Finds out what `device` of `size` bytes is and what it holds. Also returns the places of all
/// magic bytes that were found.
pub(super) fn examine(device: &File, path: &Path, size: u64, sys: &Path) -> (Contents, Vec<Mark>) {
    let mut pages = Pages::new(device, size);
    let dir = sysfs_directory(device, sys);
    let mut found = Vec::new();
    let mut marks = Vec::new();
    let mut add = |partition: Option<&str>, start: u64, all: Vec<Found>| {
        for one in all {
            marks.push((start + one.at, one.len));
            let content = Content {
                kind: one.kind,
                label: one.label,
                partition: partition.map(str::to_owned),
            };
            if !found.contains(&content) {
                found.push(content);
            }
        }
    };
    add(None, 0, detect(size, &mut |at, len| pages.read(at, len)));
    for (name, start, len) in dir.as_deref().map(partitions).unwrap_or_default() {
        // The kernel may have read the table when the device was larger.
        let Some(len) = size.checked_sub(start).map(|left| left.min(len)) else {
            continue;
        };
        let here = detect(len, &mut |at, len| pages.read(start + at, len));
        add(Some(&name), start, here);
    }
    let mut contents = dir.map(|dir| from_sysfs(&dir)).unwrap_or_else(nothing);
    contents.size_bytes = size;
    contents.found = found;
    if contents.serial.is_none() {
        contents.serial = properties(path).and_then(|known| known.serial);
    }
    (contents, marks)
}

fn nothing() -> Contents {
    Contents {
        size_bytes: 0,
        model: None,
        serial: None,
        backing_file: None,
        found: Vec::new(),
    }
}

/// Returns the device's directory in /sys, if /sys is mounted.
fn sysfs_directory(device: &File, sys: &Path) -> Option<PathBuf> {
    let number = device.metadata().ok()?.rdev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    fs::canonicalize(sys.join(format!("dev/block/{major}:{minor}"))).ok()
}

fn from_sysfs(dir: &Path) -> Contents {
    // A partition is part of the disk in the directory above.
    let disk = match dir.parent() {
        Some(disk) if dir.join("partition").exists() => disk,
        _ => dir,
    };
    let read = |name: &str| {
        let text = fs::read_to_string(disk.join(name)).ok()?;
        // Vendors fill up these fields with blanks.
        let words: Vec<&str> = text.split_whitespace().collect();
        (!words.is_empty()).then(|| words.join(" "))
    };
    let vendor =
        read("device/vendor").filter(|vendor| vendor != "ATA" && !vendor.starts_with("0x"));
    // A memory card has a name in place of a model.
    let model = read("device/model").or_else(|| read("device/name"));
    let model: Vec<String> = vendor.into_iter().chain(model).collect();
    Contents {
        model: (!model.is_empty()).then(|| model.join(" ")),
        serial: read("device/serial"),
        backing_file: read("loop/backing_file"),
        ..nothing()
    }
}

/// Returns the partitions that the kernel knows: name, start and length in bytes.
fn partitions(dir: &Path) -> Vec<(String, u64, u64)> {
    let mut list: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let dir = entry.path();
            // In units of 512 bytes, whatever the device's block size is.
            let bytes = |name: &str| {
                let sectors = fs::read_to_string(dir.join(name)).ok()?;
                sectors.trim().parse::<u64>().ok()?.checked_mul(512)
            };
            fs::metadata(dir.join("partition")).ok()?;
            let name = entry.file_name().to_string_lossy().replace('!', "/");
            Some((name, bytes("start")?, bytes("size")?))
        })
        .collect();
    list.sort_by_key(|&(_, start, _)| start);
    list
}

/// Reads a device in pages, each of them once.
struct Pages<'a> {
    device: &'a File,
    size: u64,
    read: HashMap<u64, Option<Vec<u8>>>,
}

impl<'a> Pages<'a> {
    fn new(device: &'a File, size: u64) -> Self {
        let read = HashMap::new();
        Self { device, size, read }
    }

    /// Returns the bytes at an offset, or `None` if they cannot be read.
    fn read(&mut self, at: u64, len: usize) -> Option<Vec<u8>> {
        let end = at.checked_add(len as u64).filter(|&end| end <= self.size)?;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let next = at + bytes.len() as u64;
            let page = next - next % PAGE as u64;
            let (device, size) = (self.device, self.size);
            let read = self.read.entry(page).or_insert_with(|| {
                read_page(device, page, size)
                    .inspect_err(|e| log::debug!("not readable at offset {page}: {e}"))
                    .ok()
            });
            let to = (end - page).min(PAGE as u64) as usize;
            bytes.extend_from_slice(read.as_deref()?.get((next - page) as usize..to)?);
        }
        Some(bytes)
    }
}

/// Reads a page with direct I/O. It is shorter at the end of the device.
fn read_page(device: &File, at: u64, size: u64) -> io::Result<Vec<u8>> {
    let len = (size - at).min(PAGE as u64) as usize;
    let mut buf = AlignedBuf::new(len)?;
    device.read_exact_at(&mut buf[..len], at)?;
    Ok(buf[..len].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_serial_and_partitions_come_from_sysfs() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("device/vendor", "SanDisk \n");
        put("device/model", "Ultra   Fit   \n");
        put("sdb1/partition", "1\n");
        put("sdb1/start", "2048\n");
        put("sdb1/size", "100\n");
        put("queue/size", "7\n");
        let contents = from_sysfs(dir.path());
        assert_eq!(contents.model.as_deref(), Some("SanDisk Ultra Fit"));
        assert_eq!(contents.serial, None);
        assert_eq!(
            partitions(dir.path()),
            [("sdb1".into(), 1 << 20, 100 * 512)]
        );
        assert_eq!(from_sysfs(&dir.path().join("sdb1")).model, contents.model);
    }

    #[test]
    fn bytes_across_pages_and_at_the_end_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        let bytes: Vec<u8> = (0..9000_u32).map(|n| n as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        let mut pages = Pages::new(&file, 9000);
        for (at, len) in [(0, 1), (4090, 12), (100, 8000), (8990, 10), (9000, 0)] {
            let expected = bytes[at as usize..at as usize + len].to_vec();
            assert_eq!(pages.read(at, len), Some(expected));
        }
        assert_eq!(pages.read(8990, 11), None);
        assert_eq!(pages.read(u64::MAX, 2), None);
    }
}
