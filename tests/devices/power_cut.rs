//! A power cut right after exit status 0: by then the disk must hold everything. The
//! tests copy the disk's bytes while the file system is still mounted and nothing
//! else was synced. That copy is what a machine would find after the power cut.

use std::path::Path;

use crate::alone;
use crate::disks::{Model, assert_holds, awkward, disk, image};
use crate::needs_devices;
use crate::support::{Loop, Mounted, check, run};

fn import(source: &Path, dest: &Path) {
    run([Path::new("import"), Path::new("--device"), source, dest]).exits(0);
}

/// Compares what is left of `mounted` after a power cut now with `model`.
fn assert_survives(dir: &Path, kind: &str, model: &Model) {
    let cut = dir.join(format!("{kind}.cut"));
    std::fs::copy(dir.join(format!("{kind}.img")), &cut).unwrap();
    let device = Loop::with(&cut, &[]);
    let point = dir.join(format!("{kind}.after"));
    std::fs::create_dir(&point).unwrap();
    // xfs refuses to mount two file systems with the same UUID.
    let options = if kind == "xfs" { "nouuid" } else { "defaults" };
    check(
        std::process::Command::new("mount")
            .args(["-o", options])
            .arg(&device.path)
            .arg(&point),
    );
    // The removal of the staging directory is not synced: the empty directory may
    // come back, and the next import removes it again.
    let _ = std::fs::remove_dir(point.join("dest").join(lbpayload::durable::STAGING_NAME));
    let result = std::panic::catch_unwind(|| assert_holds(&point.join("dest"), model));
    check(std::process::Command::new("umount").arg(&point));
    result.unwrap();
}

#[test]
fn successful_import_survives_a_power_cut() {
    needs_devices!();
    let _alone = alone();
    let model = awkward();
    for kind in ["ext4", "xfs"] {
        let dir = tempfile::tempdir().unwrap();
        let source = disk(dir.path(), "source", &image(&model).bytes(), 512);
        let mounted = Mounted::make(kind, dir.path(), 512 << 20);
        import(&source.path, &mounted.path.join("dest"));
        assert_survives(dir.path(), kind, &model);
    }
}

#[test]
fn existing_files_that_import_keeps_survive_a_power_cut() {
    needs_devices!();
    let _alone = alone();
    let model = awkward();
    for kind in ["ext4", "xfs"] {
        let dir = tempfile::tempdir().unwrap();
        let source = disk(dir.path(), "source", &image(&model).bytes(), 512);
        let mounted = Mounted::make(kind, dir.path(), 512 << 20);
        let dest = mounted.path.join("dest");
        std::fs::create_dir(&dest).unwrap();
        for (name, bytes) in &model {
            // Written by a program that does not sync.
            std::fs::write(dest.join(name), bytes).unwrap();
        }
        import(&source.path, &dest);
        assert_survives(dir.path(), kind, &model);
    }
}
