//! The initramfs tool continues after the run that started it was killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::needs_root;
use crate::refusals::failed;
use crate::support::{Ran, check};
use crate::user::User;
use crate::workspace::{MODULES, Workspace};

/// Reads the modules, reports that it has begun, and writes what it read only after a
/// signal from the test. It works in a child process, as NVIDIA's tool works in a
/// chroot. It does not write to the caller's output.
const SLOW_TOOL: &str = r#"#!/bin/sh
echo run >> ../../initramfs-runs
exec > /dev/null 2>&1
(
    made=$(cat rootfs/usr/lib/modules/6.8.12-tegra/updates/nv.ko)
    if [ -p ../../go ]; then
        echo begun > ../../begun
        read -r _ < ../../go
    fi
    echo "initramfs of $made" > bootloader/l4t_initrd.img
    cp bootloader/l4t_initrd.img rootfs/boot/initrd
)
"#;

/// A workspace with that tool.
fn workspace() -> Workspace {
    let it = Workspace::new();
    let tool = it.put(
        "Image/Linux_for_Tegra/tools/l4t_update_initrd.sh",
        SLOW_TOOL,
    );
    fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["begun", "go"] {
        mkfifo(&it.path(name), Mode::S_IRWXU).unwrap();
    }
    it
}

/// Kills the run while its tool is working, and promotes again at once and later.
fn assert_next_run_waits_for_the_tool(
    it: &Workspace,
    run: &mut Command,
    again: impl Fn() -> Command,
    newer: impl Fn(),
) {
    let mut child: Child = run
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    check(
        Command::new("timeout")
            .args(["60", "cat"])
            .arg(it.path("begun")),
    );
    child.kill().unwrap();
    child.wait().unwrap();
    newer();
    let before = it.everything_and_when();
    failed(Ran::of(again().arg("--json")), "busy", "initramfs tool");
    assert_eq!(it.everything_and_when(), before);
    // A dry run still works.
    Ran::of(again().arg("--dry-run")).exits(0);
    check(
        Command::new("timeout")
            .args(["60", "sh", "-c", "echo > \"$0\""])
            .arg(it.path("go")),
    );
    let log = fs::File::open(it.l4t(".lbpayload/initramfs.log")).unwrap();
    let ended = Flock::lock(log, FlockArg::LockExclusive).unwrap();
    drop(ended);
    assert_eq!(
        it.read("rootfs/boot/initrd"),
        "initramfs of new nv module\n"
    );
    fs::remove_file(it.path("go")).unwrap();
    Ran::of(&mut again()).exits(0);
    assert_eq!(it.read("rootfs/boot/initrd"), "initramfs of newer nv\n");
    assert_eq!(it.refreshes(), 2);
    Ran::of(&mut again()).exits(0);
    assert_eq!(it.refreshes(), 2);
}

fn build_newer(it: &Workspace) {
    let dst = format!("{MODULES}/updates/nv.ko");
    it.manifest(&[(&dst, "oot_module", "newer nv\n")]);
}

#[test]
fn next_run_is_refused_until_the_tool_of_a_killed_run_has_ended() {
    needs_root!();
    let it = workspace();
    assert_next_run_waits_for_the_tool(
        &it,
        &mut it.command(),
        || it.command(),
        || build_newer(&it),
    );
}

#[test]
fn next_run_is_refused_until_the_tool_started_with_sudo_has_ended() {
    needs_root!();
    for pty in ["use_pty", "!use_pty"] {
        let it = workspace();
        let user = User::new(&it, Some("NOPASSWD: ALL"));
        user.sudo_option(pty);
        assert_next_run_waits_for_the_tool(
            &it,
            &mut user.promote(&it),
            || user.promote(&it),
            || {
                build_newer(&it);
                it.give_to(user.uid);
            },
        );
    }
}

#[test]
fn overlay_file_that_the_initramfs_tool_overwrites_is_noted() {
    needs_root!();
    let it = Workspace::new();
    let line = "note: the initramfs tool overwrites rootfs/boot/initrd";
    let ran = it.promote(&["--dry-run"]).exits(0);
    assert!(!ran.stdout.contains("note: "), "{}", ran.stdout);
    it.write_overlay("rootfs/boot/initrd", "mine");
    it.commit("an initrd");
    let ran = it.promote(&[]).exits(0);
    assert!(ran.stdout.contains(line), "{}", ran.stdout);
}
