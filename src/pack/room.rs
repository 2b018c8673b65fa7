//! The room for an image file, before it is written.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::durable::AtomicFile;
use crate::error::{Error, Kind, Result};
use crate::sys;

/// Removes the incomplete images that killed runs left in the directory of `out`. Those of runs
/// that are still going on stay. What cannot be removed stays too.
pub fn remove_leftovers(out: &Path) {
    AtomicFile::remove_leftovers(&directory(out));
}

/// Refuses to write an image of `image_bytes` to `out` if the file system has too little room
/// for it. The file that is replaced counts as used, because it stays until the new one is
/// complete.
///
/// # Errors
/// There is too little room. If the room is unknown, this is not an error.
pub fn refuse_too_little_room(out: &Path, image_bytes: u64) -> Result<()> {
    let dir = directory(out);
    let Ok(opened) = File::open(&dir) else {
        // The error of writing the file is better.
        return Ok(());
    };
    // The file sizes of FAT have 32 bits.
    if sys::names_hold_sizes(opened.as_fd()) && image_bytes > u64::from(u32::MAX) {
        return Err(Error::new(
            Kind::Space,
            format!("the file system stores no file of {image_bytes} bytes"),
        )
        .with_code("file-too-large")
        .with_path(out)
        .advice("nothing was written, use another file system than FAT"));
    }
    match sys::room(opened.as_fd()) {
        Ok(room) if room.free_bytes < image_bytes => Err(Error::new(
            Kind::Space,
            format!(
                "the image needs {image_bytes} bytes, the file system has room for {}",
                room.free_bytes
            ),
        )
        .with_path(out)
        .advice("nothing was written, free some space or write to another file system")),
        Ok(_) => Ok(()),
        Err(e) => {
            log::debug!("{}: no free space known: {e}", dir.display());
            Ok(())
        }
    }
}

/// Returns the directory that a file is written to. A symlink is followed.
fn directory(out: &Path) -> PathBuf {
    let real = fs::canonicalize(out).unwrap_or_else(|_| out.to_path_buf());
    match real.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => ".".into(),
    }
}
