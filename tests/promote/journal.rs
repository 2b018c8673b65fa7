//! The journal that stays in the image: history, status, rollback.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::needs_root;
use crate::refusals::failed;
use crate::support::sha256sum;
use crate::workspace::{MODULES, Workspace, capability};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn history_and_status_work_without_the_workspace() {
    needs_root!();
    let it = Workspace::new();
    // An existing identical file counts too.
    it.put(
        "Image/Linux_for_Tegra/kernel/dtb/custom.dtbo",
        "overlay dtbo\n",
    );
    it.promote(&[]).exits(0);
    let head = it.git(&it.overlay(), &["rev-parse", "HEAD"]);
    let manifest = fs::read_to_string(it.path("Source/.build-manifest.yaml")).unwrap();
    fs::remove_dir_all(it.path("Source")).unwrap();
    fs::remove_dir_all(it.path("target-platform")).unwrap();
    let history = json(&it.action(&["history", "--json"]).exits(0).stdout);
    let record = &history[0];
    assert_eq!(record["id"], 1);
    assert_eq!(record["commit"], head);
    assert_eq!(record["manifest"], manifest);
    assert_eq!(record["state"], "done");
    assert_eq!(record["initramfs"], "rebuilt");
    assert_eq!(
        (&record["changed"], &record["kept"]),
        (&7.into(), &1.into())
    );
    assert!(record["user"].as_str().unwrap().contains("root"));
    let started = record["started"].as_str().unwrap();
    assert!(
        started.starts_with("20") && started.ends_with('Z'),
        "{started}"
    );
    let ran = it.action(&["history"]).exits(0);
    assert!(
        ran.stdout.starts_with(&format!("1 {started} promote")),
        "{}",
        ran.stdout
    );

    let status = json(&it.action(&["status", "--json"]).exits(0).stdout);
    assert_eq!(status["ok"], true);
    assert_eq!(status["files"].as_array().unwrap().len(), 8);
    fs::write(it.l4t("kernel/dtb/board.dtb"), "by hand").unwrap();
    fs::remove_file(it.l4t("rootfs/etc/nvpmodel/nvpmodel.conf")).unwrap();
    fs::write(it.l4t("kernel/dtb/custom.dtbo"), "by hand").unwrap();
    let ran = it.action(&["status"]).exits(1);
    for line in [
        "edited: kernel/dtb/board.dtb (promote 1)\n",
        "edited: kernel/dtb/custom.dtbo (promote 1)\n",
        "missing: rootfs/etc/nvpmodel/nvpmodel.conf (promote 1)\n",
        "files: 5 intact, 2 edited, 1 missing, 0 unreadable\n",
        "initramfs: not due\n",
    ] {
        assert!(ran.stdout.contains(line), "no {line:?} in: {}", ran.stdout);
    }
}

#[test]
fn image_without_promotes_is_reported_as_such() {
    needs_root!();
    let it = Workspace::new();
    let before = it.everything_and_when();
    assert_eq!(it.action(&["history"]).exits(0).stdout, "");
    let ran = it.action(&["status"]).exits(1);
    assert!(
        ran.stdout.contains("last: nothing was promoted"),
        "{}",
        ran.stdout
    );
    failed(it.action(&["rollback", "--json"]), "no-record", "nothing");
    assert_eq!(it.everything_and_when(), before);
}

