//! The power goes right after exit status 0: what the disk has then must be all of
//! it. A copy of the disk's bytes, taken while the file system is still mounted and
//! nothing else was synced, is what a machine would find when it comes back.

use std::path::Path;

use crate::alone;
use crate::disks::{Model, assert_holds, awkward, disk, image};
use crate::needs_devices;
use crate::support::{Loop, Mounted, check, run};

fn import(source: &Path, dest: &Path) {
    run([Path::new("import"), Path::new("--device"), source, dest]).exits(0);
}

/// What is left of `mounted` after a power cut now, compared with `model`.
fn assert_survives(dir: &Path, kind: &str, model: &Model) {
    let cut = dir.join(format!("{kind}.cut"));
    std::fs::copy(dir.join(format!("{kind}.img")), &cut).unwrap();
    let device = Loop::with(&cut, &[]);
    let point = dir.join(format!("{kind}.after"));
    std::fs::create_dir(&point).unwrap();
    // Two file systems of one identity may not be mounted at once, says xfs.
    let options = if kind == "xfs" { "nouuid" } else { "defaults" };
    check(
        std::process::Command::new("mount")
            .args(["-o", options])
            .arg(&device.path)
            .arg(&point),
    );
    // Its removal is not worth a sync: it may come back, empty, and the next import
    // removes it again.
    let _ = std::fs::remove_dir(point.join("dest").join(lbpayload::durable::STAGING_NAME));
    let result = std::panic::catch_unwind(|| assert_holds(&point.join("dest"), model));
    check(std::process::Command::new("umount").arg(&point));
    result.unwrap();
}

#[test]
fn everything_is_on_the_disk_when_an_import_exits_with_0() {
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
fn files_that_were_there_and_are_kept_are_on_the_disk_too() {
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
            // By somebody who syncs nothing.
            std::fs::write(dest.join(name), bytes).unwrap();
        }
        import(&source.path, &dest);
        assert_survives(dir.path(), kind, &model);
    }
}
