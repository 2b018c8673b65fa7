//! Destinations that are full, fill up, or cannot be written.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::disks::{Model, assert_holds, disk, image};
use crate::support::{Image, Mounted, Ran, check, noise, run, tree};
use crate::{alone, needs_devices};

#[track_caller]
fn import(device: &Path, dest: &Path) -> Ran {
    run([Path::new("import"), Path::new("--device"), device, dest])
}

fn import_json(device: &Path, dest: &Path) -> Ran {
    let args = ["import", "--json", "--device"].map(Path::new);
    run(args.into_iter().chain([device, dest]))
}

/// Names in a directory.
fn names(dir: &Path) -> Vec<String> {
    tree(dir).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn too_few_bytes_are_refused_in_the_plan_with_both_numbers() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new(&[("small", b"x"), ("large", &noise(1, 12 << 20))]);
    let device = disk(dir.path(), "disk", &image.bytes(), 512);
    let tmpfs = Mounted::tmpfs(dir.path(), 8 << 20);
    let ext4 = Mounted::make("ext4", dir.path(), 8 << 20);
    for root in [&tmpfs.path, &ext4.path] {
        let block = check(Command::new("stat").args(["-f", "-c", "%S"]).arg(root));
        let need = (12 << 20) + block.trim().parse::<u64>().unwrap();
        import_json(&device.path, root)
            .exits(1)
            .says(&need.to_string())
            .with_code("no-space");
        let left: Vec<String> = names(root)
            .into_iter()
            .filter(|n| n != "lost+found")
            .collect();
        assert_eq!(left, [""; 0], "something was written");
    }
    let tmpfs_free = 8 << 20;
    import(&device.path, &tmpfs.path)
        .exits(1)
        .says(&format!("{tmpfs_free}"));
}

#[test]
fn too_few_inodes_are_refused_in_the_plan_with_both_numbers() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model: Model = (0..40).map(|n| (format!("{n}"), noise(n, 10))).collect();
    let device = disk(dir.path(), "disk", &image(&model).bytes(), 512);
    let tmpfs = Mounted::tmpfs(dir.path(), 8 << 20);
    check(
        Command::new("mount")
            .args(["-o", "remount,nr_inodes=20"])
            .arg(&tmpfs.path),
    );
    import_json(&device.path, &tmpfs.path)
        .exits(1)
        .says("41")
        .with_code("no-space");
    assert_eq!(names(&tmpfs.path), [""; 0]);
}

#[test]
fn a_plan_that_fits_to_the_last_inode_is_carried_out_or_refused() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model: Model = (0..40).map(|n| (format!("{n}"), noise(n, 10))).collect();
    let device = disk(dir.path(), "disk", &image(&model).bytes(), 512);
    let tmpfs = Mounted::tmpfs(dir.path(), 8 << 20);
    // The root is one; forty are left, and the staging directory takes another.
    check(
        Command::new("mount")
            .args(["-o", "remount,nr_inodes=41"])
            .arg(&tmpfs.path),
    );
    let ran = import_json(&device.path, &tmpfs.path);
    if ran.status == Some(0) {
        assert_holds(&tmpfs.path, &model);
    } else {
        ran.exits(1).with_code("no-space");
        assert_eq!(names(&tmpfs.path), [""; 0]);
    }
}

#[test]
fn what_is_there_already_needs_no_room() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model: Model = [
        ("kept".into(), noise(1, 6 << 20)),
        ("new".into(), noise(2, 100_000)),
    ]
    .into();
    let device = disk(dir.path(), "disk", &image(&model).bytes(), 512);
    let tmpfs = Mounted::tmpfs(dir.path(), 8 << 20);
    fs::write(tmpfs.path.join("kept"), &model["kept"]).unwrap();
    import(&device.path, &tmpfs.path).exits(0);
    assert_holds(&tmpfs.path, &model);
}

