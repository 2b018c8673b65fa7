//! Promotes in which nothing goes wrong.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use crate::needs_root;
use crate::workspace::{MODULES, Workspace, capability};

#[test]
fn promote_copies_overlay_and_manifest_and_a_second_run_writes_nothing() {
    needs_root!();
    let it = Workspace::new();
    let ran = it.promote(&[]).exits(0);
    let head = it.git(&it.overlay(), &["rev-parse", "HEAD"]);
    let summary = |counts: [&str; 4], more: &str, record: &str| {
        let [overlay, manifest, mirror, initramfs] = counts;
        format!(
            "overlay HEAD ({})\n\
             manifest: mode=full, bsp_version=38.2.0, rebuilt_at=2026-05-01T10:00:00Z, 4 artifacts\n\
             collision: check skipped (no remote configured)\n\
             overlay files: {overlay}\n\
             manifest files: {manifest}\n\
             kernel Image mirror: {mirror}\n\
             initramfs: {initramfs}\n\
             {more}\
             source: {}\n\
             image: {}\n\
             {record}\
             next: flash the image (/jetson-flash-image), or validate it (/jetson-validate-image)\n",
            &head[..7],
            it.path("Source").display(),
            it.path("Image/Linux_for_Tegra").display()
        )
    };
    let counts = [
        "3 copied, 0 identical",
        "4 copied, 0 identical",
        "copied to rootfs/boot/Image",
        "rebuilt",
    ];
    let ends = "first copied: bootloader/board.conf\nlast copied: rootfs/boot/Image\n";
    assert_eq!(ran.stdout, summary(counts, ends, "record: 1\n"));
    assert_eq!(ran.stderr, "");
    assert_eq!(it.read("kernel/Image"), "new kernel\n");
    assert_eq!(it.read("rootfs/boot/Image"), "new kernel\n");
    assert_eq!(
        it.read("rootfs/usr/lib/modules/6.8.12-tegra/updates/nv.ko"),
        "new nv module\n"
    );
    assert_eq!(it.read("bootloader/initrd"), "never touched\n");
    assert_eq!(it.refreshes(), 1);
    assert!(it.l4t("rootfs/lib").is_symlink());
    let once = it.everything_and_when();

    let ran = it.promote(&[]).exits(0);
    let counts = [
        "0 copied, 3 identical",
        "0 copied, 4 identical",
        "identical to rootfs/boot/Image",
        "skipped (nothing that it holds was written)",
    ];
    assert_eq!(ran.stdout, summary(counts, "", ""));
    assert_eq!(it.everything_and_when(), once);
    assert_eq!(it.refreshes(), 1);
}

#[test]
fn dry_run_prints_the_plan_and_writes_nothing() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("kernel/dtb/board.dtb", "overlay dtb\n");
    it.commit("the same destination");
    let before = it.everything_and_when();
    let ran = it.promote(&["--dry-run"]).exits(0);
    for line in [
        "copy kernel/dtb/board.dtb (manifest), shadows the overlay's\n",
        "copy rootfs/etc/nvpmodel/nvpmodel.conf (overlay), as root\n",
        &format!(
            "copy {MODULES}/updates/nv.ko (manifest), which is \
             rootfs/usr/lib/modules/6.8.12-tegra/updates/nv.ko, as root\n"
        ),
        "copy rootfs/boot/Image (mirror), as root\n",
        "overlay files: 3 to copy, 0 identical, 1 shadowed\n",
        "initramfs: to be rebuilt\n",
        "kernel Image mirror: to be copied to rootfs/boot/Image\n",
    ] {
        assert!(ran.stdout.contains(line), "no {line:?} in: {}", ran.stdout);
    }
    let json = it.promote(&["--dry-run", "--json"]).exits(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["dry_run"], true);
    assert_eq!(json["needs_privilege"], true);
    assert_eq!(json["counts"]["overlay"]["shadowed"], 1);
    assert_eq!(json["files"].as_array().unwrap().len(), 8);
    assert_eq!(it.everything_and_when(), before);
    assert_eq!(it.refreshes(), 0);
}

#[test]
fn manifest_wins_over_overlay_for_the_same_destination() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("kernel/dtb/board.dtb", "overlay dtb\n");
    // The same file under its other path.
    it.write_overlay(
        "rootfs/usr/lib/modules/6.8.12-tegra/updates/nv.ko",
        "overlay nv\n",
    );
    it.write_overlay("rootfs/boot/Image", "overlay kernel\n");
    it.commit("in both");
    it.promote(&[]).exits(0);
    assert_eq!(it.read("kernel/dtb/board.dtb"), "new dtb\n");
    assert_eq!(
        it.read(&format!("{MODULES}/updates/nv.ko")),
        "new nv module\n"
    );
    assert_eq!(it.read("rootfs/boot/Image"), "new kernel\n");
    let once = it.everything_and_when();
    it.promote(&[]).exits(0);
    assert_eq!(it.everything_and_when(), once);
}

