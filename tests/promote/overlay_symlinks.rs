//! Symlinks in the overlay that redirect other destinations.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::needs_root;
use crate::refusals::{failed, refused};
use crate::support::Ran;
use crate::user::User;
use crate::workspace::Workspace;

fn link(it: &Workspace, rel: &str, target: &str) {
    let path = it.overlay().join(rel);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

/// Promotes twice; the second run writes nothing.
fn assert_second_promote_writes_nothing(it: &Workspace) {
    it.promote(&[]).exits(0);
    let once = it.everything_and_when();
    it.promote(&[]).exits(0);
    assert_eq!(it.everything_and_when(), once);
}

#[test]
fn destination_behind_a_symlink_of_the_same_run_follows_the_new_symlink() {
    needs_root!();
    let it = Workspace::new();
    for dir in ["opt/v1", "opt/v2"] {
        fs::create_dir_all(it.l4t("rootfs").join(dir)).unwrap();
    }
    symlink("v1", it.l4t("rootfs/opt/now")).unwrap();
    symlink("dtb", it.l4t("kernel/trees")).unwrap();
    link(&it, "rootfs/opt/now", "v2");
    // A symlink that itself lies behind another one, one to a missing directory, and
    // one to a path outside rootfs.
    link(&it, "rootfs/usr/lib64", "lib");
    link(&it, "rootfs/lib", "usr/lib64");
    link(&it, "rootfs/srv/data", "/var/data");
    link(&it, "kernel/trees", "newer");
    it.commit("links");
    it.manifest(&[
        ("rootfs/opt/now/tool", "oot_module", "tool\n"),
        ("rootfs/lib/modules/a.ko", "oot_module", "module\n"),
        ("rootfs/srv/data/x", "oot_module", "data\n"),
        ("kernel/trees/a.dtb", "dtb", "tree\n"),
    ]);
    assert_second_promote_writes_nothing(&it);
    assert_eq!(it.read("rootfs/opt/v2/tool"), "tool\n");
    assert!(!it.l4t("rootfs/opt/v1/tool").exists());
    assert_eq!(it.read("rootfs/usr/lib/modules/a.ko"), "module\n");
    assert_eq!(it.read("rootfs/var/data/x"), "data\n");
    assert_eq!(it.read("kernel/newer/a.dtb"), "tree\n");
    assert!(!it.l4t("kernel/dtb/a.dtb").exists());
    it.action(&["status"]).exits(0);
    it.action(&["rollback", "0"]).exits(0);
    let now = fs::read_link(it.l4t("rootfs/opt/now")).unwrap();
    assert_eq!(now, Path::new("v1"));
    assert!(!it.l4t("rootfs/opt/v2/tool").exists());
}

#[test]
fn destination_behind_a_new_symlink_works_where_only_root_has_access() {
    needs_root!();
    let it = Workspace::new();
    fs::create_dir_all(it.l4t("rootfs/root/v1")).unwrap();
    symlink("v1", it.l4t("rootfs/root/now")).unwrap();
    link(&it, "rootfs/root/now", "v2");
    it.commit("links");
    it.manifest(&[("rootfs/root/now/tool", "oot_module", "tool\n")]);
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    Ran::of(&mut user.promote(&it)).exits(0);
    assert_eq!(it.read("rootfs/root/v2/tool"), "tool\n");
    assert!(!it.l4t("rootfs/root/v1/tool").exists());
    let once = it.everything_and_when();
    Ran::of(&mut user.promote(&it)).exits(0);
    assert_eq!(it.everything_and_when(), once);
}

#[test]
fn built_file_wins_over_an_overlay_symlink_at_the_same_destination() {
    needs_root!();
    let it = Workspace::new();
    link(&it, "rootfs/etc/both", "hostname");
    it.commit("a link");
    it.manifest(&[("rootfs/etc/both", "oot_module", "built\n")]);
    let ran = it.promote(&["--dry-run"]).exits(0);
    let line = "copy rootfs/etc/both (manifest), shadows the overlay's, as root\n";
    assert!(ran.stdout.contains(line), "{}", ran.stdout);
    assert_second_promote_writes_nothing(&it);
    assert_eq!(it.read("rootfs/etc/both"), "built\n");
    assert_eq!(it.read("rootfs/etc/hostname"), "tegra\n");
}

#[test]
fn destination_behind_a_dangling_overlay_symlink_is_refused() {
    needs_root!();
    for (links, built) in [
        (&[("kernel/out", "/tmp")][..], "kernel/out/x"),
        (
            &[("rootfs/etc/a", "b"), ("rootfs/etc/b", "a")],
            "rootfs/etc/a/x",
        ),
    ] {
        let it = Workspace::new();
        let before = it.image_now();
        for (rel, target) in links {
            link(&it, rel, target);
        }
        it.commit("links");
        it.manifest(&[(built, "dtb", "x")]);
        failed(it.promote(&["--json"]), "bad-symlink", built);
        // The symlinks were created and nothing else, and a rollback removes them.
        let mut now = it.image_now();
        for (rel, target) in links {
            assert_eq!(fs::read_link(it.l4t(rel)).unwrap(), Path::new(target));
            now.remove(Path::new(rel));
        }
        assert_eq!(now, before);
        assert!(!it.l4t(".lbpayload/initramfs-pending").exists());
        it.action(&["rollback", "0"]).exits(0);
        assert_eq!(it.image_now(), before);
    }
}

#[test]
fn kernel_image_that_is_an_overlay_symlink_is_refused() {
    needs_root!();
    let it = Workspace::new();
    fs::remove_file(it.path("Source/.build-manifest.yaml")).unwrap();
    link(&it, "kernel/Image", "Image.gz");
    it.commit("the kernel");
    refused(&it, &[], "bad-overlay", "kernel/Image");
}
