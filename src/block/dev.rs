//! Refuses to create files in /dev, which holds device nodes. A new file or directory there
//! means that a device name was wrong, and its data would fill the machine's memory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Refuses to create a file or directory at `path` if that is in /dev. File systems
/// mounted below /dev, such as /dev/shm, are allowed.
///
/// # Errors
/// The path is in /dev.
pub fn refuse_new_in_dev(path: &Path) -> Result<()> {
    refuse_new_in(Path::new("/dev"), path)
}

fn refuse_new_in(dev: &Path, path: &Path) -> Result<()> {
    let dev = dev.canonicalize().unwrap_or_else(|_| dev.to_path_buf());
    let Some(place) = place_of(path).filter(|place| place.starts_with(&dev)) else {
        return Ok(());
    };
    let file_system = |dir: &Path| fs::metadata(dir).map(|meta| meta.dev()).ok();
    let new_in = place.ancestors().skip(1).find_map(file_system);
    match file_system(&dev) {
        Some(own) if new_in != Some(own) => Ok(()),
        _ => Err(Error::new(
            Kind::Refused,
            "refused to create a file or directory in /dev",
        )
        .with_code("in-dev")
        .with_path(path)
        .advice("check the device's name, and that the disk is attached")),
    }
}

/// Resolves the symlinks in `path`, even if its last components do not exist.
fn place_of(path: &Path) -> Option<PathBuf> {
    let mut place = PathBuf::new();
    for part in std::path::absolute(path).ok()?.components() {
        match part {
            Component::ParentDir => {
                place.pop();
            }
            part => place.push(part),
        }
        if let Ok(found) = place.canonicalize() {
            place = found;
        }
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn new_files_in_dev_are_refused_even_if_it_is_a_plain_directory_or_missing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("root/dev/mapper")).unwrap();
        fs::create_dir_all(at("root/devices")).unwrap();
        symlink("root/dev", at("link")).unwrap();
        let refused = |path: &str| refuse_new_in(&at("root/dev"), &at(path)).is_err();
        for path in [
            "root/dev/sdzz",
            "root/dev/mapper/x",
            "root/dev/no/such/directory",
            "root/devices/../dev/sdzz",
            "root/no/../../root/dev/sdzz",
            "link/sdzz",
            "link/mapper/../sdzz",
        ] {
            assert!(refused(path), "{path}");
        }
        for path in [
            "root/devices/x",
            "root/x",
            "root/device",
            "root/dev/../x",
            "link/../x",
        ] {
            assert!(!refused(path), "{path}");
        }
        let missing = at("root/none");
        assert!(refuse_new_in(&missing, &missing).is_err());
        assert!(refuse_new_in(&missing, &missing.join("sdzz")).is_err());
    }

    #[test]
    fn a_file_system_mounted_below_dev_is_allowed() {
        // /proc is a file system of its own on every machine.
        assert!(refuse_new_in(Path::new("/"), Path::new("/proc/x")).is_ok());
        assert!(refuse_new_in(Path::new("/"), Path::new("/x")).is_err());
    }
}
