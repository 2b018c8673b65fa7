//! The check that refuses an outdated build, with real repositories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::needs_root;
use crate::refusals::refused;
use crate::workspace::Workspace;

const CODE: &str = "stale-build";

#[test]
fn uncommitted_edits_new_commits_and_missing_states_are_all_listed() {
    needs_root!();
    let it = Workspace::new();
    let oot = it.path("Source/bsp_sources/nvidia-oot");
    let noble = it.path("Source/bsp_sources/kernel/kernel-noble");
    fs::write(oot.join("Makefile"), "edited").unwrap();
    refused(&it, &[], CODE, "nvidia-oot has uncommitted edits");
    it.git(&oot, &["add", "-A"]);
    refused(&it, &[], CODE, "nvidia-oot has uncommitted edits");
    it.git(&oot, &["commit", "-qm", "customize"]);
    fs::write(noble.join("Makefile"), "edited").unwrap();
    let first = "kernel/kernel-noble has uncommitted edits, and 1 more";
    refused(&it, &[], CODE, first);
    it.promote(&[])
        .exits(1)
        .says("lbpayload: note: nvidia-oot is at ");
    it.git(&noble, &["checkout", "-q", "."]);
    it.git(&oot, &["checkout", "-q", "HEAD~1"]);
    it.git(&oot, &["checkout", "-q", "-f", "main"]);
    fs::remove_file(it.path("Source/.build-state.yaml")).unwrap();
    refused(
        &it,
        &[],
        CODE,
        "nvidia-oot has commits that were never built",
    );
    it.state();
    it.promote(&[]).exits(0);
}

#[test]
fn edits_hidden_by_assume_unchanged_or_skip_worktree_are_found() {
    needs_root!();
    let it = Workspace::new();
    let oot = it.path("Source/bsp_sources/nvidia-oot");
    symlink("Makefile", oot.join("link")).unwrap();
    it.git(&oot, &["add", "-A"]);
    it.git(&oot, &["commit", "-qm", "a link"]);
    it.state();
    let told = "nvidia-oot has uncommitted edits";
    for flag in ["assume-unchanged", "skip-worktree"] {
        for name in ["Makefile", "link"] {
            it.git(&oot, &["update-index", &format!("--{flag}"), name]);
        }
        it.promote(&["--dry-run"]).exits(0);
        let text = fs::read(oot.join("Makefile")).unwrap();
        fs::write(oot.join("Makefile"), "hidden").unwrap();
        refused(&it, &[], CODE, told);
        fs::write(oot.join("Makefile"), text).unwrap();
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(oot.join("Makefile"), mode(0o755)).unwrap();
        refused(&it, &[], CODE, told);
        fs::set_permissions(oot.join("Makefile"), mode(0o644)).unwrap();
        fs::remove_file(oot.join("link")).unwrap();
        // As in a sparse checkout.
        it.promote(&["--dry-run"]).exits(0);
        symlink("elsewhere", oot.join("link")).unwrap();
        refused(&it, &[], CODE, told);
        fs::remove_file(oot.join("link")).unwrap();
        symlink("Makefile", oot.join("link")).unwrap();
        for name in ["Makefile", "link"] {
            it.git(&oot, &["update-index", &format!("--no-{flag}"), name]);
        }
    }
}

#[test]
fn untracked_build_output_is_not_an_edit() {
    needs_root!();
    let it = Workspace::new();
    it.put("Source/bsp_sources/nvidia-oot/built.o", "x");
    it.promote(&[]).exits(0);
}

#[test]
fn worktrees_are_checked_up_to_the_depth_limit() {
    needs_root!();
    let it = Workspace::new();
    let oot = it.path("Source/bsp_sources/nvidia-oot");
    let tree = it.path("Source/bsp_sources/a/b/c/d/e");
    it.git(
        &oot,
        &[
            "worktree",
            "add",
            "-q",
            "-b",
            "other",
            tree.to_str().unwrap(),
        ],
    );
    fs::write(tree.join("Makefile"), "edited").unwrap();
    refused(&it, &[], CODE, "a/b/c/d/e has uncommitted edits");
    let deeper = it.path("Source/bsp_sources/f/b/c/d/e/f");
    it.git(
        &oot,
        &["worktree", "move", tree.to_str().unwrap(), {
            fs::create_dir_all(deeper.parent().unwrap()).unwrap();
            deeper.to_str().unwrap()
        }],
    );
    it.promote(&[]).exits(0);
}

