//! The backups that the journal keeps for a rollback, and what can prevent one.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use crate::faults::killed_at;
use crate::needs_root;
use crate::refusals::failed;
use crate::support::{Ran, check};
use crate::user::User;
use crate::workspace::Workspace;

/// Changes a byte of a file without replacing the file.
fn edit_in_place(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"X", 0).unwrap();
}

#[test]
fn backup_is_a_copy_even_if_the_killed_run_did_not_replace_the_file() {
    needs_root!();
    let name = "rootfs/etc/nvpmodel/nvpmodel.conf";
    for n in 1.. {
        let it = Workspace::new();
        assert!(killed_at(&it, "renameat", n), "no backup was made");
        let kept = it.l4t(".lbpayload/backups/1");
        if !kept.exists() {
            continue;
        }
        assert_eq!(it.read(name), "as shipped\n");
        for backup in fs::read_dir(kept).unwrap() {
            let meta = backup.unwrap().metadata().unwrap();
            assert_eq!((meta.nlink(), meta.mode() & 0o777), (1, 0o600));
        }
        edit_in_place(&it.l4t(name));
        it.action(&["rollback", "0"]).exits(0);
        assert_eq!(it.read(name), "as shipped\n");
        break;
    }
}

#[test]
fn changed_backup_is_refused_before_writing() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    let backup = it.l4t(".lbpayload/backups/1/0");
    edit_in_place(&backup);
    let before = it.everything_and_when();
    for args in [
        &["rollback", "--json"][..],
        &["rollback", "--json", "--dry-run"],
    ] {
        failed(it.action(args), "bad-backup", "backups/1/0");
        assert_eq!(it.everything_and_when(), before);
    }
}

#[test]
fn invalid_extended_attribute_in_a_record_is_refused() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("rootfs/usr/bin/ping", "overlay ping\n");
    it.commit("ping");
    it.promote(&[]).exits(0);
    let record = it.l4t(".lbpayload/journal/000001.jsonl");
    let text = fs::read_to_string(&record).unwrap();
    let name = "[\"security.capability\",\"";
    assert!(text.contains(name), "{text}");
    fs::write(&record, text.replace(name, &format!("{name}+f"))).unwrap();
    let before = it.everything_and_when();
    it.action(&["rollback", "0"]).exits(1);
    assert_eq!(it.everything_and_when(), before);
}

#[test]
fn rollback_works_when_a_file_or_symlink_replaced_a_created_directory() {
    needs_root!();
    for by_link in [false, true] {
        let it = Workspace::new();
        it.write_overlay("rootfs/opt/new/deep/tool", "tool\n");
        it.commit("a tool");
        it.promote(&[]).exits(0);
        let obstacle = || {
            fs::create_dir_all(it.l4t("rootfs/opt")).unwrap();
            if by_link {
                symlink("/etc", it.l4t("rootfs/opt/new")).unwrap();
            } else {
                fs::write(it.l4t("rootfs/opt/new"), "mine\n").unwrap();
            }
        };
        fs::remove_dir_all(it.l4t("rootfs/opt/new")).unwrap();
        obstacle();
        it.action(&["status"]).exits(1);
        let ran = it.action(&["rollback", "0"]).exits(0);
        let line = "note: rootfs/opt/new/deep/tool was edited by hand\n";
        assert!(ran.stdout.contains(line), "{}", ran.stdout);
        assert!(it.l4t("rootfs/opt/new").symlink_metadata().is_ok());
        it.action(&["status"]).exits(0);
        // Promoting again needs the directory.
        if !by_link {
            failed(it.promote(&["--json"]), "bad-destination", "deep/tool");
        }
        fs::remove_file(it.l4t("rootfs/opt/new")).unwrap();
        it.promote(&[]).exits(0);
        it.action(&["rollback", "0"]).exits(0);
        obstacle();
        // Undoing the rollback needs the directory too.
        let before = it.everything_and_when();
        let ran = it.action(&["rollback", "--json"]);
        failed(ran, "bad-destination", "deep/tool");
        assert_eq!(it.everything_and_when(), before);
        fs::remove_file(it.l4t("rootfs/opt/new")).unwrap();
        it.action(&["rollback"]).exits(0);
        assert_eq!(it.read("rootfs/opt/new/deep/tool"), "tool\n");
    }
}

#[test]
fn files_reverted_by_hand_are_not_missing_after_the_rollback() {
    needs_root!();
    let it = Workspace::new();
    fs::remove_file(it.path("Source/.build-manifest.yaml")).unwrap();
    it.promote(&["--no-initramfs"]).exits(0);
    fs::write(it.l4t("rootfs/etc/nvpmodel/nvpmodel.conf"), "as shipped\n").unwrap();
    fs::write(it.l4t("rootfs/boot/Image"), "old kernel\n").unwrap();
    for new in ["bootloader/board.conf", "kernel/dtb/custom.dtbo"] {
        fs::remove_file(it.l4t(new)).unwrap();
    }
    it.action(&["status"]).exits(1);
    it.action(&["rollback", "0", "--no-initramfs"]).exits(0);
    let ran = it.action(&["status"]);
    assert!(ran.stdout.contains("0 edited, 0 missing"), "{}", ran.stdout);
    // A second rollback to the same state changes nothing.
    let once = it.everything_and_when();
    it.action(&["rollback", "0", "--no-initramfs"]).exits(0);
    assert_eq!(it.everything_and_when(), once);
}