/// Runs the import where no file can get larger than `kib`, which it meets
/// half-way, as it would a quota.
fn import_below(kib: u64, device: &Path, dest: &Path) -> Ran {
    let script = format!(
        "trap '' XFSZ; ulimit -f {}; exec \"$0\" import --device \"$@\"",
        kib * 2
    );
    let program = env!("CARGO_BIN_EXE_lbpayload");
    // POSIX counts in blocks of 512 bytes, which sh (dash) does and bash does not.
    Ran::of(
        Command::new("dash")
            .args(["-c", &script, program])
            .args([device, dest]),
    )
}

#[test]
fn a_write_that_fails_half_way_leaves_the_complete_files_and_nothing_else() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model: Model = [
        ("a small one".into(), noise(1, 1000)),
        ("b large one".into(), noise(2, 3 << 20)),
        ("c too large".into(), noise(3, 10 << 20)),
        ("d never".into(), noise(4, 1000)),
    ]
    .into();
    let files: Vec<(&str, &[u8])> = model.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    let device = disk(dir.path(), "disk", &Image::new(&files).bytes(), 512);
    let ext4 = Mounted::make("ext4", dir.path(), 128 << 20);
    let tmpfs = Mounted::tmpfs(dir.path(), 128 << 20);
    for root in [&ext4.path, &tmpfs.path] {
        let dest = root.join("dest");
        let ran = import_below(4096, &device.path, &dest).exits(1);
        let ran = ran.says("File too large").says("`c too large`");
        assert_eq!(ran.stdout, "");
        for (name, bytes) in tree(&dest) {
            assert!(
                model.get(&name) == Some(&bytes),
                "{name}: not one of the files, or not whole"
            );
        }
        let left = names(&dest);
        assert!(
            left.contains(&"a small one".into()) && left.contains(&"b large one".into()),
            "{left:?}"
        );
        assert!(!left.contains(&"c too large".into()));
        // Another run goes on from there.
        let again = import(&device.path, &dest).exits(0);
        assert!(
            again.stdout.contains(&format!("{} kept", left.len())),
            "{}",
            again.stdout
        );
        assert_holds(&dest, &model);
    }
}

#[test]
fn a_run_that_a_signal_kills_half_way_leaves_nothing_that_the_next_does_not_remove() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model: Model = [
        ("a".into(), noise(1, 1000)),
        ("b".into(), noise(3, 10 << 20)),
    ]
    .into();
    let files: Vec<(&str, &[u8])> = model.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    let device = disk(dir.path(), "disk", &Image::new(&files).bytes(), 512);
    let tmpfs = Mounted::tmpfs(dir.path(), 128 << 20);
    let dest = tmpfs.path.join("dest");
    // SIGXFSZ, as SIGKILL, ends it on the spot.
    let mut killed = Command::new("prlimit");
    killed
        .arg("--fsize=4194304")
        .arg("--core=0")
        .arg(env!("CARGO_BIN_EXE_lbpayload"));
    let ran = Ran::of(
        killed
            .args(["import", "--device"])
            .args([&device.path, &dest]),
    );
    assert_eq!(ran.status, None, "the limit does not kill: no test");
    for (name, bytes) in tree(&dest) {
        let whole = model.get(&name) == Some(&bytes);
        assert!(whole || name == ".lbpayload-staging", "{name}: not whole");
    }
    import(&device.path, &dest).exits(0);
    assert_holds(&dest, &model);
}

#[test]
fn a_destination_that_is_mounted_read_only_is_named() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model: Model = [("a".into(), noise(1, 1000))].into();
    let device = disk(dir.path(), "disk", &image(&model).bytes(), 512);
    let ext4 = Mounted::make("ext4", dir.path(), 16 << 20);
    fs::create_dir(ext4.path.join("there")).unwrap();
    check(
        Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&ext4.path),
    );
    for dest in ["there", "not-there"].map(|d| ext4.path.join(d)) {
        import(&device.path, &dest)
            .exits(1)
            .says("Read-only file system")
            .says(dest.to_str().unwrap());
    }
    assert!(!ext4.path.join("not-there").exists());
}
