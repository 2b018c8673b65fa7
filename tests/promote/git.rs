//! The overlay as git has it: upstreams, worktrees, other commits, other users.

use std::fs;
use std::os::unix::fs::symlink;

use crate::needs_root;
use crate::refusals::{failed, refused};
use crate::support::{Mounted, Ran};
use crate::user::User;
use crate::workspace::Workspace;

/// Gives the overlay an upstream, a bare repository beside it.
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

/// Somebody else pushes a commit.
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
fn commits_that_were_not_pulled_are_a_collision() {
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
    // One whose name only ends the same is another branch.
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
    // What the last fetch saw is all that --offline knows.
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
fn an_upstream_that_cannot_be_reached_stops_unless_offline() {
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
fn a_branch_without_an_upstream_is_said() {
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
fn the_tracker_may_be_a_symlink_or_a_worktree() {
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
fn git_s_own_environment_does_not_lead_astray_and_nothing_is_written_to_the_overlay() {
    needs_root!();
    let it = Workspace::new();
    let decoy = it.path("decoy");
    fs::create_dir(&decoy).unwrap();
    it.git(&decoy, &["init", "-q"]);
    let index = it.overlay().join(".git/index");
    // A stale index is what git would refresh.
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
fn root_asks_a_users_repository_as_that_user() {
    needs_root!();
    let it = Workspace::new();
    let trap = it.put("trap", "#!/bin/sh\nid -u >> \"$(dirname \"$0\")/ran-as\"\n");
    crate::support::check(std::process::Command::new("chmod").arg("755").arg(&trap));
    // git status runs a clean filter, which the repository's owner names.
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
    // Whatever the filter makes of the file: it must not run as root.
    it.promote(&["--dry-run"]);
    let ran_as = fs::read_to_string(it.path("ran-as")).unwrap();
    assert!(ran_as.lines().all(|uid| uid == "4711"), "{ran_as}");
}

#[test]
fn a_user_promotes_an_overlay_that_belongs_to_somebody_else() {
    needs_root!();
    let it = Workspace::new();
    let user = User::new(&it, Some("NOPASSWD: ALL"));
    // Which git calls dubious, unless it is told that it is meant.
    for repo in [it.overlay(), it.path("Source/bsp_sources/nvidia-oot")] {
        crate::support::check(
            std::process::Command::new("chown")
                .args(["-R", "4711"])
                .arg(repo),
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
fn a_named_commit_and_a_range_come_from_gits_objects() {
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
    // The checkout may be in any state: it is not looked at.
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
    // Not in the range, so not touched.
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
fn a_reference_that_is_none_is_refused() {
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
fn what_git_was_told_to_overlook_does_not_reach_the_image() {
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
        // One that is not checked out is promoted all the same.
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
fn a_file_has_gits_mode_and_the_time_that_it_has_where_it_is_checked_out() {
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
fn a_file_that_a_filter_of_git_changes_arrives_as_it_is_checked_out() {
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
fn a_filtered_file_is_refused_where_its_checkout_is_not_what_was_committed() {
    needs_root!();
    for flag in ["--assume-unchanged", "--skip-worktree"] {
        let it = filtered();
        let name = "bootloader/large.bin";
        it.git(&it.overlay(), &["update-index", flag, name]);
        it.write_overlay(name, "EDITED\n");
        refused(&it, &[], "uncommitted-changes", name);
        // Its object is not what belongs into the image.
        fs::remove_file(it.overlay().join(name)).unwrap();
        refused(&it, &[], "bad-overlay", name);
    }
}

#[test]
fn a_file_that_git_checks_out_in_another_encoding_arrives_in_that() {
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
fn an_overlay_may_be_larger_than_the_room_for_temporary_files() {
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
fn a_missing_object_is_refused_before_anything_is_written() {
    needs_root!();
    let it = Workspace::new();
    let overlay = it.overlay();
    let id = it.git(&overlay, &["rev-parse", "HEAD:kernel/dtb/custom.dtbo"]);
    let (dir, name) = id.split_at(2);
    fs::remove_file(overlay.join(".git/objects").join(dir).join(name)).unwrap();
    refused(&it, &[], &id, "git fsck");
    refused(&it, &["--overlay-ref", "HEAD"], &id, "git fsck");
}
