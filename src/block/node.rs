//! Finds the node in /dev through which a device is opened, or creates a missing one.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tempfile::TempDir;

use super::device::Device;
use crate::error::{Error, Result};

/// The path of a device's node. If this program created the node, it is removed again when
/// this is dropped, unless [`Node::keep`] was called.
#[derive(Debug)]
pub struct Node {
    path: PathBuf,
    made: bool,
    dir: Option<TempDir>,
}

impl Node {
    /// Returns the path to open.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the node, and returns its path.
    pub fn keep(mut self) -> PathBuf {
        self.made = false;
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
        std::mem::take(&mut self.path)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.made {
            // A node that stays behind is untidy but harmless.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The nodes in /dev, by device number.
#[derive(Debug)]
pub(super) struct Nodes {
    dev: PathBuf,
    known: HashMap<(u32, u32), PathBuf>,
}

impl Nodes {
    /// Searches `dev` and its subdirectories of device-mapper and md.
    pub(super) fn scan(dev: &Path) -> Self {
        let mut known = HashMap::new();
        for dir in [
            dev.to_path_buf(),
            dev.join("mapper"),
            dev.join("md"),
            dev.join("block"),
        ] {
            for (number, path) in block_nodes(&dir) {
                known.entry(number).or_insert(path);
            }
        }
        Self {
            dev: dev.to_path_buf(),
            known,
        }
    }

    /// Returns every node directly in /dev, for a machine without /sys and /proc.
    pub(super) fn all(&self) -> impl Iterator<Item = (&(u32, u32), &PathBuf)> {
        self.known.iter()
    }

    /// Returns the node of `device`: the one with its name, else another with its number,
    /// else a new one. A new node is created in /dev or, if that is not writable, in a
    /// temporary directory.
    pub(super) fn find_or_make(&self, device: &Device) -> Result<Node> {
        let number = (device.major, device.minor);
        let named = self.dev.join(&device.name);
        if number_of(&named) == Some(number) {
            return Ok(Node {
                path: named,
                made: false,
                dir: None,
            });
        }
        if let Some(path) = self.known.get(&number) {
            return Ok(Node {
                path: path.clone(),
                made: false,
                dir: None,
            });
        }
        match make(&named, number) {
            Ok(()) => Ok(Node {
                path: named,
                made: true,
                dir: None,
            }),
            Err(e) => in_temporary_directory(device, number).map_err(|second| {
                Error::io("make a node for", second)
                    .with_path(&named)
                    .advice(format!(
                        "run as root, or make it with mknod (in /dev itself: {e})"
                    ))
            }),
        }
    }
}

fn make(path: &Path, (major, minor): (u32, u32)) -> io::Result<()> {
    let device = makedev(major.into(), minor.into());
    mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, device)?;
    Ok(())
}

fn in_temporary_directory(device: &Device, number: (u32, u32)) -> io::Result<Node> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for parent in [
        std::env::temp_dir(),
        "/run".into(),
        "/dev/shm".into(),
        "/".into(),
    ] {
        let attempt = || -> io::Result<Node> {
            let dir = tempfile::Builder::new()
                .prefix("lbpayload-")
                .tempdir_in(&parent)?;
            let path = dir.path().join(device.name.replace('/', "!"));
            make(&path, number)?;
            let node = Node {
                path,
                made: true,
                dir: Some(dir),
            };
            // On a file system mounted with nodev, a node can be created but not opened.
            match fs::File::open(node.path()) {
                Err(e) if e.raw_os_error() == Some(libc::EACCES) => Err(e),
                _ => Ok(node),
            }
        };
        match attempt() {
            Ok(node) => return Ok(node),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Returns the major and minor number of the block device at `path`.
pub(super) fn number_of(path: &Path) -> Option<(u32, u32)> {
    let meta = fs::metadata(path).ok()?;
    let rdev = meta.rdev();
    #[allow(clippy::useless_conversion)] // dev_t differs between C libraries
    let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    let number = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    meta.file_type().is_block_device().then_some(number)
}

fn block_nodes(dir: &Path) -> Vec<((u32, u32), PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((number_of(&entry.path())?, entry.path())))
        .collect();
    found.sort();
    found
}
