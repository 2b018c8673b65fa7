//! The run ends unexpectedly: it is killed before each of its system calls, or a call
//! fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::needs_root;
use crate::snapshot::touch_all;
use crate::workspace::{MODULES, Workspace};

/// A workspace whose overlay replaces files, adds files and adds symlinks.
fn workspace() -> Workspace {
    let it = Workspace::in_memory();
    it.write_overlay("rootfs/usr/bin/ping", "overlay ping\n");
    it.write_overlay("rootfs/opt/new/deep/tool", "overlay tool\n");
    std::os::unix::fs::symlink("x", it.overlay().join("rootfs/opt/link")).unwrap();
    it.commit("more");
    touch_all(&it.overlay(), 1_650_000_000);
    it
}

/// The image.
fn image(it: &Workspace) -> BTreeMap<PathBuf, String> {
    it.image_now()
}

/// Runs until the `n`th `call` of the main thread and is killed there. False if there
/// are fewer calls.
pub(crate) fn killed_at(it: &Workspace, call: &str, n: u32) -> bool {
    let out = injected(it, &[], call, &format!("signal=KILL:when={n}"));
    !out.status.success()
}

/// Runs with `fault` injected into `call`s of the main thread, see strace(1), and a
/// umask that gives group and others no access.
fn injected(it: &Workspace, args: &[&str], call: &str, fault: &str) -> Output {
    let command = it.command();
    Command::new("sh")
        .args(["-c", "umask 077; exec strace \"$@\"", "sh"])
        .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:{fault}")])
        .arg(command.get_program())
        .args(command.get_args())
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("strace")
}

#[test]
fn run_killed_at_any_call_and_repeated_gives_the_same_image_as_a_clean_run() {
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
        "copy_file_range",
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
            // Every file has its old or its new state.
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
    assert!(kills > 40, "only {kills} places were tried");
}