#[test]
fn rollback_restores_everything_and_can_be_undone() {
    needs_root!();
    let it = Workspace::new();
    for name in [
        "usr/bin/ping",
        "usr/bin/sudo",
        "etc/shadow",
        "opt/new/deep/tool",
    ] {
        it.write_overlay(format!("rootfs/{name}"), format!("overlay {name}\n"));
    }
    std::os::unix::fs::symlink("ping", it.overlay().join("rootfs/usr/bin/pong")).unwrap();
    fs::create_dir_all(it.overlay().join("rootfs/etc/alternatives")).unwrap();
    std::os::unix::fs::symlink("/x", it.overlay().join("rootfs/etc/alternatives/editor")).unwrap();
    it.commit("more");
    // The initramfs that NVIDIA ships matches the modules that it ships.
    crate::support::check(std::process::Command::new("sh").args([
        "-c",
        "cd \"$0\" && tools/l4t_update_initrd.sh && rm ../../initramfs-runs",
        it.l4t("").to_str().unwrap(),
    ]));
    let shipped = it.image_now();
    it.promote(&[]).exits(0);
    let promoted = it.image_now();
    assert_ne!(promoted, shipped);
    it.manifest(&[(
        &format!("{MODULES}/updates/nv.ko"),
        "oot_module",
        "newer nv\n",
    )]);
    it.promote(&[]).exits(0);
    let second = it.image_now();

    let before = it.everything_and_when();
    let ran = it.action(&["rollback", "--dry-run"]).exits(0);
    let line = "put back rootfs/lib/modules/6.8.12-tegra/updates/nv.ko";
    assert!(ran.stdout.contains(line), "{}", ran.stdout);
    assert_eq!(it.everything_and_when(), before);

    let ran = it.action(&["rollback"]).exits(0);
    assert!(
        ran.stdout.contains("as after promote 1\n"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("initramfs: rebuilt"), "{}", ran.stdout);
    assert_eq!(it.image_now(), promoted);
    it.action(&["status"]).exits(0);
    it.action(&["rollback", "0"]).exits(0);
    assert_eq!(it.image_now(), shipped);
    assert_eq!(capability(&it.l4t("rootfs/usr/bin/ping")), "cap_net_raw=ep");
    assert!(!it.l4t("rootfs/opt").exists());
    it.action(&["status"]).exits(0);
    it.action(&["rollback", "2"]).exits(0);
    assert_eq!(it.image_now(), second);
    // The last action was a rollback. Rollback without a number undoes it.
    it.action(&["rollback"]).exits(0);
    assert_eq!(it.image_now(), shipped);
    let history = json(&it.action(&["history", "--json"]).exits(0).stdout);
    let actions: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "promote", "promote", "rollback", "rollback", "rollback", "rollback"
        ]
    );
    assert_eq!(history[3]["to"], 0);
}

#[test]
fn undoing_a_rollback_restores_files_edited_by_hand() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    fs::write(it.l4t("kernel/dtb/board.dtb"), "by hand\n").unwrap();
    let ran = it.action(&["rollback"]).exits(0);
    let line = "note: kernel/dtb/board.dtb was edited by hand\n";
    assert!(ran.stdout.contains(line), "{}", ran.stdout);
    assert_eq!(it.read("kernel/dtb/board.dtb"), "old dtb\n");
    it.action(&["rollback"]).exits(0);
    assert_eq!(it.read("kernel/dtb/board.dtb"), "by hand\n");
}

#[test]
fn rollback_to_an_unknown_or_pruned_promote_is_refused() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    failed(it.action(&["rollback", "7", "--json"]), "no-record", "7");
    for text in ["2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] {
        it.manifest(&[("kernel/dtb/board.dtb", "dtb", text)]);
        it.promote(&[]).exits(0);
    }
    let before = it.everything_and_when();
    let ran = it.action(&["rollback", "0", "--json"]);
    failed(ran, "no-backup", "only the last 10");
    assert_eq!(it.everything_and_when(), before);
    it.action(&["rollback", "3"]).exits(0);
    assert_eq!(it.read("kernel/dtb/board.dtb"), "3");
}

#[test]
fn symlink_whose_target_equals_the_file_content_counts_as_edited() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    let file = it.l4t("bootloader/board.conf");
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(text, &file).unwrap();
    let status = json(&it.action(&["status", "--json"]).exits(1).stdout);
    let files = status["files"].as_array().unwrap();
    let state = |file: &serde_json::Value| file["path"] == "bootloader/board.conf";
    let file = files.iter().find(|file| state(file)).unwrap();
    assert_eq!(file["state"], "edited");
}

#[test]
fn failed_initramfs_rebuild_is_repeated_by_the_next_run() {
    needs_root!();
    let it = Workspace::new();
    it.put("tool-fails", "");
    let log = it.l4t(".lbpayload/initramfs.log");
    let ran = it.promote(&["--json"]).says(log.to_str().unwrap());
    failed(ran, "initramfs-failed", "(exit status: 3)");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("no space in the chroot"), "{said}");
    assert_eq!(
        it.read(&format!("{MODULES}/updates/nv.ko")),
        "new nv module\n"
    );
    let ran = it.action(&["status"]).exits(1);
    assert!(ran.stdout.contains("initramfs: due\n"), "{}", ran.stdout);
    fs::remove_file(it.path("tool-fails")).unwrap();
    let ran = it.promote(&[]).exits(0);
    assert!(
        ran.stdout.contains("manifest files: 0 copied, 4 identical"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("initramfs: rebuilt"), "{}", ran.stdout);
    let expected = Workspace::new();
    expected.promote(&[]).exits(0);
    assert_eq!(
        it.read("rootfs/boot/initrd"),
        expected.read("rootfs/boot/initrd")
    );
    it.action(&["status"]).exits(0);
    let ran = it.promote(&[]).exits(0);
    assert!(
        ran.stdout.contains("initramfs: skipped (nothing"),
        "{}",
        ran.stdout
    );
}

