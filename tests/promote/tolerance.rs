//! Files of a workspace as people and agents write them: what deviates from the schemas is
//! accepted with one warning that names the field, and refused with `--strict`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::needs_root;
use crate::refusals::{failed, refused};
use crate::support::Ran;
use crate::user::User;
use crate::workspace::Workspace;

const MANIFEST: &str = "Source/.build-manifest.yaml";
const STATE: &str = "Source/.build-state.yaml";
const PROFILE: &str = "target-platform/thor.yaml";
const POINTER: &str = "target-platform/active_target.yml";

fn dry_run(it: &Workspace, args: &[&str]) -> Ran {
    let mut command = it.command();
    command.args(["--dry-run", "--json"]).args(args);
    Ran::of(command.env("HOME", it.path("")))
}

/// Expects one warning about `field` of the file `name`, `count` times, and a refusal with
/// `--strict`.
#[track_caller]
fn warns(it: &Workspace, name: &str, field: &str, count: u64) {
    let ran = dry_run(it, &[]).exits(0);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let warnings = told["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{field}: {warnings:?}");
    let warning = &warnings[0];
    assert_eq!(warning["field"], field, "{warning}");
    assert_eq!(warning["count"], count, "{warning}");
    assert!(
        warning["path"].as_str().unwrap().ends_with(name),
        "{warning}"
    );
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{}", ran.stderr);
    let line = lines[0].strip_prefix("lbpayload: warning: `").unwrap();
    assert!(line.contains(&format!("`{field}` ")), "{line}");
    assert_eq!(line.contains("more of this kind"), count > 1, "{line}");
    let code = match warning["message"].as_str().unwrap().contains("two sources") {
        true => "conflict",
        false => "deviation",
    };
    let ran = dry_run(it, &["--strict"]);
    match code {
        "conflict" => failed(ran, code, "two different files"),
        _ => failed(ran, code, field),
    }
}

/// Writes the file `name` as `change` makes it, expects one warning, and restores the file.
#[track_caller]
fn changed(it: &Workspace, name: &str, change: impl Fn(&str) -> String, field: &str, count: u64) {
    let good = fs::read_to_string(it.path(name)).unwrap();
    let text = change(&good);
    assert_ne!(text, good, "{field}: nothing was changed");
    it.put(name, &text);
    warns(it, name, field, count);
    it.put(name, &good);
}

