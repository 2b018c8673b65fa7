//! Bad input, bad destinations, and failures during a run.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{Flock, FlockArg};

use crate::needs_root;
use crate::refusals::{failed, refused};
use crate::support::{Mounted, Ran, check};
use crate::workspace::Workspace;

#[test]
fn yaml_bomb_is_reported_as_a_syntax_error() {
    needs_root!();
    let it = Workspace::new();
    let mut bomb = String::from("mode: full\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..20 {
        let many = vec![format!("*a{}", i - 1); 10].join(",");
        bomb += &format!("a{i}: &a{i} [{many}]\n");
    }
    it.put("Source/.build-manifest.yaml", &bomb);
    refused(&it, &[], "syntax", ".build-manifest.yaml");
    fs::remove_file(it.path("Source/.build-manifest.yaml")).unwrap();
    // In a block of the profile that nothing reads, it has no effect.
    let profile = bomb.replace("mode: full", "bsp_image: {}\nsource: {}");
    it.put("target-platform/thor.yaml", profile);
    it.promote(&["--dry-run"]).exits(0);
    it.put(
        "target-platform/thor.yaml",
        bomb.replace("mode: full\n", "") + "bsp_image: *a19\n",
    );
    refused(&it, &[], "syntax", "thor.yaml");
    let long = fs::File::create(it.path("target-platform/thor.yaml")).unwrap();
    long.set_len(1 << 30).unwrap();
    refused(&it, &[], "io", "longer than 64 MiB");
    it.put("target-platform/thor.yaml", b"bsp_image: \xff\n");
    refused(&it, &[], "syntax", "thor.yaml");
}

#[test]
fn destination_that_is_a_device_node_or_fifo_is_refused() {
    needs_root!();
    let it = Workspace::new();
    let fifo = it.l4t("bootloader/board.conf");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&it, &[], "bad-destination", "bootloader/board.conf");
    it.promote(&[]).exits(1).says("is a FIFO, expected a file");
    fs::remove_file(&fifo).unwrap();
    let node = it.l4t("rootfs/etc/nvpmodel/nvpmodel.conf");
    fs::remove_file(&node).unwrap();
    check(Command::new("mknod").arg(&node).args(["c", "1", "3"]));
    refused(&it, &[], "bad-destination", "nvpmodel.conf");
    it.promote(&[])
        .exits(1)
        .says("is a character device, expected");
}

#[test]
fn progress_does_not_count_files_of_another_length_because_they_are_not_read() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    it.manifest(&[
        ("kernel/Image", "kernel_image", "as long!!!\n"),
        ("kernel/dtb/board.dtb", "dtb", "longer than before\n"),
    ]);
    let args = ["--progress", "json", "--dry-run", "--recheck"];
    let ran = it.promote(&args).exits(0);
    let lines = ran.stderr.lines();
    let steps: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|step: &serde_json::Value| step["phase"] == "comparing")
        .collect();
    // The kernel, the mirror, and the three files of the overlay.
    let read = [
        "as long!!!\n",
        "as long!!!\n",
        "overlay board\n",
        "overlay model\n",
        "overlay dtbo\n",
    ];
    let read: usize = read.iter().map(|text| text.len()).sum();
    let last = steps.last().unwrap();
    assert_eq!(
        (&last["total_bytes"], &last["bytes"]),
        (&read.into(), &read.into()),
        "{last}"
    );
}

#[test]
fn destination_that_is_a_directory_is_refused() {
    needs_root!();
    let it = Workspace::new();
    fs::create_dir(it.l4t("bootloader/board.conf")).unwrap();
    refused(&it, &[], "bad-destination", "bootloader/board.conf");
}

#[test]
fn concurrent_promote_is_refused_and_names_the_running_one() {
    needs_root!();
    let it = Workspace::new();
    let image = fs::File::open(it.l4t("")).unwrap();
    let lock = Flock::lock(image, FlockArg::LockExclusiveNonblock).unwrap();
    let holder = format!("(process {})", std::process::id());
    refused(&it, &[], "busy", &holder);
    failed(it.action(&["rollback", "--json"]), "busy", &holder);
    // Commands that only read still work.
    it.promote(&["--dry-run"]).exits(0);
    it.action(&["history"]).exits(0);
    drop(lock);
    it.promote(&[]).exits(0);
}

