//! Every row of the refusal table: status 1, one line that says what is wrong and what
//! to do, and nothing changed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::needs_root;
use crate::support::{Ran, lbpayload};
use crate::workspace::Workspace;

/// Promotes, and is refused for `what` with the advice `next`.
#[track_caller]
pub(crate) fn refused(it: &Workspace, args: &[&str], what: &str, next: &str) {
    let before = it.everything_and_when();
    let ran = it.promote(args).exits(1);
    assert_eq!(ran.stdout, "");
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(
        ran.stderr.starts_with("lbpayload: error: "),
        "{}",
        ran.stderr
    );
    for part in [what, next] {
        assert!(ran.stderr.contains(part), "no {part:?} in: {}", ran.stderr);
    }
    assert_eq!(it.everything_and_when(), before);
    assert_eq!(it.refreshes(), 0);
}

fn remove(path: impl AsRef<Path>) {
    let path = path.as_ref();
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn resolve_without_a_workspace() {
    needs_root!();
    let dir = tempfile::tempdir().unwrap();
    let ran = Ran::of(lbpayload().arg("promote").current_dir(dir.path())).exits(1);
    assert!(
        ran.stderr.contains("holds target-platform/; "),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("--workspace"), "{}", ran.stderr);
    let it = Workspace::new();
    remove(it.path("target-platform"));
    refused(&it, &[], "it is no workspace", "init a target");
}

#[test]
fn resolve_finds_the_workspace_from_below() {
    needs_root!();
    let it = Workspace::new();
    let below = it.path("Source/bsp_sources/nvidia-oot");
    let args = ["promote", "--dry-run"];
    let ran = Ran::of(lbpayload().args(args).current_dir(below)).exits(0);
    assert!(ran.stdout.contains("overlay HEAD"), "{}", ran.stdout);
}

#[test]
fn resolve_without_an_active_profile() {
    needs_root!();
    let it = Workspace::new();
    let pointer = "target-platform/active_target.yml";
    for (text, what) in [
        ("active: NA\n", "active: NA"),
        ("active:\n", "names no active target"),
        ("{}\n", "names no active target"),
        ("active: gone.yaml\n", "points to it, and it is not there"),
        ("active: ../thor.yaml\n", "no file beside it"),
        ("active: /etc/passwd\n", "no file beside it"),
        ("active: [", "reading "),
    ] {
        it.put(pointer, text);
        refused(&it, &[], what, "set the active target, or init one");
    }
    remove(it.path(pointer));
    refused(
        &it,
        &[],
        "there is no active target",
        "set the active target",
    );
}

#[test]
fn resolve_without_the_image() {
    needs_root!();
    let it = Workspace::new();
    it.put("target-platform/thor.yaml", "source: {}\n");
    refused(&it, &[], "no block bsp_image:", "; init the image");
    let elsewhere = it.path("nowhere");
    let text = format!(
        "bsp_image: {{root_path: {}}}\nsource: {{}}\n",
        elsewhere.display()
    );
    it.put("target-platform/thor.yaml", text);
    refused(&it, &[], "the BSP image is not there", "; init the image");
    for block in ["bsp_image", "source"] {
        let mut text = "bsp_image: {version: '1'}\nsource: {toolchain: x}\n".to_owned();
        text = text.replace(
            &format!("{block}: {{"),
            &format!("{block}: {{root_path: some/where, "),
        );
        it.put("target-platform/thor.yaml", text);
        refused(
            &it,
            &[],
            &format!("{block}.root_path is not absolute"),
            "an absolute path",
        );
    }
}

#[test]
fn an_image_without_rootfs_or_with_the_hosts() {
    needs_root!();
    let it = Workspace::new();
    fs::rename(it.l4t("rootfs"), it.path("rootfs")).unwrap();
    refused(&it, &[], "rootfs: it is not there", "; init the image");
    symlink("/", it.l4t("rootfs")).unwrap();
    let ran = it.promote(&[]).exits(1);
    ran.says("rootfs: it is this machine's own root; init the image");
    fs::remove_file(it.l4t("rootfs")).unwrap();
    // One that lies elsewhere is as good.
    symlink(it.path("rootfs"), it.l4t("rootfs")).unwrap();
    it.promote(&[]).exits(0);
    assert!(
        it.path("rootfs/usr/lib/modules/6.8.12-tegra/updates/nv.ko")
            .exists()
    );
}

#[test]
fn resolve_without_the_source() {
    needs_root!();
    let it = Workspace::new();
    remove(it.overlay().join(".git"));
    refused(&it, &[], "no git repository", "; init the source");
    // Inside another repository it is none either.
    it.git(&it.path(""), &["init", "-q"]);
    refused(&it, &[], "no git repository", "; init the source");
    remove(it.overlay());
    refused(
        &it,
        &[],
        "the overlay tracker is not there",
        "; init the source",
    );
    remove(it.path("Source"));
    it.put("target-platform/thor.yaml", "bsp_image: {version: '1'}\n");
    refused(&it, &[], "no block source:", "; init the source");
}

#[test]
fn a_profile_without_a_source_block_uses_the_default_tree_and_bare_blocks_the_defaults() {
    needs_root!();
    let it = Workspace::new();
    it.put("target-platform/thor.yaml", "bsp_image:\nsource:\n");
    it.promote(&["--dry-run"]).exits(0);
    it.put("target-platform/thor.yaml", "bsp_image: {version: 38.2}\n");
    it.promote(&[]).exits(0);
}

#[test]
fn validate_a_changed_overlay() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("new\nfile", "x");
    refused(
        &it,
        &[],
        "uncommitted changes: new\\nfile",
        "commit or stash",
    );
    remove(it.overlay().join("new\nfile"));
    it.write_overlay("bootloader/board.conf", "edited");
    refused(
        &it,
        &[],
        "uncommitted changes: bootloader/board.conf",
        "commit or stash",
    );
    it.git(&it.overlay(), &["add", "-A"]);
    refused(
        &it,
        &[],
        "uncommitted changes: bootloader/board.conf",
        "commit or stash",
    );
    // Neither does a setting hide what is untracked.
    it.git(&it.overlay(), &["reset", "-q", "--hard"]);
    it.git(
        &it.overlay(),
        &["config", "status.showUntrackedFiles", "no"],
    );
    it.write_overlay("hidden", "x");
    refused(&it, &[], "uncommitted changes: hidden", "commit or stash");
}