#[test]
fn no_initramfs_option_leaves_the_rebuild_due() {
    needs_root!();
    let it = Workspace::new();
    let ran = it.promote(&["--no-initramfs"]).exits(0);
    let next = "next: promote without --no-initramfs, then flash\n";
    assert!(ran.stdout.ends_with(next), "{}", ran.stdout);
    assert_eq!(it.refreshes(), 0);
    it.promote(&["--no-initramfs"]).exits(0);
    let ran = it.promote(&["--dry-run"]).exits(0);
    assert!(
        ran.stdout.contains("initramfs: to be rebuilt"),
        "{}",
        ran.stdout
    );
    it.promote(&[]).exits(0);
    assert_eq!(it.refreshes(), 1);
}

#[test]
fn journal_belongs_to_the_owner_of_the_image() {
    needs_root!();
    let it = Workspace::new();
    it.give_to(4711);
    it.promote(&[]).exits(0);
    let meta = it.l4t(".lbpayload").metadata().unwrap();
    assert_eq!(
        (meta.uid(), meta.permissions().mode() & 0o777),
        (4711, 0o700)
    );
}

#[test]
fn options_may_come_before_or_after_the_action() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    let workspace = it.path("");
    let workspace = workspace.to_str().unwrap();
    for args in [
        ["promote", "--workspace", workspace, "--json", "status"],
        ["promote", "status", "--workspace", workspace, "--json"],
        ["promote", "--json", "history", "--workspace", workspace],
    ] {
        json(&crate::support::run(args).exits(0).stdout);
    }
    let image = it.l4t("");
    for args in [
        &["status", "--image", image.to_str().unwrap()][..],
        &["--overlay-ref", "HEAD", "rollback"],
        &["rollback", "--offline"],
        &["rollback", "first"],
    ] {
        it.promote(args).exits(2);
    }
}

#[test]
fn record_has_checksums_of_old_and_new_files() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    let text = fs::read_to_string(it.l4t(".lbpayload/journal/000001.jsonl")).unwrap();
    let lines: Vec<_> = text.lines().map(json).collect();
    let of = |dst: &str| lines.iter().find(|line| line["dst"] == dst).unwrap();
    let conf = of("rootfs/etc/nvpmodel/nvpmodel.conf");
    let sum = |text: &str| sha256sum(text.as_bytes());
    assert_eq!(conf["backup"]["sha256"], sum("as shipped\n"));
    assert_eq!(conf["after"]["file"]["sha256"], sum("overlay model\n"));
    assert_eq!(conf["channel"], "overlay");
    let new = of("rootfs/lib/modules/6.8.12-tegra/updates/nv.ko");
    assert_eq!(new["before"], "nothing");
    assert_eq!(new["after"]["file"]["sha256"], sum("new nv module\n"));
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["line"], &last["state"]),
        (&"end".into(), &"done".into())
    );
}

#[test]
fn rollback_json_lists_the_restored_files() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    fs::write(it.l4t("kernel/dtb/board.dtb"), "by hand\n").unwrap();
    let before = it.everything_and_when();
    for args in [
        &["rollback", "--dry-run", "--json"][..],
        &["rollback", "--json"],
    ] {
        assert_eq!(it.everything_and_when(), before);
        let told = json(&it.action(args).exits(0).stdout);
        let dry_run = args.contains(&"--dry-run");
        assert_eq!(
            (&told["to"], &told["dry_run"]),
            (&0.into(), &dry_run.into())
        );
        assert_eq!(told["id"].is_null(), dry_run);
        let counts = (&told["restored"], &told["identical"]);
        assert_eq!(counts, (&8.into(), &0.into()));
        assert_eq!(told["edited"], serde_json::json!(["kernel/dtb/board.dtb"]));
        let made = if dry_run { "to be rebuilt" } else { "rebuilt" };
        assert_eq!(told["initramfs"], made);
        let files = told["files"].as_array().unwrap();
        let module = format!("{MODULES}/updates/nv.ko");
        let module = files.iter().find(|file| file["path"] == module).unwrap();
        assert_eq!(
            module["place"],
            "rootfs/usr/lib/modules/6.8.12-tegra/updates/nv.ko"
        );
        assert_eq!(
            (&module["channel"], &module["write"]),
            (&"rollback".into(), &true.into())
        );
    }
    let ran = it.action(&["rollback", "0"]).exits(0);
    assert!(
        ran.stdout.starts_with("as before all promotes\n"),
        "{}",
        ran.stdout
    );
}