#[test]
fn too_little_free_space_is_reported_before_writing() {
    needs_root!();
    let it = Workspace::new();
    let disk = Mounted::tmpfs(&it.path(""), 4 << 20);
    let from = it.path("Image");
    check(Command::new("cp").arg("-a").arg(&from).arg(&disk.path));
    fs::rename(&from, it.path("moved")).unwrap();
    std::os::unix::fs::symlink(disk.path.join("Image"), &from).unwrap();
    it.manifest(&[("kernel/Image", "kernel_image", &"k".repeat(8 << 20))]);
    refused(&it, &[], "no-space", "Linux_for_Tegra");
}

#[test]
fn failing_write_names_the_path_and_keeps_the_files_copied_before() {
    needs_root!();
    let it = Workspace::new();
    it.manifest(&[
        ("kernel/a.dtb", "dtb", "fits\n"),
        ("kernel/b.dtb", "dtb", &"large".repeat(1 << 20)),
        ("kernel/c.dtb", "dtb", "fits too\n"),
    ]);
    let before = it.image_now();
    // Like a full disk, a file size limit makes a write fail in the middle of a file.
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_lbpayload"))
        .args(["promote", "--json", "--workspace"])
        .arg(it.path(""));
    let ran = Ran::of(&mut command).says(it.l4t("kernel/b.dtb").to_str().unwrap());
    failed(ran, "file-too-large", "File too large");
    assert_eq!(it.read("kernel/a.dtb"), "fits\n");
    assert!(!it.l4t("kernel/b.dtb").exists() && !it.l4t("kernel/c.dtb").exists());
    assert!(!it.l4t(".lbpayload-staging").exists());
    assert!(it.image_now().len() > before.len());
    let ran = it.action(&["history"]).exits(0);
    assert!(ran.stdout.contains(" failed\n"), "{}", ran.stdout);
    let ran = it.promote(&[]).exits(0);
    assert!(
        ran.stdout.contains("manifest files: 2 copied, 1 identical"),
        "{}",
        ran.stdout
    );
    it.action(&["status"]).exits(0);
}

#[test]
fn source_that_changes_during_the_copy_is_not_promoted() {
    needs_root!();
    let it = Workspace::new();
    let src = it.put("Source/built", vec![7; 64 << 20]);
    it.manifest_of(&[(
        src.to_str().unwrap().into(),
        "kernel/large.dtb".into(),
        "dtb",
    )]);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, file) = (
            Arc::clone(&stop),
            fs::File::options().write(true).open(&src).unwrap(),
        );
        move || {
            use std::os::unix::fs::FileExt;
            while !stop.load(Ordering::Relaxed) {
                file.write_all_at(b"x", 5).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    });
    let ran = it.promote(&["--json"]);
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    failed(ran, "changed", "kernel/large.dtb");
    assert!(!it.l4t("kernel/large.dtb").exists());
    it.promote(&[]).exits(0);
}

#[test]
fn quiet_prints_only_requested_output_and_progress_json_reports_the_phases() {
    needs_root!();
    let it = Workspace::new();
    let ran = it.promote(&["-q"]).exits(0);
    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
    // Requested output is still printed, and nothing else.
    for (words, same) in [
        (&["status"][..], true),
        (&["history"], true),
        (&["rollback", "--dry-run"], false),
    ] {
        let loud = it.promote(words).exits(0);
        let quiet = it.promote(&[words, &["-q"]].concat()).exits(0);
        assert_eq!(quiet.stderr, "", "{words:?}");
        assert!(!quiet.stdout.is_empty(), "{words:?}");
        assert!(loud.stdout.starts_with(&quiet.stdout), "{words:?}");
        assert_eq!(loud.stdout == quiet.stdout, same, "{words:?}");
    }
    let ran = it.promote(&["rollback", "-q"]).exits(0);
    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
    let it = Workspace::new();
    let ran = it.promote(&["-q", "--dry-run"]).exits(0);
    assert!(ran.stdout.lines().count() > 1, "{}", ran.stdout);
    assert!(
        ran.stdout.lines().all(|line| line.starts_with("copy ")),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.stderr, "");
    let ran = it.promote(&["--progress", "json", "--json"]).exits(0);
    let phases: Vec<String> = ran
        .stderr
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["phase"].to_string())
        .collect();
    for phase in ["\"comparing\"", "\"copying\"", "\"initramfs\""] {
        assert!(phases.iter().any(|p| p == phase), "{phases:?}");
    }
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["id"], 1);
    assert_eq!(json["counts"]["manifest"]["copied"], 4);
    assert_eq!(json["initramfs"], "rebuilt");
    assert_eq!(json["first"], "bootloader/board.conf");
}
