//! The overlay as a git repository: upstreams, worktrees, other commits, other users.

use std::fs;
use std::os::unix::fs::symlink;

use crate::needs_root;
use crate::refusals::{failed, refused};
use crate::support::{Mounted, Ran};
use crate::user::User;
use crate::workspace::Workspace;

/// Gives the overlay an upstream: a bare repository next to it.
fn upstream(it: &Workspace) -> std::path::PathBuf {
    let bare = it.path("upstream.git");
    it.git(
        &it.path(""),
        &["init", "-q", "--bare", "-b", "main", "upstream.git"],
    );
    let overlay = it.overlay();
    it.git(
        &overlay,
        &["remote", "add", "origin", bare.to_str().unwrap()],
    );
    it.git(&overlay, &["push", "-q", "-u", "origin", "main"]);
    bare
}

/// Another clone pushes a commit.
fn push_from_elsewhere(it: &Workspace) {
    let bare = it.path("upstream.git");
    it.git(
        &it.path(""),
        &["clone", "-q", bare.to_str().unwrap(), "colleague"],
    );
    let clone = it.path("colleague");
    it.put("colleague/bootloader/theirs.conf", "theirs\n");
    it.git(&clone, &["add", "-A"]);
    it.git(&clone, &["commit", "-qm", "theirs"]);
    it.git(&clone, &["push", "-q"]);
}

#[test]
fn upstream_commits_that_were_not_pulled_are_a_collision() {
    needs_root!();
    let it = Workspace::new();
    upstream(&it);
    let ran = it.promote(&["--dry-run"]).exits(0);
    assert!(
        ran.stdout
            .contains("collision: none, up to date with origin/main\n"),
        "{}",
        ran.stdout
    );
    // A ref whose name only ends the same way is another branch.
    let overlay = it.overlay();
    it.git(
        &overlay,
        &["push", "-q", "origin", "HEAD:refs/aside/refs/heads/main"],
    );
    let decoy = it.git(&overlay, &["commit-tree", "-m", "x", "HEAD^{tree}"]);
    let to = format!("{decoy}:refs/a/refs/heads/main");
    it.git(&overlay, &["push", "-q", "origin", &to]);
    it.promote(&["--dry-run"]).exits(0);
    push_from_elsewhere(&it);
    // With --offline only the result of the last fetch is known.
    it.promote(&["--dry-run", "--offline"]).exits(0);
    let refs = it.git(&it.overlay(), &["for-each-ref"]);
    refused(&it, &["--dry-run"], "behind-upstream", "origin/main");
    assert_eq!(it.git(&it.overlay(), &["for-each-ref"]), refs);
    refused(&it, &[], "behind-upstream", "origin/main");
    assert_ne!(it.git(&it.overlay(), &["for-each-ref"]), refs);
    refused(&it, &["--offline"], "behind-upstream", "origin/main");
    it.git(&it.overlay(), &["pull", "-q", "--rebase"]);
    it.promote(&[]).exits(0);
    assert_eq!(it.read("bootloader/theirs.conf"), "theirs\n");
}

#[test]
fn unreachable_upstream_is_an_error_without_offline() {
    needs_root!();
    let it = Workspace::new();
    let bare = upstream(&it);
    fs::rename(&bare, it.path("moved.git")).unwrap();
    refused(&it, &[], "upstream-unreachable", "git fetch");
    refused(&it, &["--dry-run"], "upstream-unreachable", "git ls-remote");
    let ran = it.promote(&["--offline"]).exits(0);
    assert!(
        ran.stdout
            .contains("up to date with origin/main, as last fetched"),
        "{}",
        ran.stdout
    );
}

#[test]
fn branch_without_an_upstream_is_reported() {
    needs_root!();
    let it = Workspace::new();
    upstream(&it);
    it.git(&it.overlay(), &["checkout", "-q", "-b", "mine"]);
    let ran = it.promote(&[]).exits(0);
    assert!(
        ran.stdout
            .contains("collision: check skipped (the branch tracks no upstream)"),
        "{}",
        ran.stdout
    );
}

