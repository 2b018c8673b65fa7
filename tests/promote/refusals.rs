//! Every row of the table of refusals: exit status 1, an error with its code and
//! help, and no change.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::needs_root;
use crate::support::{Ran, lbpayload};
use crate::workspace::Workspace;

/// Promotes, and expects a refusal with `code` and a message that contains `fact`.
#[track_caller]
pub(crate) fn refused(it: &Workspace, args: &[&str], code: &str, fact: &str) {
    let before = it.everything_and_when();
    failed(it.promote(&[args, &["--json"]].concat()), code, fact);
    assert_eq!(it.everything_and_when(), before);
    assert_eq!(it.refreshes(), 0);
}

/// Checks a run with `--json` that failed with `code`: the message contains `fact`,
/// and there is help. Standard error has the same lines, each with its label.
#[track_caller]
pub(crate) fn failed(ran: Ran, code: &str, fact: &str) {
    let ran = ran.exits(1);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let error = &json["error"];
    assert_eq!(error["code"], code, "{}", ran.stderr);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(fact), "no {fact:?} in: {message}");
    let help = error["help"][0].as_str().expect("the error has no help");
    for (label, text) in [("error", message), ("help", help)] {
        let line = format!("lbpayload: {label}: {text}\n");
        assert!(ran.stderr.contains(&line), "no {line:?} in: {}", ran.stderr);
        assert!(!text.contains(['\n', ';']), "{text}");
    }
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
    let args = ["promote", "--json"];
    let ran = Ran::of(lbpayload().args(args).current_dir(dir.path()));
    failed(ran, "no-workspace", dir.path().to_str().unwrap());
    let it = Workspace::new();
    remove(it.path("target-platform"));
    refused(&it, &[], "no-workspace", "target-platform/");
}

#[test]
fn resolve_finds_the_workspace_from_a_subdirectory() {
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
    for (text, code, fact) in [
        ("active: NA\n", "no-target", "active: NA"),
        ("active:\n", "no-target", pointer),
        ("{}\n", "no-target", pointer),
        ("active: gone.yaml\n", "no-target", "gone.yaml"),
        ("active: ../thor.yaml\n", "no-target", "same directory"),
        ("active: /etc/passwd\n", "no-target", "same directory"),
        ("active: [", "syntax", pointer),
    ] {
        it.put(pointer, text);
        refused(&it, &[], code, fact);
    }
    remove(it.path(pointer));
    refused(&it, &[], "no-target", pointer);
}

#[test]
fn resolve_without_the_image() {
    needs_root!();
    let it = Workspace::new();
    it.put("target-platform/thor.yaml", "source: {}\n");
    refused(&it, &[], "no-image", "bsp_image:");
    let elsewhere = it.path("nowhere");
    let text = format!(
        "bsp_image: {{root_path: {}}}\nsource: {{}}\n",
        elsewhere.display()
    );
    it.put("target-platform/thor.yaml", text);
    refused(&it, &[], "no-image", elsewhere.to_str().unwrap());
    for block in ["bsp_image", "source"] {
        let mut text = "bsp_image: {version: '1'}\nsource: {toolchain: x}\n".to_owned();
        text = text.replace(
            &format!("{block}: {{"),
            &format!("{block}: {{root_path: some/where, "),
        );
        it.put("target-platform/thor.yaml", text);
        refused(
            &it,
            &["--strict"],
            "deviation",
            &format!("{block}.root_path"),
        );
        it.put(
            "target-platform/thor.yaml",
            format!("bsp_image:\nsource:\n{block}: {{root_path: 7}}\n")
                .replace(&format!("{block}:\n"), ""),
        );
        refused(&it, &[], "bad-profile", &format!("{block}.root_path"));
    }
}

#[test]
fn resolve_image_without_rootfs_or_with_the_root_of_the_host() {
    needs_root!();
    let it = Workspace::new();
    fs::rename(it.l4t("rootfs"), it.path("rootfs")).unwrap();
    refused(&it, &[], "no-image", "/rootfs");
    symlink("/", it.l4t("rootfs")).unwrap();
    failed(it.promote(&["--json"]), "no-image", "this machine");
    fs::remove_file(it.l4t("rootfs")).unwrap();
    // A rootfs in another place works too.
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
    refused(&it, &[], "no-source", "not a git repository");
    // Inside another repository it is still not a repository of its own.
    it.git(&it.path(""), &["init", "-q"]);
    refused(&it, &[], "no-source", "not a git repository");
    remove(it.overlay());
    refused(&it, &[], "no-source", "no such directory");
    remove(it.path("Source"));
    it.put("target-platform/thor.yaml", "bsp_image: {version: '1'}\n");
    refused(&it, &[], "no-source", "source:");
}

