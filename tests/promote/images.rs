//! Several images in one run, an initramfs that is rebuilt on request, and artifacts that an
//! unfinished run did not bring.

use std::collections::BTreeMap;
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

/// Runs a promote, and returns how many bytes it read of each file, by the file's path.
fn bytes_read(it: &Workspace, args: &[&str]) -> BTreeMap<PathBuf, u64> {
    let logs = it.path("reads");
    fs::create_dir(&logs).unwrap();
    let command = it.command();
    let mut strace = std::process::Command::new("strace");
    strace
        // A log for each thread, so that no call is told in two lines.
        .args(["-ff", "-qq", "-y", "-e", "trace=pread64", "-o"])
        .arg(logs.join("thread"))
        .arg(command.get_program())
        .args(command.get_args())
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    check(&mut strace);
    let mut read = BTreeMap::new();
    for log in fs::read_dir(&logs).unwrap() {
        let log = fs::read(log.unwrap().path()).unwrap();
        let log = String::from_utf8_lossy(&log);
        for line in log.lines().filter(|line| line.starts_with("pread64(")) {
            let path = line.split(['<', '>']).nth(1).unwrap();
            let bytes: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            *read.entry(PathBuf::from(path)).or_default() += bytes;
        }
    }
    read
}

#[test]
fn sources_are_read_once_for_all_images() {
    needs_root!();
    let it = Workspace::new();
    let text = "text".repeat(1 << 18);
    it.manifest(&[("kernel/large.dtb", "dtb", &text)]);
    it.write_overlay("bootloader/large.bin", &text);
    it.commit("a large file");
    let images = copies(&it, 3);
    let args: Vec<&str> = images
        .iter()
        .flat_map(|image| ["--image", image.to_str().unwrap()])
        .collect();
    it.promote(&args).exits(0);
    // One image has other bytes at the end, and one another length.
    let [last, other] = [&images[1], &images[2]].map(|image| image.join("kernel/large.dtb"));
    fs::write(last, format!("{}TEXT", &text[4..])).unwrap();
    fs::write(other, &text[1..]).unwrap();
    let args = [&args[..], &["--recheck", "--dry-run", "-q"]].concat();
    let written = it.promote(&args).exits(0).stdout;
    assert_eq!(written.matches("copy kernel/large.dtb").count(), 2);
    assert_eq!(written.matches("copy bootloader/").count(), 0);
    let read = bytes_read(&it, &args);
    let length = text.len() as u64;
    let built = it.path("Source/bsp_sources/out/kernel-large-dtb");
    assert_eq!(read.get(&built), Some(&length), "{read:?}");
    // Files of the overlay come out of git as files without a name, which strace shows as #INODE.
    let is_unnamed = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with('#');
    let unnamed = read.iter().filter(|(path, _)| is_unnamed(path));
    let small = ["overlay board\n", "overlay model\n", "overlay dtbo\n"].concat();
    assert_eq!(
        unnamed.map(|(_, bytes)| bytes).sum::<u64>(),
        length + small.len() as u64,
        "{read:?}"
    );
    let of_the_images = |rel: &str| -> u64 {
        let paths = images.iter().map(|image| image.join(rel));
        paths.filter_map(|path| read.get(&path)).sum()
    };
    assert_eq!(of_the_images("bootloader/large.bin"), 3 * length);
    assert_eq!(of_the_images("kernel/large.dtb"), 2 * length);
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