#[test]
fn rollback_restores_symlinks_with_owner_and_time() {
    needs_root!();
    let it = Workspace::new();
    let links = ["rootfs/etc/resolv.conf", "bootloader/link"];
    symlink("initrd", it.l4t(links[1])).unwrap();
    let looks = || {
        links.map(|link| {
            let meta = it.l4t(link).symlink_metadata().unwrap();
            let time = (meta.mtime(), meta.mtime_nsec());
            (fs::read_link(it.l4t(link)).unwrap(), meta.uid(), time)
        })
    };
    for link in links {
        lchown(it.l4t(link), Some(1234), Some(1234)).unwrap();
        let time = ["-hd", "@1500000000.123456789"];
        check(Command::new("touch").args(time).arg(it.l4t(link)));
        let ours = it.overlay().join(link);
        fs::create_dir_all(ours.parent().unwrap()).unwrap();
        symlink("/elsewhere", ours).unwrap();
    }
    let before = looks();
    it.commit("links");
    it.promote(&[]).exits(0);
    assert_eq!(
        fs::read_link(it.l4t(links[0])).unwrap(),
        Path::new("/elsewhere")
    );
    it.action(&["rollback"]).exits(0);
    assert_eq!(looks(), before);
}

#[test]
fn rollback_works_when_a_directory_replaced_a_new_file() {
    needs_root!();
    let it = Workspace::new();
    let before = it.image_now();
    it.write_overlay("rootfs/opt/tool", "a tool\n");
    it.commit("a file");
    it.promote(&["--no-initramfs"]).exits(0);
    fs::remove_file(it.overlay().join("rootfs/opt/tool")).unwrap();
    it.write_overlay("rootfs/opt/tool/bin", "a tool in a directory\n");
    it.commit("a directory");
    fs::remove_file(it.l4t("rootfs/opt/tool")).unwrap();
    it.promote(&["--no-initramfs"]).exits(0);
    fs::write(it.l4t("rootfs/opt/tool/mine"), "mine\n").unwrap();
    it.action(&["rollback", "0", "--no-initramfs"]).exits(0);
    assert_eq!(it.read("rootfs/opt/tool/mine"), "mine\n");
    let ran = it.action(&["status"]);
    assert!(ran.stdout.contains("0 edited, 0 missing"), "{}", ran.stdout);
    fs::remove_dir_all(it.l4t("rootfs/opt")).unwrap();
    assert_eq!(it.image_now(), before);
}

#[test]
fn number_and_backups_of_a_moved_record_are_not_reused() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    let record = it.l4t(".lbpayload/journal/000001.jsonl");
    fs::write(&record, "no record\n").unwrap();
    it.write_overlay("bootloader/board.conf", "second board\n");
    it.commit("second");
    failed(it.promote(&["--json"]), "bad-record", "000001.jsonl");
    fs::rename(&record, it.path("aside")).unwrap();
    it.promote(&[]).exits(0);
    let ran = it.action(&["history"]).exits(0);
    assert!(ran.stdout.starts_with("2 "), "{}", ran.stdout);
    // A record number after which no other can follow.
    let last = it.l4t(format!(".lbpayload/journal/{}.jsonl", u64::MAX));
    fs::copy(it.l4t(".lbpayload/journal/000002.jsonl"), &last).unwrap();
    it.write_overlay("bootloader/board.conf", "third board\n");
    it.commit("third");
    it.promote(&[]).exits(1).says("File exists");
}

#[test]
fn symlinked_journal_folders_are_not_followed() {
    needs_root!();
    for folder in ["", "journal", "backups"] {
        let it = Workspace::new();
        let path = it.l4t(".lbpayload").join(folder);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Pruning deletes a folder with everything in it.
        it.put("elsewhere/0/precious", "precious\n");
        symlink(it.path("elsewhere"), path.components().as_path()).unwrap();
        let before = it.everything_and_when();
        failed(it.promote(&["--json"]), "refused", ".lbpayload");
        assert_eq!(it.everything_and_when(), before, "{folder}");
        assert_eq!(fs::read_dir(it.path("elsewhere")).unwrap().count(), 1);
    }
}

#[test]
fn rollback_that_removes_only_directories_of_root_needs_privilege() {
    needs_root!();
    let it = Workspace::new();
    fs::remove_file(it.path("Source/.build-manifest.yaml")).unwrap();
    it.write_overlay("rootfs/opt/new/tool", "tool\n");
    fs::remove_dir_all(it.overlay().join("rootfs/etc")).unwrap();
    it.commit("a tool");
    let user = User::new(&it, None);
    it.promote(&[]).exits(0);
    fs::remove_file(it.l4t("rootfs/opt/new/tool")).unwrap();
    let before = it.everything_and_when();
    let ran = Ran::of(user.promote(&it).args(["rollback", "0", "--json"]));
    failed(ran, "no-privilege", "rootfs");
    assert_eq!(it.everything_and_when(), before);
    // If the directories are already gone, no privilege is needed.
    fs::remove_dir_all(it.l4t("rootfs/opt")).unwrap();
    Ran::of(user.promote(&it).args(["rollback", "0"])).exits(0);
    assert!(!it.l4t("bootloader/board.conf").exists());
}
