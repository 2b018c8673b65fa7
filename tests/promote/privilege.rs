//! Files of root in the image, and which users may write them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::helper::Helper;
use crate::needs_root;
use crate::refusals::failed;
use crate::support::{Ran, lbpayload};
use crate::user::{PASSWORD, User};
use crate::workspace::{MODULES, Workspace, capability};

const HELPER: &str = "-- PROGRAM promote-helper ROOTFS";
const MAY_RUN: &str = "-l -- TOOL";
const TOOL: &str = "-- TOOL";

#[test]
fn promote_by_a_user_starts_one_helper_and_gives_the_same_rootfs_as_root() {
    needs_root!();
    let (mine, roots) = (Workspace::new(), Workspace::new());
    for it in [&mine, &roots] {
        for name in [
            "usr/bin/ping",
            "usr/bin/sudo",
            "etc/shadow",
            "root/.profile",
        ] {
            it.write_overlay(format!("rootfs/{name}"), format!("overlay {name}\n"));
        }
        symlink("/etc/hostname", it.overlay().join("rootfs/etc/link")).unwrap();
        it.commit("more of rootfs");
        crate::support::check(Command::new("find").arg(it.overlay()).args([
            "-exec",
            "touch",
            "-hd",
            "@1650000000",
            "{}",
            "+",
        ]));
    }
    roots.promote(&[]).exits(0);
    let user = User::new(&mine, Some("NOPASSWD: ALL"));
    let ran = Ran::of(&mut user.promote(&mine)).exits(0);
    assert!(ran.stdout.contains("initramfs: rebuilt"), "{}", ran.stdout);
    assert_eq!(user.asked(&mine), [HELPER, MAY_RUN, TOOL]);
    let rootfs = |it: &Workspace| {
        let mut image = it.image_now();
        image.retain(|path, _| path.starts_with("rootfs"));
        // Created at the time of the commit, which differs.
        image.remove(Path::new("rootfs/etc/link"));
        image
    };
    assert_eq!(rootfs(&mine), rootfs(&roots));
    assert_eq!(
        capability(&mine.l4t("rootfs/usr/bin/ping")),
        "cap_net_raw=ep"
    );
    let link = mine.l4t("rootfs/etc/link").symlink_metadata().unwrap();
    assert_eq!((link.uid(), link.gid()), (0, 0));
    for name in [
        "kernel/Image",
        "bootloader/board.conf",
        ".lbpayload/journal",
    ] {
        assert_eq!(mine.l4t(name).metadata().unwrap().uid(), user.uid, "{name}");
    }
    // A second run writes nothing. Only root can compare some of the files.
    let once = mine.everything_and_when();
    Ran::of(&mut user.promote(&mine)).exits(0);
    assert_eq!(mine.everything_and_when(), once);
    assert_eq!(user.asked(&mine), [HELPER]);
    // Then a rollback.
    Ran::of(user.promote(&mine).args(["rollback", "0"])).exits(0);
    let fresh = Workspace::new();
    let mut before = rootfs(&fresh);
    let mut after = rootfs(&mine);
    for image in [&mut before, &mut after] {
        // The initramfs was rebuilt from the restored files. Other files differ only
        // in their times.
        image.remove(Path::new("rootfs/boot/initrd"));
        for what in image.values_mut() {
            let at = what.find(" mtime ").unwrap_or(what.len());
            what.truncate(at);
        }
    }
    assert_eq!(after, before);
    assert_eq!(
        capability(&mine.l4t("rootfs/usr/bin/ping")),
        "cap_net_raw=ep"
    );
}

#[test]
fn sudo_rule_for_helper_and_tool_is_sufficient() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, Some("NOPASSWD: PROGRAM promote-helper ROOTFS, TOOL"));
    Ran::of(&mut user.promote(&it)).exits(0);
    assert_eq!(
        it.read(&format!("{MODULES}/updates/nv.ko")),
        "new nv module\n"
    );
    assert_eq!(it.refreshes(), 1);
}