#[test]
fn files_in_rootfs_keep_owner_mode_and_capabilities_and_new_files_belong_to_root() {
    needs_root!();
    let it = Workspace::new();
    for name in ["usr/bin/sudo", "usr/bin/ping", "etc/shadow", "opt/new/tool"] {
        let path = it.write_overlay(format!("rootfs/{name}"), format!("overlay {name}\n"));
        let mode = if name == "etc/shadow" { 0o644 } else { 0o755 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    it.commit("under rootfs");
    it.give_to(4711);
    let shadow = it.l4t("rootfs/etc/shadow");
    let set = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&shadow, "user.note", b"mine", set).unwrap();
    it.promote(&[]).exits(0);
    let mut note = [0; 4];
    rustix::fs::getxattr(&shadow, "user.note", &mut note[..]).unwrap();
    assert_eq!(&note, b"mine");
    let meta = |name: &str| it.l4t("rootfs").join(name).metadata().unwrap();
    let owner = |name: &str| {
        (
            meta(name).uid(),
            meta(name).gid(),
            meta(name).mode() & 0o7777,
        )
    };
    assert_eq!(owner("usr/bin/sudo"), (0, 0, 0o4755));
    assert_eq!(owner("etc/shadow"), (0, 42, 0o640));
    assert_eq!(owner("etc/nvpmodel/nvpmodel.conf"), (0, 0, 0o600));
    assert_eq!(owner("opt/new/tool"), (0, 0, 0o755));
    assert_eq!(owner("opt/new"), (0, 0, 0o755));
    assert_eq!(it.read("rootfs/usr/bin/ping"), "overlay usr/bin/ping\n");
    assert_eq!(capability(&it.l4t("rootfs/usr/bin/ping")), "cap_net_raw=ep");
    assert_eq!(
        meta("usr/lib/modules/6.8.12-tegra/updates/nv.ko").mtime(),
        1_600_000_000
    );
}

#[test]
fn ownership_source_keeps_owner_and_time_like_cp_p() {
    needs_root!();
    let it = Workspace::new();
    let built = it.path("Source/bsp_sources/out");
    for entry in fs::read_dir(built).unwrap() {
        lchown(entry.unwrap().path(), Some(4711), Some(4712)).unwrap();
    }
    it.promote(&["--ownership", "source"]).exits(0);
    let meta = it
        .l4t(format!("{MODULES}/kernel/net.ko"))
        .metadata()
        .unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mtime()),
        (4711, 4712, 1_600_000_000)
    );
}

#[test]
fn symlinks_are_copied_as_symlinks_and_executables_stay_executable() {
    needs_root!();
    let it = Workspace::new();
    let script = it.write_overlay("tools/flash-helper.sh", "#!/bin/sh\n");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    symlink("flash-helper.sh", it.overlay().join("tools/latest")).unwrap();
    fs::create_dir_all(it.overlay().join("rootfs/etc")).unwrap();
    symlink(
        "/usr/share/zoneinfo/UTC",
        it.overlay().join("rootfs/etc/localtime"),
    )
    .unwrap();
    // These replace a symlink with another target, and a file.
    fs::create_dir_all(it.overlay().join("rootfs/etc/alternatives")).unwrap();
    symlink(
        "/usr/bin/vim",
        it.overlay().join("rootfs/etc/alternatives/editor"),
    )
    .unwrap();
    symlink("../hostname", it.overlay().join("rootfs/etc/hostname")).unwrap();
    it.commit("links");
    it.promote(&[]).exits(0);
    let link = |name: &str| fs::read_link(it.l4t(name)).unwrap();
    assert_eq!(link("tools/latest"), Path::new("flash-helper.sh"));
    assert_eq!(
        link("rootfs/etc/localtime"),
        Path::new("/usr/share/zoneinfo/UTC")
    );
    assert_eq!(
        link("rootfs/etc/alternatives/editor"),
        Path::new("/usr/bin/vim")
    );
    assert_eq!(link("rootfs/etc/hostname"), Path::new("../hostname"));
    let mode = it.l4t("tools/flash-helper.sh").metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o755);
    let once = it.everything_and_when();
    it.promote(&[]).exits(0);
    assert_eq!(it.everything_and_when(), once);
}

