//! Files that the overlay no longer has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::needs_root;
use crate::support::{Ran, check};
use crate::user::User;
use crate::workspace::Workspace;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[track_caller]
fn says(ran: &Ran, line: &str) {
    assert!(ran.stdout.contains(line), "no {line:?} in: {}", ran.stdout);
}

#[test]
fn file_that_the_overlay_no_longer_has_is_named_until_it_is_pruned() {
    needs_root!();
    let it = Workspace::new();
    let conf = "rootfs/etc/nvpmodel/nvpmodel.conf";
    it.write_overlay("rootfs/opt/new/tool", "tool\n");
    it.write_overlay("bootloader/edited.conf", "overlay\n");
    it.commit("more");
    it.promote(&["--no-initramfs"]).exits(0);
    it.git(&it.overlay(), &["tag", "v1"]);
    fs::write(it.l4t("bootloader/edited.conf"), "by hand\n").unwrap();
    let gone = [
        "rootfs/opt/new/tool",
        conf,
        "bootloader/edited.conf",
        "kernel/dtb/custom.dtbo",
    ];
    for name in gone {
        it.git(&it.overlay(), &["rm", "-q", name]);
    }
    it.git(&it.overlay(), &["commit", "-qm", "not any more"]);
    // The manifest has this one now. A file that only the manifest had is not named.
    it.manifest(&[("kernel/dtb/custom.dtbo", "dtb", "built\n")]);
    for _ in 0..2 {
        let ran = it.promote(&["--no-initramfs"]).exits(0);
        let line = |name, fate| format!("no longer in the overlay: {name} ({fate})\n");
        says(
            &ran,
            &line("rootfs/opt/new/tool", "stays in the image, see --prune"),
        );
        says(&ran, &line(conf, "stays in the image, see --prune"));
        let fate = "stays in the image, because it was changed there";
        says(&ran, &line("bootloader/edited.conf", fate));
        assert_eq!(
            ran.stdout.matches("no longer in").count(),
            3,
            "{}",
            ran.stdout
        );
    }
    // An older commit or a range says nothing about what HEAD has.
    for name in ["v1", "v1..HEAD"] {
        let ran = it.promote(&["--dry-run", "--overlay-ref", name]).exits(0);
        assert!(!ran.stdout.contains("no longer in"), "{}", ran.stdout);
    }
    it.promote(&["--overlay-ref", "v1", "--prune"]).exits(2);
    let before = it.everything_and_when();
    let ran = it
        .promote(&["--prune", "--dry-run", "--no-initramfs"])
        .exits(0);
    says(&ran, "remove rootfs/opt/new/tool, as root\n");
    says(&ran, &format!("put back {conf}, as root\n"));
    says(&ran, "rootfs/opt/new/tool (to be removed from the image)\n");
    assert_eq!(it.everything_and_when(), before);
    let told = it
        .promote(&["--prune", "--json", "--no-initramfs"])
        .exits(0);
    let told = json(&told.stdout);
    let fates: Vec<_> = told["leftovers"].as_array().unwrap().iter().collect();
    let fate = |path: &str| {
        let left = fates.iter().find(|left| left["path"] == path).unwrap();
        left["fate"].as_str().unwrap().to_owned()
    };
    assert_eq!(fate("rootfs/opt/new/tool"), "removed");
    assert_eq!(fate(conf), "put-back");
    assert_eq!(fate("bootloader/edited.conf"), "changed");
    assert!(!it.l4t("rootfs/opt").exists());
    assert_eq!(it.read(conf), "as shipped\n");
    assert_eq!(it.l4t(conf).metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(it.read("bootloader/edited.conf"), "by hand\n");
    assert_eq!(it.read("kernel/dtb/custom.dtbo"), "built\n");
    let ran = it.promote(&["--no-initramfs"]).exits(0);
    assert_eq!(
        ran.stdout.matches("no longer in").count(),
        1,
        "{}",
        ran.stdout
    );
    // It can be undone.
    it.action(&["rollback", "--no-initramfs"]).exits(0);
    assert_eq!(it.read("rootfs/opt/new/tool"), "tool\n");
    assert_eq!(it.read(conf), "overlay model\n");
}

#[test]
fn prune_by_a_user_needs_no_more_than_the_helper() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("rootfs/root/.profile", "overlay\n");
    it.commit("for root");
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    Ran::of(user.promote(&it).arg("--no-initramfs")).exits(0);
    check(
        Command::new("git")
            .args(["-c", "user.name=d", "-c", "user.email=d@example.com"])
            .args(["-c", "safe.directory=*", "commit", "-qam", "gone"])
            .current_dir({
                fs::remove_file(it.overlay().join("rootfs/root/.profile")).unwrap();
                it.overlay()
            }),
    );
    it.give_to(user.uid);
    user.asked(&it);
    let ran = Ran::of(user.promote(&it).arg("--no-initramfs")).exits(0);
    says(
        &ran,
        "no longer in the overlay: rootfs/root/.profile (stays",
    );
    assert!(user.asked(&it).is_empty());
    let ran = Ran::of(user.promote(&it).args(["--no-initramfs", "--prune"])).exits(0);
    says(
        &ran,
        "rootfs/root/.profile (what was there before was put back)\n",
    );
    assert_eq!(it.read("rootfs/root/.profile"), "private\n");
}