/// A text without the lines of a field.
fn without(text: &str, field: &str) -> String {
    let is_field = |line: &&str| line.trim_start_matches([' ', '-']).starts_with(field);
    let lines = text.lines().filter(|line| !is_field(line));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn conforming_files_cause_no_warning_and_are_accepted_by_strict() {
    needs_root!();
    let it = Workspace::new();
    let ran = dry_run(&it, &["--strict"]).exits(0);
    assert_eq!(ran.stderr, "");
    assert!(ran.stdout.contains("\"warnings\": []"), "{}", ran.stdout);
}

#[test]
fn unknown_and_missing_fields_of_the_manifest_are_warnings() {
    needs_root!();
    let it = Workspace::new();
    let change = |with: &str, field: &str, count| {
        let with = with.to_owned();
        changed(&it, MANIFEST, |good| format!("{with}{good}"), field, count);
    };
    change("size: 1\n", "size", 1);
    change("notes: {by: [an, agent]}\n", "notes", 1);
    change("\u{feff}", "(start)", 1);
    let more = |good: &str| good.replace("    src:", "    size: 7\n    src:");
    changed(&it, MANIFEST, more, "artifacts[].size", 4);
    for field in ["toolchain", "mode", "bsp_version", "rebuilt_at"] {
        changed(&it, MANIFEST, |good| without(good, field), field, 1);
        for none in ["", "null", "~"] {
            let none = |good: &str| format!("{field}: {none}\n{}", without(good, field));
            changed(&it, MANIFEST, none, field, 1);
        }
    }
    let field = "artifacts[].source_repo";
    changed(&it, MANIFEST, |good| without(good, "source_repo"), field, 4);
    let none = |good: &str| good.replace("source_repo: nvidia-oot", "source_repo: null");
    changed(&it, MANIFEST, none, field, 4);
}

#[test]
fn other_words_and_types_in_the_manifest_are_warnings() {
    needs_root!();
    let it = Workspace::new();
    let replace = |old: &str, new: &str, field: &str, count| {
        changed(&it, MANIFEST, |good| good.replace(old, new), field, count);
    };
    for mode in ["DT", "Full", "everything", "7"] {
        replace("mode: full", &format!("mode: {mode}"), "mode", 1);
    }
    for kind in ["DTB", "dtbo", "kernel-image", "config", "7", "null"] {
        replace("kind: dtb", &format!("kind: {kind}"), "artifacts[].kind", 1);
    }
    let bare = "- {src: ";
    let no_kind = |good: &str| {
        let good = good.replace("  - kind: dtb\n    src:", "  - src:");
        assert!(!good.contains(bare));
        good
    };
    changed(&it, MANIFEST, no_kind, "artifacts[].kind", 1);
    replace("\"38.2.0\"", "38.4", "bsp_version", 1);
    replace("2026-05-01T10:00:00Z", "1714557600", "rebuilt_at", 1);
    for repos in [
        "[nvidia-oot]",
        "{nvidia-oot: 1234567}",
        "[{nvidia-oot: 1234567, kernel/kernel-noble: 1e5}]",
        "{}",
        "nvidia-oot",
    ] {
        let new = format!("dirty_repos: {repos}");
        replace("dirty_repos: []", &new, "dirty_repos", 1);
    }
    // A version keeps its zero.
    let good = fs::read_to_string(it.path(MANIFEST)).unwrap();
    it.put(MANIFEST, good.replace("\"38.2.0\"", "38.10"));
    let ran = dry_run(&it, &[]).exits(0);
    assert!(ran.stdout.contains("bsp_version=38.10,"), "{}", ran.stdout);
}

#[test]
fn relative_sources_and_other_forms_of_a_destination_are_warnings() {
    needs_root!();
    let it = Workspace::new();
    it.put("Source/built", "new\n");
    let image = it.l4t("kernel/new.dtb");
    let source = it.path("Source/built").display().to_string();
    let dst = "artifacts[].dst";
    for (src, dst, field) in [
        ("built", "kernel/new.dtb", "artifacts[].src"),
        ("./built", "kernel/new.dtb", "artifacts[].src"),
        ("bsp_sources/../built", "kernel/new.dtb", "artifacts[].src"),
        (&*source, "Linux_for_Tegra/kernel/new.dtb", dst),
        (&*source, "/kernel/new.dtb", dst),
        (&*source, image.to_str().unwrap(), dst),
    ] {
        it.manifest_of(&[(src.into(), dst.into(), "dtb")]);
        warns(&it, MANIFEST, field, 1);
        it.promote(&["--no-initramfs"]).exits(0);
        assert_eq!(it.read("kernel/new.dtb"), "new\n");
        it.action(&["rollback", "--no-initramfs"]).exits(0);
    }
    // The meaning of this one is plain.
    it.manifest_of(&[(source.clone(), "./kernel/new.dtb".into(), "dtb")]);
    dry_run(&it, &["--strict"]).exits(0);
    for (dst, fact) in [
        ("/tmp/x", "is absolute"),
        ("/kernel/../x", "out of the image"),
        ("Linux_for_Tegra/../x", "out of the image"),
        ("Linux_for_Tegra/", "directory"),
    ] {
        it.manifest_of(&[(source.clone(), dst.into(), "dtb")]);
        refused(&it, &[], "syntax", fact);
    }
}

#[test]
fn two_sources_with_the_same_bytes_are_a_warning_and_with_different_bytes_a_conflict() {
    needs_root!();
    let it = Workspace::new();
    let source = |name: &str, text: &str| {
        let path = it.put(format!("Source/{name}"), text);
        path.to_str().unwrap().to_owned()
    };
    let twice = |a: &str, b: &str| {
        it.manifest_of(&[
            (a.into(), "kernel/x".into(), "dtb"),
            (b.into(), "kernel/x".into(), "dtb"),
        ]);
    };
    twice(&source("a", "same"), &source("b", "same"));
    warns(&it, MANIFEST, "artifacts[].dst", 1);
    twice(&source("a", "same"), &source("b", "more"));
    refused(&it, &["--no-initramfs"], "conflict", "kernel/x");
}

#[test]
fn deviations_of_the_state_are_warnings() {
    needs_root!();
    let it = Workspace::new();
    let replace = |old: &str, new: &str, field: &str| {
        changed(&it, STATE, |good| good.replace(old, new), field, 1);
    };
    replace("repos:", "built_by: an agent\nrepos:", "built_by");
    for field in ["mode", "toolchain", "bsp_version"] {
        changed(&it, STATE, |good| without(good, field), field, 1);
    }
    let oot = it.path("Source/bsp_sources/nvidia-oot");
    let id = it.git(&oot, &["rev-parse", "HEAD"]);
    for (new, field) in [
        (id[..7].to_owned(), "repos.*"),
        (id[..4].to_owned(), "repos.*"),
        ("null".into(), "repos.*"),
        (String::new(), "repos.*"),
        ("NA".into(), "repos.*"),
    ] {
        let field = field.to_owned();
        replace(
            &format!("nvidia-oot: {id}"),
            &format!("nvidia-oot: {new}"),
            &field,
        );
    }
    let upper = format!("nvidia-oot: {}", id.to_ascii_uppercase());
    if id.bytes().any(|b| b.is_ascii_lowercase()) {
        replace(&format!("nvidia-oot: {id}"), &upper, "repos.*");
    }
    replace("  nvidia-oot:", "  bsp_sources/nvidia-oot:", "repos.*");
    // A short id of another commit is still another commit.
    let good = fs::read_to_string(it.path(STATE)).unwrap();
    it.put(STATE, good.replace(&id, "0123456"));
    refused(&it, &[], "stale-build", "nvidia-oot is at ");
    for id in ["HEAD", "main", "--all", "123", "v1.2", "@{u}", "[1, 2]"] {
        it.put(
            STATE,
            good.replace(&format!(": {}", &good_id(&good)), &format!(": '{id}'")),
        );
        refused(&it, &[], "syntax", ".build-state.yaml");
    }
}

/// The first commit id of a state file.
fn good_id(state: &str) -> String {
    let line = state.lines().find(|line| line.contains("kernel-noble:"));
    line.unwrap().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn other_forms_of_the_pointer_and_of_the_profile_are_warnings() {
    needs_root!();
    let it = Workspace::new();
    for active in ["thor", "./thor.yaml", "target-platform/thor.yaml", "./thor"] {
        it.put(POINTER, format!("active: {active}\n"));
        warns(&it, POINTER, "active", 1);
    }
    it.put(POINTER, "active: na\n");
    refused(&it, &[], "no-target", "active: NA");
    fs::remove_file(it.path(POINTER)).unwrap();
    it.put("target-platform/active_target.yaml", "active: thor.yaml\n");
    warns(&it, "active_target.yaml", "(name)", 1);
    for path in ["NA", "na", "~/Image", "Image", "./Image"] {
        let text = format!("bsp_image: {{root_path: {path}}}\nsource: {{}}\n");
        it.put("target-platform/active_target.yml", "active: thor.yaml\n");
        it.put(PROFILE, text);
        warns(&it, PROFILE, "bsp_image.root_path", 1);
    }
    for path in ["NA", "~/Source", "Source"] {
        it.put(
            PROFILE,
            format!("bsp_image:\nsource: {{root_path: {path}}}\n"),
        );
        warns(&it, PROFILE, "source.root_path", 1);
    }
    it.put(PROFILE, "bsp_image:\nsource: NA\n");
    warns(&it, PROFILE, "source", 1);
}

#[test]
fn two_documents_and_duplicate_keys_are_refused() {
    needs_root!();
    let it = Workspace::new();
    for name in [MANIFEST, STATE, PROFILE, POINTER] {
        let good = fs::read_to_string(it.path(name)).unwrap();
        let first = good.lines().next().unwrap();
        for bad in [format!("{good}---\n{good}"), format!("{first}\n{good}")] {
            if name == PROFILE && !bad.contains("---") {
                // The first block is one that promote does not know.
                continue;
            }
            it.put(name, bad);
            refused(&it, &[], "syntax", name.rsplit('/').next().unwrap());
        }
        it.put(name, good);
    }
    let good = fs::read_to_string(it.path(STATE)).unwrap();
    it.put(STATE, format!("{good}  nvidia-oot: {}\n", "1".repeat(40)));
    refused(&it, &[], "syntax", "duplicate");
}

#[test]
fn source_outside_of_the_workspace_is_refused_unless_it_is_allowed() {
    needs_root!();
    const CODE: &str = "outside-workspace";
    let it = Workspace::new();
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("built");
    fs::write(&file, "outside\n").unwrap();
    symlink(&file, it.path("Source/link")).unwrap();
    symlink(outside.path(), it.path("Source/dir")).unwrap();
    let inside = it.path("Source");
    let name = |path: &Path| path.to_str().unwrap().to_owned();
    for src in [
        "/etc/hostname".to_owned(),
        name(&file),
        name(&inside.join("link")),
        name(&inside.join("dir/built")),
        name(&inside.join("../../../../../../../etc/hostname")),
    ] {
        it.manifest_of(&[(src.clone(), "kernel/x".into(), "dtb")]);
        refused(&it, &["--no-initramfs"], CODE, &src);
    }
    it.manifest_of(&[(name(&inside.join("link")), "kernel/x".into(), "dtb")]);
    it.promote(&["--no-initramfs", "--allow-outside"]).exits(0);
    assert_eq!(it.read("kernel/x"), "outside\n");
    // A repository behind a symlink belongs to the sources.
    let oot = it.path("Source/bsp_sources/nvidia-oot");
    let moved = outside.path().join("oot");
    crate::support::check(std::process::Command::new("mv").arg(&oot).arg(&moved));
    symlink(&moved, &oot).unwrap();
    fs::write(moved.join("nv.ko"), "nv\n").unwrap();
    it.manifest_of(&[(name(&oot.join("nv.ko")), "kernel/y".into(), "oot_module")]);
    it.promote(&["--no-initramfs"]).exits(0);
    assert_eq!(it.read("kernel/y"), "nv\n");
}

#[test]
fn broken_repository_and_unreadable_folder_in_the_sources_are_named_and_not_fatal() {
    needs_root!();
    let it = Workspace::new();
    it.put("Source/bsp_sources/broken/.git", "gitdir: /nowhere\n");
    it.put("Source/bsp_sources/garbage/.git", "garbage\n");
    it.put("Source/bsp_sources/empty/.git/x", "");
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    let locked = it.put("Source/bsp_sources/locked/x", "");
    let locked = locked.parent().unwrap();
    fs::set_permissions(locked, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::lchown(locked, Some(0), Some(0)).unwrap();
    let ran = Ran::of(user.promote(&it).arg("--dry-run")).exits(0);
    for fact in ["broken", "garbage", "empty", "locked"] {
        let named = |line: &&str| line.starts_with("note: ") && line.contains(fact);
        assert!(
            ran.stdout.lines().any(|line| named(&line)),
            "{fact}: {}",
            ran.stdout
        );
    }
}