#[test]
fn state_entry_without_a_repository_is_reported() {
    needs_root!();
    let it = Workspace::new();
    let path = it.path("Source/.build-state.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("  nvidia-oot:", "  nvidia-ooot:")).unwrap();
    refused(&it, &[], CODE, "nvidia-ooot was built");
}

#[test]
fn mono_repository_is_compared_with_its_watermark() {
    needs_root!();
    let it = Workspace::new();
    let sources = it.path("Source/bsp_sources");
    for repo in ["kernel/kernel-noble", "nvidia-oot"] {
        fs::remove_dir_all(sources.join(repo).join(".git")).unwrap();
    }
    it.git(&sources, &["init", "-q"]);
    it.git(&sources, &["add", "-A"]);
    it.git(&sources, &["commit", "-qm", "one"]);
    let built = it.git(&sources, &["rev-parse", "HEAD"]);
    let state = |id: &str| {
        let head = "toolchain: x\nbsp_version: '38.2.0'\nmode: full\nrepos:\n";
        it.put(
            "Source/.build-state.yaml",
            format!("{head}  kernel/kernel-noble: {id}\n"),
        );
    };
    state(&"0".repeat(40));
    refused(&it, &[], CODE, "kernel/kernel-noble is at ");
    state(&built);
    it.promote(&["--dry-run"]).exits(0);
    fs::write(sources.join("nvidia-oot/Makefile"), "edited").unwrap();
    refused(&it, &[], CODE, ". has uncommitted edits");
    it.git(&sources, &["commit", "-qam", "two"]);
    refused(&it, &[], CODE, "kernel/kernel-noble is at ");
    // Without a state file there is nothing to compare the mono-repository with.
    fs::remove_file(it.path("Source/.build-state.yaml")).unwrap();
    it.promote(&["--dry-run"]).exits(0);
}

#[test]
fn missing_kernel_repositories_are_reported() {
    needs_root!();
    let it = Workspace::new();
    for repo in ["kernel/kernel-noble", "nvidia-oot"] {
        let git = it.path("Source/bsp_sources").join(repo).join(".git");
        fs::remove_dir_all(git).unwrap();
    }
    let ran = it.promote(&["--dry-run"]).exits(0);
    assert!(
        ran.stdout.contains("note: no kernel-side repository"),
        "{}",
        ran.stdout
    );
}

#[test]
fn repositories_behind_symlinks_are_checked() {
    needs_root!();
    let it = Workspace::new();
    let sources = it.path("Source/bsp_sources");
    let elsewhere = it.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    // One symlink to a repository, and one to a folder that contains another.
    for name in ["nvidia-oot", "kernel"] {
        fs::rename(sources.join(name), elsewhere.join(name)).unwrap();
        symlink(elsewhere.join(name), sources.join(name)).unwrap();
    }
    // These lead to a known repository, or nowhere.
    symlink(".", sources.join("round")).unwrap();
    symlink("/", elsewhere.join("kernel/kernel-noble/host")).unwrap();
    symlink("gone", sources.join("gone")).unwrap();
    it.promote(&["--dry-run"]).exits(0);
    for name in ["nvidia-oot", "kernel/kernel-noble"] {
        let file = elsewhere.join(name).join("Makefile");
        let text = fs::read(&file).unwrap();
        fs::write(&file, "edited").unwrap();
        let what = format!("{name} has uncommitted edits");
        refused(&it, &[], CODE, &what);
        fs::write(&file, text).unwrap();
    }
    it.promote(&[]).exits(0);
}
