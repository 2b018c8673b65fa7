//! Several images in one run, an initramfs that is rebuilt on request, and artifacts that an
//! unfinished run did not bring.

use std::fs;
use std::path::{Path, PathBuf};

use crate::needs_root;
use crate::refusals::failed;
use crate::support::check;
use crate::workspace::{MODULES, Workspace};

/// Copies of the image as it is shipped.
fn copies(it: &Workspace, count: usize) -> Vec<PathBuf> {
    let copy = |number: usize| {
        let to = it.path(format!("Image{number}"));
        let mut cp = std::process::Command::new("cp");
        check(cp.arg("-a").arg(it.path("Image")).arg(&to));
        to.join("Linux_for_Tegra")
    };
    (0..count).map(copy).collect()
}

fn read(image: &Path, rel: &str) -> String {
    fs::read_to_string(image.join(rel)).unwrap()
}

#[test]
fn several_images_get_the_same_files_in_one_run() {
    needs_root!();
    let it = Workspace::new();
    let images = copies(&it, 2);
    let args: Vec<&str> = images
        .iter()
        .flat_map(|image| ["--image", image.to_str().unwrap()])
        .collect();
    let profile = it.everything_and_when();
    let ran = it.promote(&[&args[..], &["--dry-run"]].concat()).exits(0);
    assert_eq!(
        ran.stdout.matches("copy kernel/Image (manifest)").count(),
        2
    );
    let ran = it.promote(&[&args[..], &["--json"]].concat()).exits(0);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["images"].as_array().unwrap().len(), 2);
    for (image, told) in images.iter().zip(told["images"].as_array().unwrap()) {
        assert_eq!(
            told["image"].as_str(),
            image.canonicalize().unwrap().to_str()
        );
        assert_eq!(told["counts"]["manifest"]["copied"], 4);
        assert_eq!(
            read(image, &format!("{MODULES}/updates/nv.ko")),
            "new nv module\n"
        );
        assert_eq!(read(image, "bootloader/board.conf"), "overlay board\n");
        assert!(image.join(".lbpayload/journal/000001.jsonl").exists());
    }
    // The image of the profile is not one of them, and need not exist.
    assert_eq!(it.everything_and_when(), profile);
    fs::remove_dir_all(it.path("Image")).unwrap();
    let ran = it.promote(&args).exits(0);
    assert_eq!(
        ran.stdout.matches("3 identical").count(),
        2,
        "{}",
        ran.stdout
    );
}

#[test]
fn nothing_is_written_to_any_image_if_one_of_them_is_refused() {
    needs_root!();
    let it = Workspace::new();
    let images = copies(&it, 2);
    let destination = images[1].join("bootloader/board.conf");
    fs::create_dir(&destination).unwrap();
    let [first, second] = [0, 1].map(|n| images[n].to_str().unwrap());
    let args = ["--image", first, "--image", second, "--json"];
    failed(
        it.promote(&args),
        "bad-destination",
        "bootloader/board.conf",
    );
    assert!(!images[0].join(".lbpayload").exists());
    assert_eq!(read(&images[0], "kernel/Image"), "old kernel\n");
    let args = ["--image", first, "--image", first, "--json"];
    failed(it.promote(&args), "refused", "named twice");
    it.promote(&["--image", first, "status"]).exits(2);
}

#[test]
fn initramfs_is_rebuilt_on_request_even_if_nothing_changed() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    assert_eq!(it.refreshes(), 1);
    let ran = it.promote(&["--refresh-initramfs", "--dry-run"]).exits(0);
    assert!(
        ran.stdout.contains("initramfs: to be rebuilt"),
        "{}",
        ran.stdout
    );
    assert_eq!(it.refreshes(), 1);
    let ran = it.promote(&["--refresh-initramfs"]).exits(0);
    assert!(ran.stdout.contains("initramfs: rebuilt"), "{}", ran.stdout);
    assert_eq!(it.refreshes(), 2);
    it.promote(&["--refresh-initramfs", "--no-initramfs"])
        .exits(2);
    // If the tool fails, the initramfs is due.
    it.put("tool-fails", "");
    let args = ["--refresh-initramfs", "--json"];
    failed(it.promote(&args), "initramfs-failed", "exit status: 3");
    fs::remove_file(it.path("tool-fails")).unwrap();
    it.promote(&[]).exits(0);
    assert_eq!(it.refreshes(), 4);
}

#[test]
fn artifacts_of_an_unfinished_run_that_the_next_manifest_lacks_are_named() {
    needs_root!();
    let it = Workspace::new();
    let large = "large".repeat(1 << 20);
    it.manifest(&[
        ("kernel/a.dtb", "dtb", "fits\n"),
        ("kernel/b.dtb", "dtb", &large),
        ("kernel/c.dtb", "dtb", "fits too\n"),
    ]);
    // Like a full disk, a file size limit makes a write fail in the middle of a file.
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_lbpayload"))
        .args(["promote", "--json", "--workspace"])
        .arg(it.path(""));
    failed(
        crate::support::Ran::of(&mut command),
        "file-too-large",
        "b.dtb",
    );
    // The manifest of that run is in its record.
    let manifest = fs::read_to_string(it.path("Source/.build-manifest.yaml")).unwrap();
    let history = it.action(&["history", "--json"]).exits(0).stdout;
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    assert_eq!(history[0]["manifest"], manifest);
    // The next build has another set of artifacts.
    it.manifest(&[("kernel/c.dtb", "dtb", "fits too\n")]);
    let ran = it.promote(&["--dry-run"]).exits(0);
    let named = "built, never promoted: kernel/b.dtb\n";
    assert!(ran.stdout.contains(named), "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("never promoted").count(), 1);
    let ran = it.promote(&["--json"]).exits(0);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["never_promoted"], serde_json::json!(["kernel/b.dtb"]));
    let ran = it.promote(&[]).exits(0);
    assert!(!ran.stdout.contains("never promoted"), "{}", ran.stdout);
}
