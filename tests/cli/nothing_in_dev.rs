//! Nothing is created in /dev: a mistyped device name must not become a file in
//! memory.
//!
//! Without root the system refuses all of this, and the tests prove nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Place, as_tree, sample};
use crate::support::{Lacks, Ran, lbpayload, skip, tree};

/// A name in /dev that does not exist. Whatever a failing test leaves there is
/// removed.
struct Missing(PathBuf);

impl Missing {
    fn new(purpose: &str) -> Self {
        let name = format!("lbpayload-test-{purpose}-{}", std::process::id());
        Self(Path::new("/dev").join(name))
    }

    /// Asserts that the run failed, and created nothing.
    #[track_caller]
    fn refused(&self, ran: Ran) {
        let ran = ran.exits(1).says("in /dev");
        assert_eq!(ran.stdout, "");
        assert!(self.0.symlink_metadata().is_err(), "{:?} exists", self.0);
    }
}

impl Drop for Missing {
    fn drop(&mut self) {
        if self.0.symlink_metadata().is_ok() {
            let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
            let _ = fs::remove_dir_all(&self.0).or_else(|_| fs::remove_file(&self.0));
        }
    }
}

#[test]
fn import_creates_no_directory_in_dev() {
    let place = Place::new(&sample());
    let missing = Missing::new("import");
    let in_it = missing.0.join("below");
    let from_elsewhere = place
        .dir()
        .join("no/../../../../../../..")
        .join(missing.0.strip_prefix("/").unwrap());
    let link = place.dir().join("link");
    symlink("/dev", &link).unwrap();
    let through_link = link.join(missing.0.file_name().unwrap());
    for dest in [&missing.0, &in_it, &from_elsewhere, &through_link] {
        missing.refused(lb!["import", "--device", &place.image, dest]);
        missing.refused(lb!["import", "--dry-run", "--device", &place.image, dest]);
    }
    let mut relative = lbpayload();
    relative.args(["import", "--device"]).arg(&place.image);
    relative
        .arg(missing.0.file_name().unwrap())
        .current_dir("/dev");
    missing.refused(Ran::of(&mut relative));
    // Entries would create new names in /dev itself too.
    missing.refused(lb!["import", "--device", &place.image, "/dev"]);
    assert!(!Path::new("/dev/b-small").exists());
    // No directory was created on the path either.
    assert!(!place.dir().join("no").exists());
}

#[test]
fn drop_in_creates_no_directory_in_dev() {
    let place = Place::new(&sample());
    let missing = Missing::new("drop-in");
    let mut command = Command::new(place.link_drop_in());
    command.arg("--device").args([&place.image, &missing.0]);
    missing.refused(Ran::of(&mut command));
}

#[test]
fn pack_creates_no_file_in_dev() {
    let place = Place::new(&sample());
    let missing = Missing::new("pack");
    missing.refused(lb!["pack", "-o", &missing.0, &place.image]);
    missing.refused(lb!["pack", "--force", "-o", &missing.0, &place.image]);
    let link = place.dir().join("link");
    symlink(&missing.0, &link).unwrap();
    lb!["pack", "--force", "-o", &link, &place.image].exits(1);
    assert!(!missing.0.exists());
}

#[test]
fn mount_creates_no_directory_and_no_index_in_dev() {
    let place = Place::new(&sample());
    let missing = Missing::new("mount");
    missing.refused(lb!["mount", &place.image, &missing.0]);
    let point = place.dir().join("point");
    let index = lb!["mount", "--index", &missing.0, &place.image, &point];
    let _ = lb!["unmount", &point];
    missing.refused(index);
    assert!(!point.exists());
}

#[test]
fn man_creates_no_pages_in_dev() {
    let ran = lb!["man", "--dir", "/dev"].exits(1);
    let page = Path::new("/dev/lbpayload.1");
    let made = page.exists();
    let _ = fs::remove_file(page);
    assert!(!made, "{}", ran.stderr);
}

#[test]
fn file_system_mounted_below_dev_is_a_valid_destination() {
    let shm = Path::new("/dev/shm");
    let device = |path| fs::metadata(path).map(|meta| meta.dev()).ok();
    if device(shm).is_none() || device(shm) == device(Path::new("/dev")) {
        skip(Lacks::Machine, "/dev/shm is no file system of its own");
        return;
    }
    let Ok(dir) = tempfile::tempdir_in(shm) else {
        skip(Lacks::Machine, "/dev/shm cannot be written to");
        return;
    };
    let place = Place::new(&sample());
    let dest = dir.path().join("a/b");
    lb!["import", "--device", &place.image, &dest].exits(0);
    assert!(tree(&dest) == as_tree(&sample()));
    let image = dir.path().join("out.img");
    lb!["pack", "-o", &image, &dest].exits(0);
    lb!["verify", &image].exits(0);
}

#[test]
fn pack_to_dev_stdout_writes_to_standard_output() {
    let place = Place::new(&sample());
    let expected = lb!["pack", "-o", "-", &place.image].exits(0).stdout_bytes;
    let ran = lb!["pack", "-o", "/dev/stdout", &place.image].exits(0);
    assert!(ran.stdout_bytes == expected);
}