#[test]
fn profile_with_missing_or_empty_blocks_uses_the_defaults() {
    needs_root!();
    let it = Workspace::new();
    it.put("target-platform/thor.yaml", "bsp_image:\nsource:\n");
    it.promote(&["--dry-run"]).exits(0);
    it.put("target-platform/thor.yaml", "bsp_image: {version: 38.2}\n");
    it.promote(&[]).exits(0);
}

#[test]
fn validate_an_overlay_with_uncommitted_changes() {
    const CODE: &str = "uncommitted-changes";
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("new\nfile", "x");
    refused(&it, &[], CODE, "new\\nfile");
    remove(it.overlay().join("new\nfile"));
    it.write_overlay("bootloader/board.conf", "edited");
    refused(&it, &[], CODE, "bootloader/board.conf");
    it.git(&it.overlay(), &["add", "-A"]);
    refused(&it, &[], CODE, "bootloader/board.conf");
    // A git setting that hides untracked files does not change this.
    it.git(&it.overlay(), &["reset", "-q", "--hard"]);
    it.git(
        &it.overlay(),
        &["config", "status.showUntrackedFiles", "no"],
    );
    it.write_overlay("hidden", "x");
    refused(&it, &[], CODE, "hidden");
}

#[test]
fn validate_an_invalid_manifest() {
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
        "- a\n- b\n".into(),
        good.replace("bsp_version: \"38.2.0\"", "bsp_version: [38]"),
        good.replace("artifacts:", "artifacts: {}\nother:"),
        good.replace("dirty_repos: []", "dirty_repos: 7"),
        good.replace("artifacts:", "artifacts: 7\nother:"),
    ];
    // Values that YAML does not parse as text are not accepted as text.
    for value in ["", "null", "~", "5", "0x1f", "1.5", "true", "[a]", "{a: b}"] {
        for key in ["src", "dst"] {
            let with = format!("    {key}: {value}");
            let lines = good
                .lines()
                .map(|line| match line.trim().strip_prefix(key) {
                    Some(rest) if rest.starts_with(':') => with.as_str(),
                    _ => line,
                });
            bad.push(lines.collect::<Vec<_>>().join("\n"));
        }
    }
    for key in ["src:", "dst:", "artifacts:"] {
        bad.push(without(key));
    }
    for text in bad {
        it.put("Source/.build-manifest.yaml", &text);
        refused(&it, &[], "syntax", ".build-manifest.yaml");
    }
    let state = it.path("Source/.build-state.yaml");
    it.put("Source/.build-manifest.yaml", &good);
    let good = fs::read_to_string(&state).unwrap();
    for text in [
        "repos: 7\n".to_owned(),
        "mode: full\n".to_owned(),
        good.replace("mode: full", "mode: [full]"),
        format!("{good}  short: 123\n"),
        format!("{good}  name: main\n"),
    ] {
        fs::write(&state, text).unwrap();
        refused(&it, &[], "syntax", ".build-state.yaml");
    }
    // A commit id of digits only is a number in YAML.
    fs::write(&state, format!("{good}  x: {}\n", "1".repeat(40))).unwrap();
    refused(&it, &[], "stale-build", "x was built");
}

#[test]
fn validate_with_nothing_to_promote() {
    needs_root!();
    let it = Workspace::empty();
    refused(&it, &[], "nothing-to-promote", "/Source");
}

