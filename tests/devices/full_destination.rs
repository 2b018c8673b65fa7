//! Destinations that are full, become full, or cannot be written.

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
fn too_little_free_space_is_refused_before_writing_and_reports_both_sizes() {
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
fn too_few_inodes_are_refused_before_writing_and_reports_both_counts() {
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
fn import_that_needs_every_free_inode_succeeds_or_is_refused() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model: Model = (0..40).map(|n| (format!("{n}"), noise(n, 10))).collect();
    let device = disk(dir.path(), "disk", &image(&model).bytes(), 512);
    let tmpfs = Mounted::tmpfs(dir.path(), 8 << 20);
    // The root takes one inode. Forty are left for forty files and the staging
    // directory.
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
fn existing_files_need_no_free_space() {
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

/// Runs the import with a file size limit of `kib`. The write that reaches the limit
/// fails, as it would with a quota.
fn import_below(kib: u64, device: &Path, dest: &Path) -> Ran {
    let script = format!(
        "trap '' XFSZ; ulimit -f {}; exec \"$0\" import --device \"$@\"",
        kib * 2
    );
    let program = env!("CARGO_BIN_EXE_lbpayload");
    // `ulimit -f` in POSIX (and in sh, which is dash) counts blocks of 512 bytes.
    // bash counts blocks of 1024 bytes.
    Ran::of(
        Command::new("dash")
            .args(["-c", &script, program])
            .args([device, dest]),
    )
}

#[test]
fn failing_write_leaves_only_complete_files() {
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
        // Another run completes the import.
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
fn next_import_removes_everything_that_a_killed_import_left() {
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
    // SIGXFSZ kills the program at once, as SIGKILL would.
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
    assert_eq!(
        ran.status, None,
        "the file size limit must kill the program"
    );
    for (name, bytes) in tree(&dest) {
        let whole = model.get(&name) == Some(&bytes);
        assert!(
            whole || name == ".lbpayload-staging",
            "{name} is incomplete"
        );
    }
    import(&device.path, &dest).exits(0);
    assert_holds(&dest, &model);
}

#[test]
fn error_names_a_destination_that_is_mounted_read_only() {
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