#[test]
fn validate_a_manifest_that_is_none() {
    needs_root!();
    let it = Workspace::new();
    let good = fs::read_to_string(it.path("Source/.build-manifest.yaml")).unwrap();
    let without = |key: &str| -> String {
        let lines = good
            .lines()
            .filter(|l| !l.trim_start_matches("  - ").trim().starts_with(key));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let mut bad = vec![
        "mode: [".to_owned(),
        "just text".to_owned(),
        String::new(),
        good.replace("mode: full", "mode: some"),
        good.replace("kind: dtb", "kind: other"),
        good.replace("bsp_version: \"38.2.0\"", "bsp_version: [38]"),
        good.replace("artifacts:", "artifacts: {}\nother:"),
        format!("{good}unknown: 1\n"),
        good.replace("dirty_repos: []", "dirty_repos: 7"),
        good.replace("artifacts:", "artifacts: 7\nother:"),
    ];
    // What YAML takes for something else than a text is not taken for one.
    for value in ["", "null", "~", "5", "0x1f", "1.5", "true", "[a]", "{a: b}"] {
        for key in ["src", "dst", "source_repo"] {
            let with = format!("    {key}: {value}");
            let lines = good
                .lines()
                .map(|line| match line.trim().strip_prefix(key) {
                    Some(rest) if rest.starts_with(':') => with.as_str(),
                    _ => line,
                });
            bad.push(lines.collect::<Vec<_>>().join("\n"));
        }
        let with = |line: &str, key: &str| good.replace(line, &format!("{key}: {value}"));
        bad.push(with("toolchain: /opt/x-", "toolchain"));
        bad.push(with("bsp_version: \"38.2.0\"", "bsp_version"));
        bad.push(with("rebuilt_at: 2026-05-01T10:00:00Z", "rebuilt_at"));
    }
    for key in [
        "mode:",
        "toolchain:",
        "bsp_version:",
        "rebuilt_at:",
        "src:",
        "dst:",
        "source_repo:",
    ] {
        bad.push(without(key));
    }
    for text in bad {
        it.put("Source/.build-manifest.yaml", &text);
        refused(&it, &[], "reading ", "; rebuild");
    }
    let state = it.path("Source/.build-state.yaml");
    it.put("Source/.build-manifest.yaml", &good);
    let good = fs::read_to_string(&state).unwrap();
    for text in [
        "repos: 7\n".to_owned(),
        "repos: {}\n".to_owned(),
        good.replace("mode: full", "mode: none"),
        format!("{good}  short: 1234567\n"),
        format!("{good}  none:\n"),
    ] {
        fs::write(&state, text).unwrap();
        refused(&it, &[], ".build-state.yaml", "; rebuild");
    }
    // One of digits only is an id, and a number to YAML.
    fs::write(&state, format!("{good}  x: {}\n", "1".repeat(40))).unwrap();
    refused(&it, &[], "x was built, and is no repository", "build");
}

#[test]
fn validate_with_nothing_to_promote() {
    needs_root!();
    let it = Workspace::empty();
    refused(&it, &[], "nothing to promote", "customize or build first");
}

#[test]
fn one_channel_is_enough() {
    needs_root!();
    let it = Workspace::empty();
    it.write_overlay("bootloader/board.conf", "x");
    it.commit("first");
    let ran = it.promote(&["--no-initramfs"]).exits(0);
    assert!(
        ran.stdout.contains("manifest: (absent)\n"),
        "{}",
        ran.stdout
    );
    let it = Workspace::empty();
    it.manifest(&[("kernel/dtb/board.dtb", "dtb", "new")]);
    it.state();
    let ran = it.promote(&["--no-initramfs"]).exits(0);
    assert!(ran.stdout.contains("overlay: (empty)\n"), "{}", ran.stdout);
    assert_eq!(it.read("kernel/dtb/board.dtb"), "new");
}

#[test]
fn enumerate_a_source_that_is_not_there_or_no_file() {
    needs_root!();
    let it = Workspace::new();
    let dir = it
        .path("Source/bsp_sources/nvidia-oot")
        .display()
        .to_string();
    let fifo = it.path("Source/fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (src, what) in [
        ("/no/such/file", "opening /no/such/file: No such file"),
        (&dir, "no regular file"),
        (fifo.to_str().unwrap(), "no regular file"),
        ("/dev/zero", "no regular file"),
        ("relative/file", "src \"relative/file\" is not absolute"),
    ] {
        it.manifest_of(&[(src.to_owned(), "kernel/x".into(), "dtb")]);
        refused(&it, &[], what, "; rebuild");
    }
}

#[test]
fn enumerate_a_destination_that_is_none() {
    needs_root!();
    let it = Workspace::new();
    let src = it.put("Source/built", "x").display().to_string();
    for (dst, what) in [
        ("/etc/passwd", "is absolute"),
        ("../../etc/passwd", "may climb out"),
        ("rootfs/../../x", "may climb out"),
        ("", "is empty"),
        ("kernel/", "ends in /"),
        ("kernel/\0x", "zero byte"),
        (".lbpayload/journal/000009.jsonl", "keeps for itself"),
    ] {
        it.manifest_of(&[(src.clone(), dst.into(), "dtb")]);
        refused(&it, &[], what, "; rebuild");
    }
    it.manifest_of(&[(src.clone(), "tools".into(), "dtb")]);
    refused(&it, &[], "a directory is there", "name a file in it");
    it.manifest_of(&[(src.clone(), "rootfs".into(), "dtb")]);
    refused(&it, &[], "a directory is there", "name a file in it");
    let other = it.put("Source/other", "y").display().to_string();
    it.manifest_of(&[
        (src.clone(), "kernel/x".into(), "dtb"),
        (other, "kernel/./x".into(), "dtb"),
    ]);
    refused(
        &it,
        &[],
        "names it twice with different sources",
        "; rebuild",
    );
    it.manifest_of(&[
        (src.clone(), "kernel/x".into(), "dtb"),
        (src, "kernel/x".into(), "dtb"),
    ]);
    it.promote(&[]).exits(0);
}

#[test]
fn a_missing_initramfs_tool_is_told_before_anything_is_written() {
    needs_root!();
    let it = Workspace::new();
    let tool = it.l4t("tools/l4t_update_initrd.sh");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&it, &[], "not executable", "chmod +x");
    remove(&tool);
    refused(&it, &[], "this tool is missing", "init the image");
    let ran = it.promote(&["--no-initramfs"]).exits(0);
    assert!(
        ran.stdout
            .contains("initramfs: skipped (--no-initramfs; it is still due)")
    );
    // It stays due, so the next one needs the tool, and says so.
    let ran = it.promote(&[]).exits(1);
    assert!(
        ran.stderr.contains("this tool is missing"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_symlink_that_leads_out_of_the_image_is_refused() {
    needs_root!();
    let it = Workspace::new();
    symlink("/tmp", it.l4t("bootloader/out")).unwrap();
    symlink("../rootfs/etc", it.l4t("bootloader/rootfs-etc")).unwrap();
    symlink("round", it.l4t("bootloader/round")).unwrap();
    for (name, what, next) in [
        (
            "bootloader/out/x",
            "leads out of the image",
            "remove the symlink",
        ),
        (
            "bootloader/rootfs-etc/x",
            "leads into rootfs/",
            "under rootfs/",
        ),
        ("bootloader/round", "round in circles", "remove one"),
        ("kernel/Image/x", "is no directory", "name another"),
    ] {
        let path = it.write_overlay(name, "x");
        it.commit("out");
        refused(&it, &[], what, next);
        remove(path);
        it.commit("not any more");
    }
}

#[test]
fn a_submodule_is_refused_by_name() {
    needs_root!();
    let it = Workspace::new();
    let other = it.path("Source/bsp_sources/nvidia-oot");
    let url = other.to_str().unwrap().to_owned();
    it.git(&it.overlay(), &["submodule", "add", "-q", &url, "lib/sub"]);
    it.commit("a submodule");
    refused(&it, &[], "lib/sub: it is a submodule", "track its files");
}

#[test]
fn a_machine_without_git_is_told() {
    needs_root!();
    let it = Workspace::new();
    let before = it.everything_and_when();
    let ran = Ran::of(it.command().env("PATH", "/nonexistent")).exits(1);
    assert!(ran.stderr.contains("; install git"), "{}", ran.stderr);
    assert_eq!(it.everything_and_when(), before);
    assert!(
        Command::new("git")
            .arg("--version")
            .status()
            .unwrap()
            .success()
    );
}