#[test]
fn overlay_or_manifest_alone_is_sufficient() {
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
fn enumerate_a_source_that_is_missing_or_not_a_file() {
    needs_root!();
    let it = Workspace::new();
    let dir = it
        .path("Source/bsp_sources/nvidia-oot")
        .display()
        .to_string();
    let fifo = it.path("Source/fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (src, code) in [
        ("/no/such/file", "bad-source"),
        (&dir, "bad-source"),
        (fifo.to_str().unwrap(), "bad-source"),
        ("/dev/zero", "outside-workspace"),
        ("relative/file", "bad-source"),
    ] {
        it.manifest_of(&[(src.to_owned(), "kernel/x".into(), "dtb")]);
        refused(&it, &[], code, src);
    }
    let fifo = fifo.to_str().unwrap().to_owned();
    it.manifest_of(&[(fifo, "kernel/x".into(), "dtb")]);
    refused(&it, &[], "bad-source", "expected a file, found a FIFO");
}

#[test]
fn enumerate_an_invalid_destination() {
    needs_root!();
    let it = Workspace::new();
    let src = it.put("Source/built", "x").display().to_string();
    for (dst, what) in [
        ("/etc/passwd", "is absolute"),
        ("../../etc/passwd", "out of the image"),
        ("rootfs/../../x", "out of the image"),
        ("", "is empty"),
        ("kernel/", "ends in /"),
        ("kernel/\0x", "zero byte"),
        (".lbpayload/journal/000009.jsonl", "reserved"),
    ] {
        it.manifest_of(&[(src.clone(), dst.into(), "dtb")]);
        refused(&it, &[], "syntax", what);
    }
    it.manifest_of(&[(src.clone(), "tools".into(), "dtb")]);
    refused(&it, &[], "bad-destination", "/tools");
    it.manifest_of(&[(src.clone(), "rootfs".into(), "dtb")]);
    refused(&it, &[], "bad-destination", "/rootfs");
    let other = it.put("Source/other", "y").display().to_string();
    it.manifest_of(&[
        (src.clone(), "kernel/x".into(), "dtb"),
        (other, "kernel/./x".into(), "dtb"),
    ]);
    refused(&it, &[], "conflict", "kernel/x");
    it.manifest_of(&[
        (src.clone(), "kernel/x".into(), "dtb"),
        (src, "kernel/x".into(), "dtb"),
    ]);
    it.promote(&[]).exits(0);
}

#[test]
fn missing_initramfs_tool_is_reported_before_writing() {
    const CODE: &str = "no-initramfs-tool";
    needs_root!();
    let it = Workspace::new();
    let tool = it.l4t("tools/l4t_update_initrd.sh");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&it, &[], CODE, "not executable");
    remove(&tool);
    refused(&it, &[], CODE, "no such file");
    let ran = it.promote(&["--no-initramfs"]).exits(0);
    assert!(
        ran.stdout
            .contains("initramfs: skipped as requested, still due")
    );
    // The rebuild stays due, so the next run needs the tool too and reports it.
    failed(it.promote(&["--json"]), CODE, "no such file");
}

#[test]
fn symlink_that_leads_out_of_the_image_is_refused() {
    needs_root!();
    let it = Workspace::new();
    symlink("/tmp", it.l4t("bootloader/out")).unwrap();
    symlink("../rootfs/etc", it.l4t("bootloader/rootfs-etc")).unwrap();
    symlink("round", it.l4t("bootloader/round")).unwrap();
    symlink("../.lbpayload", it.l4t("bootloader/ours")).unwrap();
    symlink("/.lbpayload-staging", it.l4t("rootfs/etc/ours")).unwrap();
    for (name, code, fact) in [
        ("bootloader/out/x", "bad-symlink", "out of the image"),
        ("bootloader/rootfs-etc/x", "bad-symlink", "into rootfs/"),
        ("bootloader/round", "bad-symlink", "loop"),
        ("bootloader/ours/x", "bad-symlink", "reserved"),
        ("rootfs/etc/ours/0", "bad-symlink", "reserved"),
        ("kernel/Image/x", "bad-destination", "kernel/Image/x"),
    ] {
        let path = it.write_overlay(name, "x");
        it.commit("out");
        refused(&it, &[], code, fact);
        remove(path);
        it.commit("not any more");
    }
}

#[test]
fn submodule_is_refused_and_named() {
    needs_root!();
    let it = Workspace::new();
    let other = it.path("Source/bsp_sources/nvidia-oot");
    let url = other.to_str().unwrap().to_owned();
    it.git(&it.overlay(), &["submodule", "add", "-q", &url, "lib/sub"]);
    it.commit("a submodule");
    refused(&it, &[], "bad-overlay", "lib/sub");
}

#[test]
fn missing_git_is_reported() {
    needs_root!();
    let it = Workspace::new();
    let before = it.everything_and_when();
    let ran = Ran::of(it.command().arg("--json").env("PATH", "/nonexistent"));
    failed(ran, "no-git", "git");
    assert_eq!(it.everything_and_when(), before);
    assert!(
        Command::new("git")
            .arg("--version")
            .status()
            .unwrap()
            .success()
    );
}