#[test]
fn overlay_repository_may_be_a_symlink_or_a_worktree() {
    needs_root!();
    let it = Workspace::new();
    let real = it.path("elsewhere");
    fs::rename(it.overlay(), &real).unwrap();
    symlink(&real, it.overlay()).unwrap();
    it.promote(&["--dry-run"]).exits(0);
    fs::remove_file(it.overlay()).unwrap();
    it.git(&real, &["checkout", "-q", "--detach"]);
    it.git(
        &real,
        &[
            "worktree",
            "add",
            "-q",
            it.overlay().to_str().unwrap(),
            "main",
        ],
    );
    assert!(it.overlay().join(".git").is_file());
    it.promote(&[]).exits(0);
    assert_eq!(it.read("bootloader/board.conf"), "overlay board\n");
    assert!(!it.l4t(".git").exists());
}

#[test]
fn git_environment_variables_are_ignored_and_the_overlay_is_not_changed() {
    needs_root!();
    let it = Workspace::new();
    let decoy = it.path("decoy");
    fs::create_dir(&decoy).unwrap();
    it.git(&decoy, &["init", "-q"]);
    let index = it.overlay().join(".git/index");
    // git would refresh a stale index.
    let file = fs::File::open(it.overlay().join("bootloader/board.conf")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    let before = fs::read(&index).unwrap();
    let ran = Ran::of(
        it.command()
            .env("GIT_DIR", decoy.join(".git"))
            .env("GIT_WORK_TREE", &decoy)
            .env("GIT_INDEX_FILE", decoy.join("index"))
            .env("GIT_CEILING_DIRECTORIES", it.path("")),
    )
    .exits(0);
    assert!(
        ran.stdout.contains("overlay files: 3 copied"),
        "{}",
        ran.stdout
    );
    assert_eq!(fs::read(&index).unwrap(), before);
}

#[test]
fn root_runs_git_as_the_owner_of_the_repository() {
    needs_root!();
    let it = Workspace::new();
    let trap = it.put("trap", "#!/bin/sh\nid -u >> \"$(dirname \"$0\")/ran-as\"\n");
    crate::support::check(std::process::Command::new("chmod").arg("755").arg(&trap));
    // git status runs a clean filter that the repository's owner chooses.
    it.git(
        &it.overlay(),
        &["config", "filter.trap.clean", trap.to_str().unwrap()],
    );
    it.put(
        "Source/Linux_for_Tegra/.git/info/attributes",
        "*.conf filter=trap\n",
    );
    let file = fs::File::open(it.overlay().join("bootloader/board.conf")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    it.give_to(4711);
    // The result of the filter does not matter, but it must not run as root.
    it.promote(&["--dry-run"]);
    let ran_as = fs::read_to_string(it.path("ran-as")).unwrap();
    assert!(ran_as.lines().all(|uid| uid == "4711"), "{ran_as}");
}

#[test]
fn repository_of_another_user_is_refused_until_git_is_told_that_it_is_safe() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    // git refuses such a repository ("dubious ownership") unless it is configured as
    // safe.
    for repo in [it.overlay(), it.path("Source/bsp_sources/nvidia-oot")] {
        crate::support::check(
            std::process::Command::new("chown")
                .args(["-R", "4711"])
                .arg(repo),
        );
    }
    let before = it.everything_and_when();
    for repo in [it.overlay(), it.path("Source/bsp_sources/nvidia-oot")] {
        let ran = Ran::of(user.promote(&it).arg("--json"));
        failed(ran, "foreign-repository", repo.to_str().unwrap());
        assert_eq!(it.everything_and_when(), before);
        // This is what the help says, for the user whose home is the workspace.
        crate::support::check(
            std::process::Command::new("git")
                .args(["config", "--global", "--add", "safe.directory"])
                .arg(repo)
                .env("HOME", it.path("")),
        );
    }
    let ran = Ran::of(&mut user.promote(&it)).exits(0);
    assert!(
        ran.stdout.contains("overlay files: 3 copied"),
        "{}",
        ran.stdout
    );
}

#[test]
fn overlay_ref_reads_a_commit_or_range_from_git_objects() {
    needs_root!();
    let it = Workspace::new();
    let first = it.git(&it.overlay(), &["rev-parse", "HEAD"]);
    it.git(&it.overlay(), &["tag", "v1"]);
    it.write_overlay("bootloader/board.conf", "second\n");
    let script = it.write_overlay("tools/new.sh", "#!/bin/sh\n");
    crate::support::check(std::process::Command::new("chmod").arg("755").arg(script));
    symlink("new.sh", it.overlay().join("tools/link")).unwrap();
    fs::remove_file(it.overlay().join("kernel/dtb/custom.dtbo")).unwrap();
    let second = it.commit("second");
    // The state of the checkout does not matter, because it is not read.
    it.write_overlay("bootloader/board.conf", "being edited\n");
    it.write_overlay("untracked", "x");
    let status = it.git(&it.overlay(), &["status", "--porcelain"]);

    let ran = it.promote(&["--overlay-ref", "v1"]).exits(0);
    let line = format!("overlay v1 ({})\n", &first[..7]);
    assert!(ran.stdout.contains(&line), "{}", ran.stdout);
    assert_eq!(it.read("bootloader/board.conf"), "overlay board\n");
    assert_eq!(it.read("kernel/dtb/custom.dtbo"), "overlay dtbo\n");
    assert!(!it.l4t("tools/new.sh").exists());

    fs::write(it.l4t("rootfs/etc/nvpmodel/nvpmodel.conf"), "by hand\n").unwrap();
    let ran = it.promote(&["--overlay-ref", "v1..main"]).exits(0);
    let line = format!("changed from {} to {})", &first[..7], &second[..7]);
    assert!(ran.stdout.contains(&line), "{}", ran.stdout);
    assert!(
        ran.stdout
            .contains("note: 1 files that the range deletes stay"),
        "{}",
        ran.stdout
    );
    assert_eq!(it.read("bootloader/board.conf"), "second\n");
    assert_eq!(it.read("tools/link"), "#!/bin/sh\n");
    assert!(it.l4t("tools/link").is_symlink());
    assert_eq!(it.read("kernel/dtb/custom.dtbo"), "overlay dtbo\n");
    // Not in the range, so not changed.
    assert_eq!(it.read("rootfs/etc/nvpmodel/nvpmodel.conf"), "by hand\n");
    let ran = it.promote(&["--overlay-ref", &second]).exits(0);
    assert!(
        ran.stdout.contains("overlay files: 1 copied, 3 identical"),
        "{}",
        ran.stdout
    );
    let once = it.everything_and_when();
    it.promote(&["--overlay-ref", &second]).exits(0);
    assert_eq!(it.everything_and_when(), once);
    assert_eq!(it.git(&it.overlay(), &["status", "--porcelain"]), status);
}

#[test]
fn invalid_overlay_ref_is_refused() {
    needs_root!();
    let it = Workspace::new();
    for name in [
        "nowhere",
        "--upload-pack=touch x",
        "",
        "a..b",
        "HEAD:kernel",
        "HEAD...HEAD",
        "..",
    ] {
        let arg = format!("--overlay-ref={name}");
        refused(&it, &[&arg], "bad-reference", name);
    }
}

#[test]
fn edits_hidden_by_assume_unchanged_or_skip_worktree_are_not_promoted() {
    needs_root!();
    let name = "bootloader/board.conf";
    for flag in ["--assume-unchanged", "--skip-worktree"] {
        let it = Workspace::new();
        let overlay = it.overlay();
        symlink("board.conf", overlay.join("bootloader/link")).unwrap();
        it.commit("a link");
        for name in [name, "bootloader/link", "kernel/dtb/custom.dtbo"] {
            it.git(&overlay, &["update-index", flag, name]);
        }
        it.write_overlay(name, "mine\n");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(overlay.join(name), mode).unwrap();
        fs::remove_file(overlay.join("bootloader/link")).unwrap();
        symlink("elsewhere", overlay.join("bootloader/link")).unwrap();
        // A file that is missing from the checkout is promoted anyway.
        fs::remove_file(overlay.join("kernel/dtb/custom.dtbo")).unwrap();
        it.promote(&[]).exits(0);
        assert_eq!(it.read(name), "overlay board\n");
        let meta = it.l4t(name).metadata().unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta) & 0o777, 0o644);
        assert_eq!(it.read("bootloader/link"), "overlay board\n");
        assert_eq!(it.read("kernel/dtb/custom.dtbo"), "overlay dtbo\n");
    }
}

