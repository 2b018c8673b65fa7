//! `promote diff`, with device trees made by dtc and real modules.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::needs_root;
use crate::real_kernel::{RealImage, pack};
use crate::support::{Ran, check, sha256sum};
use crate::user::User;
use crate::workspace::Workspace;

fn differences(ran: &Ran) -> Vec<Value> {
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    report["differences"].as_array().unwrap().clone()
}

fn of<'a>(all: &'a [Value], path: &str) -> &'a Value {
    all.iter().find(|one| one["path"] == path).unwrap()
}

fn device_tree(status: &str) -> Vec<u8> {
    let source = format!(
        "/dts-v1/; / {{ model = \"board\"; uart@1000 {{ status = \"{status}\"; reg = <1>; }}; }};"
    );
    pack(
        "dtc",
        &["-I", "dts", "-O", "dtb", "-q", "-"],
        source.as_bytes(),
    )
}

/// A workspace in which both channels are as they are in the image, but for what the test
/// adds.
fn settled() -> Workspace {
    let it = Workspace::new();
    let ran = it.promote(&[]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    it
}

#[test]
fn text_is_a_unified_diff_that_git_can_apply() {
    needs_root!();
    let it = settled();
    it.write_overlay("bootloader/board.conf", "overlay board\nsecond line\n");
    it.write_overlay("bootloader/a b.conf", "new\n");
    it.write_overlay("rootfs/etc/nvpmodel/nvpmodel.conf", "other model");
    it.commit("three files");
    let ran = it.promote(&["diff"]);
    assert_eq!((ran.status, &*ran.stderr), (Some(0), ""));
    let wanted = format!(
        "new: bootloader/a b.conf (overlay)\n\
         --- /dev/null\n\
         +++ b/bootloader/a b.conf\n\
         @@ -0,0 +1 @@\n\
         +new\n\
         changed: bootloader/board.conf (overlay)\n\
         --- a/bootloader/board.conf\n\
         +++ b/bootloader/board.conf\n\
         @@ -1 +1,2 @@\n \
         overlay board\n\
         +second line\n\
         changed: rootfs/etc/nvpmodel/nvpmodel.conf (overlay)\n\
         --- a/rootfs/etc/nvpmodel/nvpmodel.conf\n\
         +++ b/rootfs/etc/nvpmodel/nvpmodel.conf\n\
         @@ -1 +1 @@\n\
         -overlay model\n\
         +other model\n\
         \\ No newline at end of file\n\
         3 differences\n\
         initramfs: skipped (nothing that it holds was written)\n\
         image: {}\n",
        it.path("Image/Linux_for_Tegra").display()
    );
    assert_eq!(ran.stdout, wanted);
    let patch = it.put("the.patch", &it.promote(&["-q", "diff"]).stdout);
    check(
        Command::new("git")
            .arg("apply")
            .arg(&patch)
            .current_dir(it.l4t("")),
    );
    assert_eq!(it.read("bootloader/a b.conf"), "new\n");
    assert_eq!(it.read("rootfs/etc/nvpmodel/nvpmodel.conf"), "other model");
    assert_eq!(it.promote(&["-q", "diff"]).stdout, "");
}

#[test]
fn device_trees_are_decompiled_and_modules_described() {
    needs_root!();
    let Some(real) = RealImage::new() else { return };
    let it = settled();
    let module = fs::read(real.module("kernel/fs/fuse/fuse.ko")).unwrap();
    let at = module.windows(9).position(|w| w == b"vermagic=").unwrap();
    let mut other = module.clone();
    other[at + 11] = b'9';
    let ko = "rootfs/lib/modules/6.8.12-tegra/updates/fuse.ko";
    fs::write(it.l4t("kernel/dtb/board.dtb"), device_tree("disabled")).unwrap();
    fs::write(it.l4t(ko), &module).unwrap();
    it.write_overlay(ko, &other);
    it.write_overlay("kernel/dtb/board.dtb", device_tree("okay"));
    let packed = pack("zstd", &["-q"], &other);
    fs::write(
        it.l4t(ko).with_extension("ko.zst"),
        pack("zstd", &["-q"], &module),
    )
    .unwrap();
    it.write_overlay(format!("{ko}.zst"), packed);
    fs::remove_file(it.path("Source/.build-manifest.yaml")).unwrap();
    it.commit("a device tree and a module");
    let ran = it.promote(&["diff"]);
    assert!(
        ran.stdout.contains(
            "changed: kernel/dtb/board.dtb (overlay), a device tree\n\
             --- a/kernel/dtb/board.dtb\n+++ b/kernel/dtb/board.dtb\n"
        ),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout
            .contains("-\t\tstatus = \"disabled\";\n+\t\tstatus = \"okay\";\n")
    );
    let release = &real.release;
    let newer = release.replacen("6.1", "6.9", 1);
    let lines =
        format!("-vermagic={release} SMP mod_unload modversions aarch64\n+vermagic={newer} SMP");
    assert_eq!(ran.stdout.matches(&lines).count(), 2, "{}", ran.stdout);
    assert!(ran.stdout.contains("initramfs: to be rebuilt\n"));
    let all = differences(&it.promote(&["diff", "--json"]));
    assert_eq!(of(&all, ko)["kind"], "module");
    assert_eq!(of(&all, ko)["new"]["sha256"], sha256sum(&other));
    assert_eq!(of(&all, ko)["old"]["bytes"], module.len());
    assert_eq!(of(&all, ko)["place"], ko.replace("/lib", "/usr/lib"));
    assert_eq!(of(&all, "kernel/dtb/board.dtb")["kind"], "device-tree");
    // The same data in the dry run.
    assert_eq!(differences(&it.promote(&["--dry-run", "--json"])), all);
}

#[test]
fn a_device_tree_that_cannot_be_decompiled_says_why() {
    needs_root!();
    let it = settled();
    let dtb = "kernel/dtb/custom.dtbo";
    fs::write(it.l4t(dtb), device_tree("disabled")).unwrap();
    let whole = device_tree("okay");
    let mut lies = whole.clone();
    lies[36..40].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
    for (bytes, note) in [
        (
            &whole[..whole.len() - 9],
            "the new file is not decompiled: it is cut off or has wrong sizes",
        ),
        (
            &lies,
            "the new file is not decompiled: it is cut off or has wrong sizes",
        ),
        (
            &whole,
            "the new file is not decompiled: dtc is not installed",
        ),
    ] {
        it.write_overlay(dtb, bytes);
        it.commit("a device tree");
        // Only git is there, and no dtc.
        let bin = it.path("bin");
        let _ = fs::create_dir(&bin);
        let _ = symlink("/usr/bin/git", bin.join("git"));
        let ran = Ran::of(it.command().args(["diff", "--json"]).env("PATH", &bin));
        let all = differences(&ran);
        let found = of(&all, dtb);
        assert_eq!(
            (&found["note"], &found["text"]),
            (&note.into(), &Value::Null)
        );
        assert_eq!(found["new"]["sha256"], sha256sum(bytes));
        let said = Ran::of(it.command().args(["diff"]).env("PATH", &bin)).stdout;
        let sum = sha256sum(bytes);
        assert!(
            said.contains(&format!(" B, sha256 {sum}\n  note: {note}\n")),
            "{said}"
        );
    }
}

#[test]
fn other_files_and_symlinks_have_sizes_and_sums() {
    needs_root!();
    let it = settled();
    it.write_overlay("bootloader/board.conf", "\u{1b}[2Jerased\n");
    it.write_overlay("bootloader/new.bin", [0; 3000]);
    fs::remove_file(it.overlay().join("kernel/dtb/custom.dtbo")).unwrap();
    symlink("board.dtb", it.overlay().join("kernel/dtb/custom.dtbo")).unwrap();
    it.commit("no text");
    let ran = it.promote(&["diff"]);
    let sum = |text: &[u8]| sha256sum(text);
    let wanted = format!(
        "changed: bootloader/board.conf (overlay)\n  \
         old: 14 B, sha256 {}\n  new: 11 B, sha256 {}\n\
         new: bootloader/new.bin (overlay)\n  new: 2.93 KiB, sha256 {}\n\
         changed: kernel/dtb/custom.dtbo (overlay)\n  \
         old: 13 B, sha256 {}\n  new: symlink to board.dtb\n",
        sum(b"overlay board\n"),
        sum("\u{1b}[2Jerased\n".as_bytes()),
        sum(&[0; 3000]),
        sum(b"overlay dtbo\n"),
    );
    assert!(ran.stdout.starts_with(&wanted), "{}", ran.stdout);
}

#[test]
fn a_large_diff_is_cut_and_says_so() {
    needs_root!();
    let it = settled();
    let lines = |start: u32| -> String { (0..9000).map(|n| format!("{}\n", start + n)).collect() };
    fs::write(it.l4t("bootloader/board.conf"), lines(0)).unwrap();
    it.write_overlay("bootloader/board.conf", lines(100_000));
    it.commit("another text");
    let all = differences(&it.promote(&["diff", "--json"]));
    let found = of(&all, "bootloader/board.conf");
    assert_eq!(found["text"].as_str().unwrap().lines().count(), 2000);
    assert_eq!(found["note"], "16003 more lines of the diff are not shown");
}

#[test]
fn all_diffs_together_are_limited_and_say_so() {
    needs_root!();
    let it = settled();
    let text = format!("{}\n", "x".repeat(1000)).repeat(64);
    for n in 0..270 {
        it.write_overlay(format!("bootloader/{n:03}.conf"), &text);
    }
    it.commit("many files");
    let all = differences(&it.promote(&["diff", "--json"]));
    assert_eq!(all.len(), 270);
    let shown = all.iter().filter(|found| found["text"].is_string()).count();
    // Each has 64,064 bytes, a plus for each line, and the header.
    assert!((255..262).contains(&shown), "{shown}");
    let last = all.last().unwrap();
    let note = "not shown, because the diffs of the files before it are large";
    assert_eq!(
        (&last["note"], &last["new"]["bytes"]),
        (&note.into(), &64064.into())
    );
}

#[test]
fn exit_code_tells_whether_a_promote_would_change_anything() {
    needs_root!();
    let it = Workspace::new();
    let status = |args: &[&str]| it.promote(args).status;
    let before = it.everything_and_when();
    assert_eq!(status(&["diff"]), Some(0));
    assert_eq!(status(&["diff", "--exit-code"]), Some(1));
    assert_eq!(it.everything_and_when(), before, "diff writes nothing");
    assert_eq!(status(&["--no-initramfs"]), Some(0));
    // Only the initramfs is left to do.
    let ran = it.promote(&["diff", "--exit-code"]);
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stdout
            .starts_with("0 differences\ninitramfs: to be rebuilt\n")
    );
    assert_eq!(status(&[]), Some(0));
    assert_eq!(status(&["diff", "--exit-code"]), Some(0));
    assert_eq!(status(&["diff", "--exit-code", "--json"]), Some(0));
    // What promote refuses, diff refuses.
    it.write_overlay("bootloader/board.conf", "not committed\n");
    let ran = it.promote(&["diff", "--json"]);
    assert_eq!(ran.status, Some(1));
    assert!(ran.stdout.contains("\"code\": \"uncommitted-changes\""));
}

#[test]
fn diff_compares_another_commit_of_the_overlay() {
    needs_root!();
    let it = settled();
    it.write_overlay("bootloader/board.conf", "first\n");
    let first = it.commit("first");
    it.write_overlay("bootloader/board.conf", "second\n");
    it.commit("second");
    let ran = it.promote(&["diff", "--overlay-ref", &first]);
    assert!(
        ran.stdout.contains("-overlay board\n+first\n"),
        "{}",
        ran.stdout
    );
}

#[test]
fn what_only_root_can_read_is_unknown_to_others() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, None);
    let ran = Ran::of(user.promote(&it).args(["diff", "--exit-code", "--json"]));
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let all = differences(&ran);
    let found = of(&all, "rootfs/etc/nvpmodel/nvpmodel.conf");
    assert_eq!(found["change"], "unknown");
    assert_eq!(found["note"], "only root can read it");
    assert_eq!(found["old"], Value::Null);
    let path: PathBuf = Path::new("bootloader").join("board.conf");
    assert_eq!(of(&all, path.to_str().unwrap())["change"], "new");
}