#[test]
fn sudo_rule_without_the_initramfs_tool_is_refused_before_writing() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, Some("NOPASSWD: PROGRAM promote-helper ROOTFS"));
    let before = it.everything_and_when();
    let ran = Ran::of(user.promote(&it).arg("--json"));
    failed(ran, "no-privilege", "l4t_update_initrd.sh");
    assert_eq!(it.everything_and_when(), before);
    let ran = Ran::of(user.promote(&it).arg("--no-initramfs")).exits(0);
    assert!(ran.stdout.contains("still due"), "{}", ran.stdout);
    assert_eq!(it.refreshes(), 0);
}

#[test]
fn user_without_a_sudo_rule_is_refused_before_writing() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, None);
    let before = it.everything_and_when();
    let ran = Ran::of(user.promote(&it).arg("--json"));
    let errors = ran.stderr.matches("lbpayload: error: ").count();
    assert_eq!(errors, 1, "{}", ran.stderr);
    failed(ran, "no-privilege", "rootfs");
    assert_eq!(it.everything_and_when(), before);
}

#[test]
fn sudo_asks_for_the_password_once() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, Some("ALL"));
    let askpass = |password: &str| {
        let path = it.put(
            "askpass",
            format!(
                "#!/bin/sh\necho asked >> '{0}'\necho '{password}'\n",
                it.path("asked").display()
            ),
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let before = it.everything_and_when();
    let mut command = user.promote(&it);
    let ran = Ran::of(command.arg("--json").env("SUDO_ASKPASS", askpass("wrong")));
    failed(ran, "no-privilege", "rootfs");
    assert_eq!(it.everything_and_when(), before);
    fs::remove_file(it.path("asked")).unwrap();
    Ran::of(user.promote(&it).env("SUDO_ASKPASS", askpass(PASSWORD))).exits(0);
    let asked = fs::read_to_string(it.path("asked")).unwrap();
    assert_eq!(
        asked.lines().count(),
        1,
        "the password must be asked for once in the whole run"
    );
}

#[test]
fn missing_sudo_is_reported() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    let bin = it.path("without-sudo");
    fs::create_dir(&bin).unwrap();
    let git = crate::support::check(Command::new("sh").args(["-c", "command -v git"]));
    symlink(git.trim(), bin.join("git")).unwrap();
    let before = it.everything_and_when();
    // setsid itself is found through the PATH of the tests.
    let mut command = user.promote(&it);
    command.arg("--json").env("PATH", &bin);
    let setsid = crate::support::check(Command::new("sh").args(["-c", "command -v setsid"]));
    let mut again = Command::new(setsid.trim());
    use std::os::unix::process::CommandExt;
    again
        .args(command.get_args())
        .uid(user.uid)
        .gid(user.uid)
        .env_clear();
    again
        .env("PATH", &bin)
        .env("HOME", it.path(""))
        .stdin(Stdio::null());
    failed(Ran::of(&mut again), "no-privilege", "sudo is not installed");
    assert_eq!(it.everything_and_when(), before);
}

#[test]
fn sudo_is_not_called_for_files_outside_rootfs() {
    needs_root!();
    let it = Workspace::new();
    fs::remove_file(it.path("Source/.build-manifest.yaml")).unwrap();
    fs::remove_dir_all(it.overlay().join("rootfs")).unwrap();
    it.commit("nothing for rootfs");
    let user = User::new(&it, None);
    // The kernel mirror belongs to root.
    fs::copy(it.l4t("kernel/Image"), it.l4t("rootfs/boot/Image")).unwrap();
    Ran::of(&mut user.promote(&it)).exits(0);
    assert_eq!(it.read("bootloader/board.conf"), "overlay board\n");
    assert!(user.asked(&it).is_empty());
    // A dry run of files for rootfs does not call sudo either.
    it.write_overlay("rootfs/root/.profile", "x");
    it.commit("for root");
    it.give_to(user.uid);
    let ran = Ran::of(user.promote(&it).arg("--dry-run")).exits(0);
    assert!(
        ran.stdout
            .contains("copy rootfs/root/.profile (overlay), as root"),
        "{}",
        ran.stdout
    );
    assert!(user.asked(&it).is_empty());
}

