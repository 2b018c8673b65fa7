//! The lock of an image, so that only one run at a time can change it.

use std::path::Path;

use crate::durable::Directory;
use crate::error::{Error, Kind, Result};

/// Locks the image. The lock lasts as long as the result.
pub(crate) fn lock(image: &Path) -> Result<Directory> {
    let dir = Directory::open(image)?;
    if dir.try_lock()? {
        return Ok(dir);
    }
    let message = format!("another promote is running on this image{}", holder(image));
    Err(Error::new(Kind::Busy, message)
        .with_path(image)
        .advice("wait until it ends, then promote again"))
}

/// Returns the process that holds the lock, according to /proc/locks.
fn holder(image: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = image.metadata() else {
        return String::new();
    };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = format!(":{}", meta.ino());
    let found = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let place = words.get(5)?;
        (words.get(1) == Some(&"FLOCK") && place.ends_with(&inode))
            .then(|| words.get(4).map(|pid| (*pid).to_owned()))?
    });
    found.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