#[test]
fn files_get_the_mode_from_git_and_the_time_of_the_checkout() {
    needs_root!();
    let it = Workspace::new();
    let new = it.write_overlay("rootfs/opt/new", "new\n");
    it.commit("new");
    for (path, mode) in [
        (new, 0o664),
        (it.overlay().join("bootloader/board.conf"), 0o600),
    ] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(path, mode).unwrap();
    }
    let look = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        let meta = it.l4t(name).metadata().unwrap();
        (meta.mode() & 0o777, meta.mtime())
    };
    it.promote(&[]).exits(0);
    assert_eq!(look("rootfs/opt/new"), (0o644, 1_650_000_000));
    assert_eq!(look("bootloader/board.conf"), (0o644, 1_650_000_000));
    it.action(&["rollback", "0"]).exits(0);
    it.promote(&["--ownership", "source"]).exits(0);
    assert_eq!(look("rootfs/opt/new"), (0o664, 1_650_000_000));
    assert_eq!(look("bootloader/board.conf"), (0o600, 1_650_000_000));
}

/// An overlay with a file `bootloader/large.bin` that a filter changes, as LFS does.
fn filtered() -> Workspace {
    let it = Workspace::new();
    let overlay = it.overlay();
    it.git(&overlay, &["config", "filter.up.clean", "tr A-Z a-z"]);
    it.git(&overlay, &["config", "filter.up.smudge", "tr a-z A-Z"]);
    it.write_overlay(".gitattributes", "*.bin filter=up\n");
    it.write_overlay("bootloader/large.bin", "LARGE\n");
    it.commit("filtered");
    let stored = it.git(&overlay, &["cat-file", "blob", "HEAD:bootloader/large.bin"]);
    assert_eq!(stored, "large");
    it
}

