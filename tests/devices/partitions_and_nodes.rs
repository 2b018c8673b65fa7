//! Payloads in partitions, and machines that lack /sys, /proc or nodes in /dev.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disks::{Model, Partitioned, assert_holds, backing, disk, image, name, number};
use crate::mount_namespace::{Listing, View};
use crate::support::{Loop, check, lbpayload, noise, run};
use crate::{alone, needs_devices};

const ALL: [Listing; 3] = [Listing::Sys, Listing::Proc, Listing::Dev];

fn model() -> Model {
    let file = |seed, len| (format!("file {seed}"), noise(seed, len));
    [file(1, 10), file(2, 0), file(3, 300_000)].into()
}

#[test]
fn import_finds_a_payload_in_a_partition() {
    needs_devices!();
    let _alone = alone();
    for label in ["gpt", "dos"] {
        for sector in [512, 4096] {
            let dir = tempfile::tempdir().unwrap();
            let parted = Partitioned::make(dir.path(), label, sector, &image(&model()).bytes());
            let devices = [&*parted.disk.path, &parted.first, &parted.second];
            for listing in ALL {
                let ran = View::of(&devices, listing).run(["probe"]).exits(0);
                assert_eq!(
                    ran.stdout,
                    format!("{}\n", parted.second.display()),
                    "{listing:?}"
                );
            }
            let dest = dir.path().join("dest");
            run([
                Path::new("import"),
                Path::new("--device"),
                &parted.second,
                &dest,
            ])
            .exits(0);
            assert_holds(&dest, &model());
            let found = dir.path().join("found");
            View::of(&devices, Listing::Sys)
                .run([Path::new("import"), &found])
                .exits(0);
            assert_holds(&found, &model());
        }
    }
}

#[test]
fn probe_creates_and_keeps_only_the_missing_node_of_the_payload() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let parted = Partitioned::make(dir.path(), "gpt", 512, &image(&model()).bytes());
    let before = number(&parted.second);
    fs::remove_file(&parted.first).unwrap();
    fs::remove_file(&parted.second).unwrap();
    let ran = run(["probe"]).exits(0);
    let lines: Vec<&Path> = ran.stdout.lines().map(Path::new).collect();
    assert!(lines.contains(&&*parted.second), "{lines:?}");
    assert_eq!(number(&parted.second), before);
    assert!(
        !parted.first.exists(),
        "the node of another device was not removed"
    );
    run([Path::new("verify"), &parted.second]).exits(0);
}

#[test]
fn with_missing_nodes_the_printed_path_works_and_other_created_nodes_are_removed() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let parted = Partitioned::make(dir.path(), "gpt", 512, &image(&model()).bytes());
    let blank = disk(dir.path(), "blank", &[], 4096);
    let devices = [
        &*blank.path,
        &parted.disk.path,
        &parted.first,
        &parted.second,
    ];
    for listing in [Listing::Sys, Listing::Proc] {
        for option in ["--quiet", "--json", "--all"] {
            let dest = dir.path().join(format!("{listing:?}{option}"));
            let view = View::of(&devices, listing).without_nodes();
            let script = "$0 probe $2 >&2 && ls /dev && $0 import --quiet --device /dev/$3 $1";
            let second = name(&parted.second);
            let args = [dest.to_str().unwrap(), option, &second];
            let ran = view
                .script(script, args)
                .exits(0)
                .says(&format!("/dev/{second}"));
            assert_eq!(
                ran.stdout,
                format!("{second}\nnull\n"),
                "{option}: what is left in /dev"
            );
            assert_holds(&dest, &model());
            assert_eq!(view.temporary_files().len(), 0);
        }
    }
}

#[test]
fn with_read_only_dev_the_printed_path_works_and_other_created_nodes_are_removed() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let payload = disk(dir.path(), "payload", &image(&model()).bytes(), 4096);
    let blank = disk(dir.path(), "blank", &[], 512);
    for listing in [Listing::Sys, Listing::Proc] {
        let dest = dir.path().join(format!("{listing:?}"));
        let view = View::of(&[&blank.path, &payload.path], listing)
            .without_nodes()
            .with_read_only_dev();
        let script = "where=$($0 probe) && echo $where && $0 import --quiet --device $where $1";
        let ran = view.script(script, [&dest]).exits(0);
        assert_holds(&dest, &model());
        let path = Path::new(ran.stdout.trim());
        assert_eq!(number(path), number(&payload.path), "{path:?}");
        assert_eq!(
            view.temporary_files(),
            [path.parent().unwrap()],
            "the node of the blank disk was not removed"
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}

#[test]
fn import_with_probe_removes_the_nodes_it_created() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let payload = disk(dir.path(), "payload", &image(&model()).bytes(), 512);
    let blank = disk(dir.path(), "blank", &[], 512);
    for (read_only, dest) in [(false, "writable"), (true, "read-only")] {
        let dest = dir.path().join(dest);
        let mut view = View::of(&[&blank.path, &payload.path], Listing::Proc).without_nodes();
        if read_only {
            view = view.with_read_only_dev();
        }
        let ran = view
            .script("$0 import --quiet $1 && ls /dev", [&dest])
            .exits(0);
        assert_eq!(ran.stdout, "null\n");
        assert_eq!(view.temporary_files().len(), 0);
        assert_holds(&dest, &model());
    }
}