#[test]
fn initramfs_is_marked_as_due_before_the_first_module_is_written() {
    needs_root!();
    for n in 1.. {
        let it = Workspace::in_memory();
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
fn interrupted_run_keeps_complete_files_and_is_ended_by_the_signal() {
    needs_root!();
    let it = workspace();
    let command = it.command();
    let out = Command::new("strace")
        // On i686 these calls have names that end in _time64.
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
    // The overlay is copied first: its symlinks, then its files sorted by path.
    assert!(it.l4t("rootfs/opt/link").is_symlink());
    assert_eq!(it.read("bootloader/board.conf"), "overlay board\n");
    assert_eq!(it.read("kernel/Image"), "old kernel\n");
    it.promote(&[]).exits(0);
    let clean = workspace();
    clean.promote(&[]).exits(0);
    assert_eq!(image(&it), image(&clean));
}

/// The output of `history` and `status`.
fn told(it: &Workspace) -> (String, String) {
    let history = it.action(&["history"]).exits(0).stdout;
    let status = it.action(&["status"]).stdout;
    (history, status)
}

#[test]
fn files_that_a_failed_run_did_not_reach_are_not_counted() {
    needs_root!();
    let it = Workspace::in_memory();
    let out = injected(&it, &[], "renameat", "error=EIO:when=3");
    let said = String::from_utf8_lossy(&out.stderr);
    let path = it.l4t("kernel/dtb/custom.dtbo");
    assert_eq!(out.status.code(), Some(1), "{said}");
    // The file is named once, with advice.
    assert_eq!(said.matches("custom.dtbo").count(), 1, "{said}");
    assert!(
        said.contains(&format!("`{}`: Input/output", path.display()))
            && said.contains("what was copied is kept"),
        "{said}"
    );
    let (history, status) = told(&it);
    assert!(history.contains(", 1 changed, failed\n"), "{history}");
    assert!(
        status.contains("files: 1 intact, 0 edited, 0 missing, 0 unreadable\n"),
        "{status}"
    );
    // Files that the run did not change are not checked.
    std::fs::write(it.l4t("kernel/Image"), "by hand\n").unwrap();
    assert_eq!(told(&it).1, status);
    it.action(&["rollback", "0"]).exits(0);
    assert_eq!(it.read("kernel/Image"), "by hand\n");
}

#[test]
fn status_checks_files_that_a_killed_run_may_have_changed() {
    needs_root!();
    for (n, intact, done) in [(1, 8, 0), (2, 8, 1), (3, 9, 2)] {
        let it = Workspace::in_memory();
        it.promote(&[]).exits(0);
        it.write_overlay("bootloader/board.conf", "second board\n");
        it.write_overlay("bootloader/other.conf", "second other\n");
        it.commit("second");
        it.manifest(&[("kernel/dtb/board.dtb", "dtb", "second dtb\n")]);
        assert!(killed_at(&it, "renameat", n), "{n}");
        let (history, status) = told(&it);
        let line = "0 to 3 changed, interrupted\n";
        assert!(history.contains(line), "{n}: {history}");
        let line = format!("files: {intact} intact, 0 edited, 0 missing");
        assert!(status.contains(&line), "{n} {done}: {status}");
        it.promote(&[]).exits(0);
        let (history, status) = told(&it);
        let line = format!("{} changed, done\n", 3 - done);
        assert!(history.ends_with(&line), "{n}: {history}");
        assert!(
            status.contains("files: 9 intact, 0 edited"),
            "{n}: {status}"
        );
    }
}

#[test]
fn first_error_is_reported_when_writing_the_journal_fails_too() {
    needs_root!();
    let mut told = Vec::new();
    for n in 1.. {
        let it = Workspace::in_memory();
        let out = injected(&it, &[], "fsync", &format!("error=EIO:when={n}+"));
        if out.status.success() {
            break;
        }
        told.push(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    let of_the_image = |said: &String| !said.contains(".lbpayload");
    assert!(told.iter().any(of_the_image), "{told:?}");
}

#[test]
fn run_with_any_failing_call_and_repeated_gives_the_same_image_as_a_clean_run() {
    needs_root!();
    let clean = workspace();
    clean.promote(&[]).exits(0);
    let expected = image(&clean);
    let old = image(&workspace());
    let mut failed = 0;
    for (call, error) in [
        ("write", "ENOSPC"),
        ("copy_file_range", "ENOSPC"),
        ("renameat", "EIO"),
        ("syncfs", "EIO"),
        ("fsync", "EIO"),
    ] {
        for n in (1..).step_by(3) {
            let it = workspace();
            let out = injected(&it, &[], call, &format!("error={error}:when={n}"));
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(!said.contains("panicked"), "{call} {n}: {said}");
            if out.status.success() {
                assert_eq!(image(&it), expected, "{call} {n}");
                // Saving the list of unchanged files may fail. That causes only a
                // warning.
                if said.is_empty() {
                    break;
                }
                continue;
            }
            failed += 1;
            let errors = said.matches("lbpayload: error: ").count();
            assert_eq!(errors, 1, "{call} {n}: {said}");
            for (path, now) in image(&it) {
                if path.ends_with(".lbpayload-staging") {
                    continue;
                }
                let known = old.get(&path) == Some(&now) || expected.get(&path) == Some(&now);
                assert!(known, "{call} {n}: {}: {now}: {said}", path.display());
            }
            it.promote(&[]).exits(0);
            assert_eq!(image(&it), expected, "{call} {n}");
            it.action(&["status"]).exits(0);
        }
    }
    assert!(failed > 10, "only {failed} calls failed");
}

#[test]
fn killed_and_repeated_rollback_gives_the_same_image_as_a_clean_one() {
    needs_root!();
    let promoted = || {
        let it = workspace();
        it.promote(&[]).exits(0);
        it
    };
    let clean = promoted();
    clean.action(&["rollback", "0"]).exits(0);
    let expected = image(&clean);
    let mut kills = 0;
    for call in ["renameat", "unlinkat", "copy_file_range", "syncfs"] {
        for n in (1..).step_by(2) {
            let it = promoted();
            let fault = format!("signal=KILL:when={n}");
            if injected(&it, &["rollback", "0"], call, &fault)
                .status
                .success()
            {
                break;
            }
            kills += 1;
            it.action(&["rollback", "0"]).exits(0);
            assert_eq!(image(&it), expected, "{call} {n}");
            it.action(&["status"]).exits(0);
            it.promote(&[]).exits(0);
        }
    }
    assert!(kills > 10, "{kills} kills");
}