#[test]
fn absolute_symlinks_are_resolved_inside_rootfs() {
    needs_root!();
    let it = Workspace::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("hosts"), "the host's\n").unwrap();
    symlink(outside.path(), it.l4t("rootfs/etc/leak")).unwrap();
    it.write_overlay("rootfs/etc/resolv.conf", "nameserver 10.0.0.1\n");
    it.write_overlay("rootfs/etc/leak/hosts", "the image's\n");
    it.commit("through symlinks");
    it.promote(&[]).exits(0);
    assert_eq!(
        it.read("rootfs/run/systemd/resolve/stub-resolv.conf"),
        "nameserver 10.0.0.1\n"
    );
    assert!(it.l4t("rootfs/etc/resolv.conf").is_symlink());
    let host = fs::read_to_string(outside.path().join("hosts")).unwrap();
    assert_eq!(host, "the host's\n");
    let inside = outside.path().strip_prefix("/").unwrap().join("hosts");
    assert_eq!(
        it.read(&format!("rootfs/{}", inside.display())),
        "the image's\n"
    );
    let once = it.everything_and_when();
    it.promote(&[]).exits(0);
    assert_eq!(it.everything_and_when(), once);
}

#[test]
fn file_names_may_contain_any_bytes() {
    needs_root!();
    let it = Workspace::new();
    let names: [&[u8]; 6] = [
        b"rootfs/etc/a b",
        b"rootfs/etc/it's \"quoted\"; rm -rf $HOME `id`",
        b"rootfs/etc/line\nfeed",
        "rootfs/etc/gr\u{f6}\u{df}e".as_bytes(),
        b"rootfs/etc/\xff\xfe",
        b"bootloader/-rf\t*",
    ];
    for name in names {
        it.write_overlay(std::ffi::OsStr::from_bytes(name), name);
    }
    it.commit("names");
    it.promote(&[]).exits(0);
    for name in names {
        assert_eq!(
            fs::read(it.l4t(std::ffi::OsStr::from_bytes(name))).unwrap(),
            name
        );
    }
    let ran = it.action(&["status"]).exits(0);
    assert!(ran.stdout.contains("0 edited, 0 missing"), "{}", ran.stdout);
    it.action(&["rollback"]).exits(0);
    assert!(!it.l4t(std::ffi::OsStr::from_bytes(names[4])).exists());
}

#[test]
fn edited_kernel_mirror_is_restored_and_the_initramfs_rebuilt() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    fs::write(it.l4t("rootfs/boot/Image"), "by hand").unwrap();
    let ran = it.promote(&[]).exits(0);
    assert!(
        ran.stdout.contains("kernel Image mirror: copied"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("initramfs: rebuilt"), "{}", ran.stdout);
    assert_eq!(it.read("rootfs/boot/Image"), "new kernel\n");
}

#[test]
fn files_outside_the_initramfs_do_not_cause_a_rebuild() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    it.write_overlay("rootfs/etc/motd", "hello\n");
    it.commit("motd");
    let ran = it.promote(&[]).exits(0);
    assert!(
        ran.stdout.contains("initramfs: skipped (nothing"),
        "{}",
        ran.stdout
    );
    assert_eq!(it.refreshes(), 1);
}

#[test]
fn promote_works_on_a_kernel_without_openat2() {
    needs_root!();
    let (it, other) = (Workspace::new(), Workspace::new());
    other.promote(&[]).exits(0);
    let command = it.command();
    let out = std::process::Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=openat2"])
        .args(["-e", "inject=openat2:error=ENOSYS"])
        .arg(command.get_program())
        .args(command.get_args())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(it.image_now(), other.image_now());
}

#[test]
fn promote_notes_version_mismatch_dirty_and_unknown_repositories() {
    needs_root!();
    let it = Workspace::new();
    let manifest = it.path("Source/.build-manifest.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    let text = text.replace("dirty_repos: []", "dirty_repos: [{nvidia-oot: 1234567}]");
    let text = text.replacen("source_repo: nvidia-oot", "source_repo: nowhere", 1);
    fs::write(&manifest, text.replace("\"38.2.0\"", "\"38.4.0\"")).unwrap();
    let json = it.promote(&["--dry-run", "--json"]).exits(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let notes = json["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 3);
    for facts in [&["38.4.0", "38.2.0"][..], &["nvidia-oot"], &["nowhere"]] {
        let told = |note: &serde_json::Value| {
            let note = note.as_str().unwrap();
            facts.iter().all(|fact| note.contains(fact))
        };
        assert!(notes.iter().any(told), "no {facts:?} in: {notes:?}");
    }
}