#[test]
fn probe_uses_the_nodes_in_dev_without_sys_and_proc() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let payload = disk(dir.path(), "payload", &image(&model()).bytes(), 4096);
    let blank = disk(dir.path(), "blank", &[], 512);
    let dest = dir.path().join("dest");
    let view = View::of(&[&blank.path, &payload.path], Listing::Dev);
    let ran = view
        .run(["-v", "probe"])
        .exits(0)
        .says("2 devices from /dev");
    assert_eq!(ran.stdout, format!("{}\n", payload.path.display()));
    view.run([Path::new("import"), &dest]).exits(0);
    assert_holds(&dest, &model());
    let nothing = View::of(&[], Listing::Dev);
    nothing.run(["probe"]).exits(1).says("/sys or /proc");
}

#[test]
fn probe_reports_unreadable_when_it_may_not_create_a_node() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let payload = disk(dir.path(), "payload", &image(&model()).bytes(), 512);
    let view = View::of(&[&payload.path], Listing::Sys)
        .without_nodes()
        .without("mknod");
    let ran = view
        .run(["probe"])
        .exits(3)
        .says("no permission")
        .says(payload.path.to_str().unwrap());
    assert_eq!(ran.stdout, "");
}

#[test]
fn probe_uses_nodes_by_device_number_and_not_by_name() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let payload = disk(dir.path(), "payload", &image(&model()).bytes(), 512);
    let blank = disk(dir.path(), "blank", &[], 512);
    let view = View::of(&[&payload.path, &blank.path], Listing::Sys).without_nodes();
    let (own, other) = (name(&payload.path), name(&blank.path));
    let ((major, minor), (_, blank_minor)) = (number(&payload.path), number(&blank.path));
    // The device node with the payload's name leads to the blank disk. Another node
    // leads to the payload.
    let script = format!(
        "mkdir /dev/mapper; mknod /dev/mapper/stick b {major} {minor}; \
         mknod /dev/{own} b {major} {blank_minor}; mknod /dev/{other} b {major} {blank_minor}; \
         $0 probe; $0 probe --json | grep -c loop"
    );
    let ran = view.script(&script, [""; 0]).exits(0);
    assert!(
        ran.stdout.starts_with("/dev/mapper/stick\n"),
        "{}",
        ran.stdout
    );
}

/// Removes the first partition of a disk and its node.
struct Delpart<'a>(&'a Path, &'a Path);

impl Drop for Delpart<'_> {
    fn drop(&mut self) {
        let _ = Command::new("delpart").arg(self.0).arg("1").status();
        let _ = fs::remove_file(self.1);
    }
}

#[test]
fn probe_reports_a_payload_once_when_partition_and_disk_start_at_the_same_sector() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = backing(dir.path(), "disk", &image(&model()).bytes(), 16 << 20);
    let disk = Loop::with(&file, &["--partscan"]);
    check(
        Command::new("addpart")
            .arg(&disk.path)
            .args(["1", "0", "16384"]),
    );
    let part = PathBuf::from(format!("{}p1", disk.path.display()));
    let _gone = Delpart(&disk.path, &part);
    let view = View::of(&[&disk.path, &part], Listing::Sys);
    let ran = view.run(["probe"]).exits(0);
    assert_eq!(ran.stdout, format!("{}\n", part.display()));
    let dest = dir.path().join("dest");
    view.run([Path::new("import"), &dest]).exits(0);
    assert_holds(&dest, &model());
}

#[test]
fn probe_without_a_result_leaves_dev_unchanged() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let blank = disk(dir.path(), "blank", &[], 512);
    let parted = Partitioned::make(dir.path(), "dos", 512, &[]);
    let devices = [
        &*blank.path,
        &parted.disk.path,
        &parted.first,
        &parted.second,
    ];
    let view = View::of(&devices, Listing::Sys).without_nodes();
    let ran = view.script("$0 probe; echo $?; ls /dev", [""; 0]).exits(0);
    assert_eq!(ran.stdout, "3\nnull\n");
    // The whole of the real /dev.
    let names = || {
        let mut all: Vec<_> = fs::read_dir("/dev")
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        all.retain(|n| !n.to_string_lossy().starts_with("loop"));
        all.sort();
        all
    };
    let before = names();
    lbpayload().arg("probe").output().unwrap();
    assert_eq!(names(), before);
}