#[test]
fn image_of_another_owner_is_reported_before_writing() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    for dir in ["bootloader", ""] {
        std::os::unix::fs::lchown(it.l4t(dir), Some(0), Some(0)).unwrap();
        let before = it.everything_and_when();
        let ran = Ran::of(user.promote(&it).arg("--json")).says("sudo chown");
        let path = it.l4t(dir).display().to_string();
        failed(
            ran,
            "io",
            &format!("{}`: Permission", path.trim_end_matches('/')),
        );
        assert_eq!(it.everything_and_when(), before);
        std::os::unix::fs::lchown(it.l4t(dir), Some(user.uid), Some(user.uid)).unwrap();
    }
}

#[test]
fn helper_ends_with_a_killed_run_and_the_next_run_completes_the_image() {
    needs_root!();
    let clean = Workspace::in_memory();
    clean.promote(&[]).exits(0);
    let mut expected = clean.image_now();
    let mut kills = 0;
    for n in (2..).step_by(3) {
        let it = Workspace::in_memory();
        let user = User::new(&it, Some("NOPASSWD: ALL"));
        if !user.promote_killed_at(&it, "sendmsg", n) {
            break;
        }
        kills += 1;
        let began = std::time::Instant::now();
        while user.is_running() {
            assert!(
                began.elapsed().as_secs() < 60,
                "the helper did not end with its run"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ran::of(&mut user.promote(&it)).exits(0);
        let mut image = it.image_now();
        for image in [&mut image, &mut expected] {
            image.retain(|path, _| path.starts_with("rootfs"));
        }
        assert_eq!(image, expected, "{n}");
    }
    assert!(kills > 5, "{kills}");
}

#[test]
fn helper_is_confined_and_ends_with_its_caller() {
    needs_root!();
    let it = Workspace::new();
    let mut helper = Helper::start(&it.l4t("rootfs"));
    let rootfs = fs::File::open(it.l4t("rootfs")).unwrap();
    assert_eq!(
        helper.ask("{\"rootfs\":\"the rootfs\"}", Some(&rootfs)),
        "\"Done\""
    );
    let proc = Path::new("/proc").join(helper.child.id().to_string());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    // chown 0, dac_override 1, fowner 3, fsetid 4, setfcap 31: capability.h
    let kept = format!(
        "{:016x}",
        (1 << 0) | (1 << 1) | (1 << 3) | (1 << 4) | (1_u64 << 31)
    );
    for line in ["CapEff", "CapPrm", "CapBnd"] {
        assert!(status.contains(&format!("{line}:\t{kept}\n")), "{status}");
    }
    for line in ["CapInh", "CapAmb"] {
        assert!(
            status.contains(&format!("{line}:\t{:016x}\n", 0)),
            "{status}"
        );
    }
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    assert_eq!(fs::read_link(proc.join("root")).unwrap(), it.l4t("rootfs"));
    // It also has no directory of the host open from which a path could be resolved.
    for fd in fs::read_dir(proc.join("fd")).unwrap() {
        let open = fs::read_link(fd.unwrap().path()).unwrap();
        let inside = open.starts_with(it.l4t("rootfs"));
        assert!(inside || !open.is_dir(), "{}", open.display());
    }

    // No path outside can be named.
    let outside = it.put("outside", "precious");
    symlink(it.path(""), it.l4t("rootfs/etc/leak")).unwrap();
    let source = fs::File::open(it.put("source", "evil")).unwrap();
    let stage = |slot: u32, place: &str| {
        let attributes = serde_json::json!({"mode": 0o644, "mtime": [0, 0], "owner": null});
        let stage = serde_json::json!({"slot": slot, "place": place, "attributes": attributes, "link": null});
        serde_json::json!({ "Stage": stage }).to_string()
    };
    let staged = helper.ask(&stage(1, "etc/new/file"), Some(&source));
    assert!(staged.contains("Staged"), "{staged}");
    let mut names = vec![
        "../outside",
        "../../../../../../etc/outside",
        "etc/leak/outside",
    ];
    let absolute = outside.to_str().unwrap();
    names.push(absolute);
    for (slot, name) in (2..).zip(names) {
        let publish = format!("{{\"Publish\":{{\"slot\":1,\"place\":\"{name}\"}}}}");
        assert!(helper.ask(&publish, None).contains("Failed"), "{name}");
        // No directory can be created there either.
        helper.ask(&stage(slot, &format!("{name}-dir/new")), Some(&source));
        let look = format!("{{\"Look\":\"{name}\"}}");
        assert!(!helper.ask(&look, None).contains("file"), "{name}");
        let remove = format!("{{\"Remove\":\"{name}\"}}");
        helper.ask(&remove, None);
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
    assert!(!it.path("outside-dir").exists());
    // Closing the connection ends the helper.
    helper.socket = None;
    assert!(helper.child.wait().unwrap().success());
    assert!(
        it.l4t("rootfs/.lbpayload-staging").exists(),
        "the staging directory must stay after the connection was closed"
    );
    it.promote(&[]).exits(0);
    assert!(!it.l4t("rootfs/.lbpayload-staging").exists());
}

#[test]
fn helper_writes_only_to_the_directory_of_its_argument() {
    needs_root!();
    let it = Workspace::new();
    let (rootfs, etc) = (it.l4t("rootfs"), it.l4t("rootfs/etc"));
    let link = it.path("link");
    symlink(it.l4t(""), &link).unwrap();
    let relative = Path::new("rootfs").to_path_buf();
    for (named, given) in [
        (&rootfs, &etc),
        (&etc, &rootfs),
        // With a symlink, the owner of the symlink could choose the directory.
        (&link.join("rootfs"), &rootfs),
        (&rootfs.join("../rootfs"), &rootfs),
        (&relative, &rootfs),
    ] {
        let mut helper = Helper::start(named);
        let given = fs::File::open(given).unwrap();
        assert_eq!(helper.ask("{\"rootfs\":\"x\"}", Some(&given)), "");
        assert_eq!(helper.child.wait().unwrap().code(), Some(1));
        let mut said = String::new();
        let mut stderr = helper.child.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
        assert!(said.contains("by its path without symlinks"), "{said}");
    }
}

#[test]
fn sudo_rule_for_one_rootfs_does_not_allow_another() {
    needs_root!();
    let (it, other) = (Workspace::new(), Workspace::new());
    let rule = "NOPASSWD: PROGRAM promote-helper ROOTFS, TOOL";
    let user = User::new(&it, Some(rule));
    other.give_to(user.uid);
    let before = other.everything_and_when();
    let ran = Ran::of(user.promote(&other).arg("--json"));
    let command = format!("promote-helper {}\n", other.l4t("rootfs").display());
    failed(ran.says(&command), "no-privilege", "rootfs");
    assert_eq!(other.everything_and_when(), before);
    // A symlink in place of the directory that the rule names does not help either.
    fs::rename(it.l4t("rootfs"), it.path("aside")).unwrap();
    symlink(other.l4t("rootfs"), it.l4t("rootfs")).unwrap();
    Ran::of(&mut user.promote(&it)).exits(1);
    assert_eq!(other.everything_and_when(), before);
}

#[test]
fn helper_started_by_hand_explains_its_purpose() {
    needs_root!();
    let ran = Ran::of(lbpayload().args(["promote-helper", "/srv/rootfs"])).exits(1);
    ran.says("lbpayload promote starts this helper itself");
    let help = Ran::of(lbpayload().arg("--help")).exits(0);
    assert!(!help.stdout.contains("promote-helper"));
}