#[test]
fn filtered_file_is_promoted_with_its_checked_out_content() {
    needs_root!();
    let it = filtered();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(it.overlay().join("bootloader/large.bin"), mode).unwrap();
    it.promote(&[]).exits(0);
    assert_eq!(it.read("bootloader/large.bin"), "LARGE\n");
    let meta = it.l4t("bootloader/large.bin").metadata().unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta) & 0o777, 0o644);
    let once = it.everything_and_when();
    it.promote(&[]).exits(0);
    assert_eq!(it.everything_and_when(), once);
}

#[test]
fn filtered_file_with_a_modified_checkout_is_refused() {
    needs_root!();
    for flag in ["--assume-unchanged", "--skip-worktree"] {
        let it = filtered();
        let name = "bootloader/large.bin";
        it.git(&it.overlay(), &["update-index", flag, name]);
        it.write_overlay(name, "EDITED\n");
        refused(&it, &[], "uncommitted-changes", name);
        // Its git object does not have the content that belongs in the image.
        fs::remove_file(it.overlay().join(name)).unwrap();
        refused(&it, &[], "bad-overlay", name);
    }
}

#[test]
fn file_with_a_working_tree_encoding_is_promoted_in_that_encoding() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay(
        ".gitattributes",
        "*.inf text working-tree-encoding=UTF-16LE\n",
    );
    it.write_overlay("bootloader/board.inf", "x\0\n\0");
    it.commit("encoded");
    it.promote(&[]).exits(0);
    assert_eq!(it.read("bootloader/board.inf"), "x\0\n\0");
}

#[test]
fn overlay_may_be_larger_than_the_temporary_directory() {
    needs_root!();
    let it = Workspace::new();
    for n in 0..64 {
        it.write_overlay(format!("bootloader/{n}"), vec![n; 1 << 20]);
    }
    it.commit("64 MiB");
    let small = Mounted::tmpfs(&it.path("Source"), 1 << 18);
    let ran = Ran::of(it.command().arg("--json").env("TMPDIR", &small.path));
    failed(ran, "no-space", small.path.to_str().unwrap());
    let disk = Mounted::tmpfs(&it.path(""), 40 << 20);
    Ran::of(it.command().env("TMPDIR", &disk.path)).exits(0);
    assert_eq!(fs::read_dir(&disk.path).unwrap().count(), 0);
    assert_eq!(fs::read(it.l4t("bootloader/63")).unwrap(), [63; 1 << 20]);
}

#[test]
fn missing_git_object_is_refused_before_writing() {
    needs_root!();
    let it = Workspace::new();
    let overlay = it.overlay();
    let id = it.git(&overlay, &["rev-parse", "HEAD:kernel/dtb/custom.dtbo"]);
    let (dir, name) = id.split_at(2);
    fs::remove_file(overlay.join(".git/objects").join(dir).join(name)).unwrap();
    refused(&it, &[], "git", &id);
    refused(&it, &["--overlay-ref", "HEAD"], "git", &id);
}
