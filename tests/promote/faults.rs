//! The run ends where it should not: killed before each of its system calls in turn.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::needs_root;
use crate::support::check;
use crate::workspace::{MODULES, Workspace};

/// A workspace whose overlay replaces, adds and links.
fn workspace() -> Workspace {
    let it = Workspace::new();
    it.write_overlay("rootfs/usr/bin/ping", "overlay ping\n");
    it.write_overlay("rootfs/opt/new/deep/tool", "overlay tool\n");
    std::os::unix::fs::symlink("x", it.overlay().join("rootfs/opt/link")).unwrap();
    it.commit("more");
    check(Command::new("find").arg(it.overlay()).args([
        "-exec",
        "touch",
        "-hd",
        "@1650000000",
        "{}",
        "+",
    ]));
    it
}

/// The image, but for the time of symlinks, which is the commit's.
fn image(it: &Workspace) -> BTreeMap<PathBuf, String> {
    it.image_now()
}

/// Runs until the `n`th `call` of the main thread and dies there. False where there
/// were not as many.
fn killed_at(it: &Workspace, call: &str, n: u32) -> bool {
    let mut command = it.command();
    let mut traced = Command::new("strace");
    traced
        .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={n}")])
        .arg(command.get_program())
        .args(command.get_args())
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    let out = traced.output().expect("strace");
    let _ = &mut command;
    !out.status.success()
}

#[test]
fn a_run_that_is_killed_anywhere_and_run_again_is_as_one_clean_run() {
    needs_root!();
    let clean = workspace();
    clean.promote(&[]).exits(0);
    let expected = image(&clean);
    let old: BTreeMap<_, _> = image(&workspace());
    let mut kills = 0;
    for call in [
        "renameat",
        "rename",
        "syncfs",
        "fsync",
        "mkdirat",
        "unlinkat",
        "symlinkat",
        "linkat",
        "fchmod",
        "ftruncate",
        "unlink",
        "utimensat",
        "fchown",
        "mkdir",
    ] {
        for n in 1.. {
            let it = workspace();
            if !killed_at(&it, call, n) {
                break;
            }
            kills += 1;
            // Every file is what it was, or what it will be.
            for (path, now) in image(&it) {
                if path.to_string_lossy().contains(".lbpayload-") {
                    continue;
                }
                let known = old.get(&path) == Some(&now) || expected.get(&path) == Some(&now);
                assert!(known, "{call} {n}: {}: {now}", path.display());
            }
            it.promote(&[]).exits(0);
            assert_eq!(image(&it), expected, "{call} {n}");
            it.action(&["status"]).exits(0);
            it.action(&["rollback", "0"]).exits(0);
            assert_eq!(
                it.read("rootfs/usr/bin/ping"),
                "a program with a capability\n",
                "{call} {n}"
            );
        }
    }
    assert!(kills > 40, "{kills} places to be killed at");
}

#[test]
fn the_refresh_is_due_before_the_first_module_is_written() {
    needs_root!();
    for n in 1.. {
        let it = Workspace::new();
        let killed = killed_at(&it, "renameat", n);
        let written = it.read(&format!("{MODULES}/kernel/net.ko")) != "old net module\n"
            || it.l4t(format!("{MODULES}/updates/nv.ko")).exists()
            || it.read("kernel/Image") != "old kernel\n";
        if !killed || it.refreshes() == 1 {
            assert!(written && n > 5, "{n}");
            break;
        }
        let due = it.l4t(".lbpayload/initramfs-pending").exists();
        assert!(due || !written, "{n}");
        assert_eq!(it.refreshes(), 0);
        it.promote(&[]).exits(0);
        assert_eq!(it.refreshes(), 1);
    }
}

#[test]
fn an_interrupted_run_keeps_what_is_complete_and_dies_of_the_signal() {
    needs_root!();
    let it = workspace();
    let command = it.command();
    let out = Command::new("strace")
        // On i686 their names end in _time64.
        .args(["-qq", "-o", "/dev/null", "-e", "trace=/^(futex|utimensat)"])
        .args(["-e", "inject=/^utimensat:signal=INT:when=2"])
        .arg(command.get_program())
        .args(command.get_args())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(said, "lbpayload: error: interrupted\n");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&out.status),
        Some(2)
    );
    let ran = it.action(&["history"]).exits(0);
    assert!(
        ran.stdout.contains(", 2 changed, interrupted\n"),
        "{}",
        ran.stdout
    );
    // The overlay comes first, in the order of its paths.
    assert_eq!(it.read("bootloader/board.conf"), "overlay board\n");
    assert_eq!(it.read("kernel/dtb/custom.dtbo"), "overlay dtbo\n");
    assert_eq!(it.read("kernel/Image"), "old kernel\n");
    it.promote(&[]).exits(0);
    let clean = workspace();
    clean.promote(&[]).exits(0);
    assert_eq!(image(&it), image(&clean));
}
