//! An image that both root and its owner work on, and files that the owner may not
//! read.

use std::fs;
use std::process::Command;

use crate::needs_root;
use crate::support::Ran;
use crate::user::User;
use crate::workspace::Workspace;

#[test]
fn owner_can_read_the_journal_for_any_umask_of_root() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    let roots = it.command();
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 077; exec \"$0\" \"$@\""])
        .arg(roots.get_program())
        .args(roots.get_args())
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    Ran::of(&mut command).exits(0);
    for action in ["history", "status"] {
        let ran = Ran::of(user.promote(&it).arg(action)).exits(0);
        assert!(ran.stdout.contains("by root"), "{}", ran.stdout);
    }
    // The owner can roll back backups that root made, and promote over them.
    Ran::of(user.promote(&it).args(["rollback", "0"])).exits(0);
    assert_eq!(it.read("rootfs/etc/nvpmodel/nvpmodel.conf"), "as shipped\n");
    Ran::of(&mut user.promote(&it)).exits(0);
    it.promote(&[]).exits(0);
}

#[test]
fn status_lists_files_that_only_root_can_read() {
    needs_root!();
    let it = Workspace::new();
    // One file in a folder that the user can list, and one in a folder of root.
    it.write_overlay("rootfs/root/.profile", "overlay\n");
    it.commit("for root");
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    let conf = "rootfs/etc/nvpmodel/nvpmodel.conf";
    for args in [&[][..], &["--overlay-ref", "HEAD"]] {
        Ran::of(user.promote(&it).args(args)).exits(0);
        user.asked(&it);
        let ran = Ran::of(user.promote(&it).arg("status")).exits(0);
        let line = "unreadable: rootfs/root/.profile (promote 1), only root can read it\n";
        assert!(ran.stdout.contains(line), "{}", ran.stdout);
        let line = "files: 8 intact, 0 edited, 0 missing, 1 unreadable\n";
        assert!(ran.stdout.contains(line), "{}", ran.stdout);
        assert!(user.asked(&it).is_empty());
        fs::remove_dir_all(it.l4t(".lbpayload")).unwrap();
        fs::write(it.l4t(conf), "not yet\n").unwrap();
        fs::write(it.l4t("rootfs/root/.profile"), "not yet\n").unwrap();
    }
    Ran::of(&mut user.promote(&it)).exits(0);
    // The file has a new time, so only root can check it. As root, status does.
    fs::write(it.l4t(conf), "by hand\n").unwrap();
    let ran = Ran::of(user.promote(&it).arg("status")).exits(0);
    let line = format!("unreadable: {conf} (promote 1), only root can read it\n");
    assert!(ran.stdout.contains(&line), "{}", ran.stdout);
    let ran = it.action(&["status"]).exits(1);
    let line = format!("edited: {conf} (promote 1)\n");
    assert!(ran.stdout.contains(&line), "{}", ran.stdout);
}

#[test]
fn hand_edit_that_equals_the_next_promoted_content_is_not_an_edit() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    fs::write(it.l4t("bootloader/board.conf"), "next board\n").unwrap();
    it.action(&["status"]).exits(1);
    it.write_overlay("bootloader/board.conf", "next board\n");
    it.write_overlay("bootloader/other.conf", "other\n");
    it.commit("next");
    it.promote(&[]).exits(0);
    it.action(&["status"]).exits(0);
}
