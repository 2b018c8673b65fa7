//! An image that cannot be written to is reported before anything is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs_root;
use crate::refusals::{failed, refused};
use crate::support::{Mounted, Ran, check};
use crate::user::User;
use crate::workspace::{MODULES, Workspace};

/// A mount that is removed on drop.
struct Bound(PathBuf);

impl Bound {
    /// Bind-mounts `dir` on itself, with `options`.
    fn new(dir: PathBuf, options: &str) -> Self {
        check(Command::new("mount").arg("--bind").args([&dir, &dir]));
        let options = format!("remount,bind,{options}");
        check(Command::new("mount").args(["-o", &options]).arg(&dir));
        Self(dir)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A file attribute that is removed on drop.
struct Attribute<'a>(&'a Path, char);

impl<'a> Attribute<'a> {
    fn set(path: &'a Path, letter: char) -> Self {
        check(Command::new("chattr").arg(format!("+{letter}")).arg(path));
        Self(path, letter)
    }
}

impl Drop for Attribute<'_> {
    fn drop(&mut self) {
        let take = format!("-{}", self.1);
        let _ = Command::new("chattr").arg(take).arg(self.0).status();
    }
}

#[test]
fn read_only_rootfs_is_refused() {
    needs_root!();
    let it = Workspace::new();
    let mount = Bound::new(it.l4t("rootfs"), "ro");
    for args in [&[][..], &["--dry-run"]] {
        refused(&it, args, "refused", "read-only");
    }
    drop(mount);
    // The same for a part of it, or for the whole image.
    for dir in ["rootfs/etc", ""] {
        let _mount = Bound::new(it.l4t(dir), "ro");
        refused(&it, &[], "refused", "read-only");
    }
    it.promote(&[]).exits(0);
}

#[test]
fn immutable_file_or_directory_is_refused() {
    needs_root!();
    let it = Workspace::new();
    let disk = Mounted::make("ext4", &it.path(""), 64 << 20);
    check(
        Command::new("cp")
            .arg("-a")
            .args([it.path("Image"), disk.path.join("Image")]),
    );
    fs::rename(it.path("Image"), it.path("moved")).unwrap();
    std::os::unix::fs::symlink(disk.path.join("Image"), it.path("Image")).unwrap();
    for path in [
        "rootfs",
        "rootfs/etc/nvpmodel",
        "rootfs/etc/nvpmodel/nvpmodel.conf",
        "rootfs/usr/lib/modules/6.8.12-tegra/updates",
        "bootloader",
        "kernel/Image",
        "",
    ] {
        let path = it.l4t(path);
        for letter in ['i', 'a'] {
            let _attribute = Attribute::set(&path, letter);
            refused(&it, &[], "refused", "immutable");
        }
    }
    it.promote(&[]).exits(0);
}

#[test]
fn destination_that_is_a_mount_point_is_refused() {
    needs_root!();
    let it = Workspace::new();
    let name = "rootfs/etc/nvpmodel";
    for path in [name.to_owned(), format!("{name}/nvpmodel.conf")] {
        let _mount = Bound::new(it.l4t(&path), "rw");
        refused(&it, &[], "refused", "mounted");
    }
    it.promote(&[]).exits(0);
}

#[test]
fn user_gets_the_same_refusals_for_files_that_only_the_helper_can_see() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("rootfs/root/deep/.profile", "mine");
    fs::create_dir(it.l4t("rootfs/root/deep")).unwrap();
    it.commit("for root");
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    for dir in ["rootfs", "rootfs/root/deep", &format!("{MODULES}/updates")] {
        let _mount = Bound::new(it.l4t(dir), "ro");
        let before = it.everything_and_when();
        let ran = Ran::of(user.promote(&it).arg("--json"));
        failed(ran, "refused", "read-only");
        assert_eq!(it.everything_and_when(), before, "{dir}");
    }
    Ran::of(&mut user.promote(&it)).exits(0);
}
