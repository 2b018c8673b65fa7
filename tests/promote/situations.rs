//! Situations of real workspaces that the first version got wrong.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use crate::needs_root;
use crate::refusals::{failed, refused};
use crate::support::{Ran, check};
use crate::user::User;
use crate::workspace::{MODULES, Workspace};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[track_caller]
fn says(ran: &Ran, line: &str) {
    assert!(ran.stdout.contains(line), "no {line:?} in: {}", ran.stdout);
}

/// Moves the overlay into a directory of another repository, and leaves a symlink.
fn mount_by_symlink(it: &Workspace) -> std::path::PathBuf {
    let repo = it.path("Source/.repos/board");
    let real = repo.join("deep/l4t");
    fs::create_dir_all(real.parent().unwrap()).unwrap();
    fs::remove_dir_all(it.overlay().join(".git")).unwrap();
    fs::rename(it.overlay(), &real).unwrap();
    fs::write(repo.join("README"), "not for the image\n").unwrap();
    it.git(&repo, &["init", "-q", "-b", "main"]);
    it.git(&repo, &["add", "-A"]);
    it.git(&repo, &["commit", "-qm", "a board"]);
    symlink(".repos/board/deep/l4t", it.overlay()).unwrap();
    repo
}

#[test]
fn symlink_to_a_directory_of_another_repository_is_an_overlay() {
    needs_root!();
    let it = Workspace::new();
    let repo = mount_by_symlink(&it);
    it.git(&repo, &["tag", "v1"]);
    it.promote(&[]).exits(0);
    assert_eq!(it.read("bootloader/board.conf"), "overlay board\n");
    assert!(!it.l4t("README").exists() && !it.l4t("deep").exists());
    it.write_overlay("bootloader/board.conf", "second\n");
    refused_again(&it, "board.conf");
    it.git(&repo, &["commit", "-qam", "second"]);
    // A change elsewhere in the repository does not matter.
    fs::write(repo.join("README"), "being edited\n").unwrap();
    let ran = it.promote(&["--overlay-ref", "v1..HEAD"]).exits(0);
    says(&ran, "overlay files: 1 copied, 0 identical\n");
    assert_eq!(it.read("bootloader/board.conf"), "second\n");
    it.promote(&["--overlay-ref", "v1"]).exits(0);
    assert_eq!(it.read("bootloader/board.conf"), "overlay board\n");
    it.promote(&[]).exits(0);
    assert_eq!(it.read("bootloader/board.conf"), "second\n");
    // Without the symlink, a directory of a repository is not a repository.
    fs::remove_file(it.overlay()).unwrap();
    it.git(&it.path("Source"), &["init", "-q"]);
    fs::create_dir(it.overlay()).unwrap();
    failed(it.promote(&["--json"]), "no-source", "not a git repository");
}

#[track_caller]
fn refused_again(it: &Workspace, fact: &str) {
    failed(it.promote(&["--json"]), "uncommitted-changes", fact);
}

#[test]
fn executable_bit_of_git_reaches_the_image_and_only_that_one_is_taken_away() {
    needs_root!();
    let it = Workspace::new();
    let mode = |name: &str| it.l4t(name).metadata().unwrap().mode() & 0o7777;
    let conf = "rootfs/etc/nvpmodel/nvpmodel.conf";
    let new = ["rootfs/opt/script", "tools/script"];
    for name in new {
        it.write_overlay(name, "#!/bin/sh\n");
    }
    // An existing script of the image, and one that git does not call executable.
    let theirs = "rootfs/usr/bin/ping";
    it.write_overlay(theirs, "overlay ping\n");
    it.commit("scripts");
    // The umask of whoever checked them out does not matter.
    for name in new {
        let path = it.overlay().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    it.promote(&["--no-initramfs"]).exits(0);
    assert_eq!(new.map(mode), [0o644, 0o644]);
    assert_eq!((mode(conf), mode(theirs)), (0o600, 0o755));
    for name in new.into_iter().chain([conf]) {
        it.git(&it.overlay(), &["update-index", "--chmod=+x", name]);
        it.git(&it.overlay(), &["commit", "-qm", "executable"]);
        it.git(&it.overlay(), &["checkout", "-q", "--", name]);
    }
    let ran = it.promote(&["--no-initramfs"]).exits(0);
    says(&ran, "overlay files: 3 copied, 3 identical\n");
    assert_eq!(new.map(mode), [0o755, 0o755]);
    assert_eq!(mode(conf), 0o700);
    let once = it.everything_and_when();
    it.promote(&["--no-initramfs"]).exits(0);
    it.promote(&["--no-initramfs", "--recheck"]).exits(0);
    assert_eq!(it.everything_and_when(), once);
    // A bit that somebody set in the image stays, one that a promote set is removed with git's.
    let readable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(it.l4t("bootloader/board.conf"), readable).unwrap();
    for name in new.into_iter().chain([conf]) {
        it.git(&it.overlay(), &["update-index", "--chmod=-x", name]);
    }
    it.git(&it.overlay(), &["commit", "-qm", "not any more"]);
    it.git(&it.overlay(), &["checkout", "-q", "--", "."]);
    let ran = it.promote(&["--no-initramfs"]).exits(0);
    says(&ran, "overlay files: 3 copied, 3 identical\n");
    assert_eq!(new.map(mode), [0o644, 0o644]);
    assert_eq!((mode(conf), mode("bootloader/board.conf")), (0o600, 0o755));
    assert_eq!(mode(theirs), 0o755);
    let once = it.everything_and_when();
    it.promote(&["--no-initramfs"]).exits(0);
    assert_eq!(it.everything_and_when(), once);
}

#[test]
fn freshness_works_for_a_mono_repository_beside_a_nested_one() {
    needs_root!();
    const CODE: &str = "stale-build";
    let it = Workspace::new();
    let sources = it.path("Source/bsp_sources");
    let oot = sources.join("nvidia-oot");
    fs::remove_dir_all(sources.join("kernel/kernel-noble/.git")).unwrap();
    it.git(&sources, &["init", "-q"]);
    fs::write(sources.join(".gitignore"), "nvidia-oot\nout\n").unwrap();
    it.git(&sources, &["add", "-A"]);
    it.git(&sources, &["commit", "-qm", "one"]);
    let state = |mono: &str, nested: &str| {
        let head = "toolchain: x\nbsp_version: '38.2.0'\nmode: full\nrepos:\n";
        let text = format!("{head}  kernel/kernel-noble: {mono}\n  nvidia-oot: {nested}\n");
        it.put("Source/.build-state.yaml", text);
    };
    let head = |dir| it.git(dir, &["rev-parse", "HEAD"]);
    state(&head(&sources), &head(&oot));
    it.promote(&["--dry-run"]).exits(0);
    fs::write(sources.join("kernel/kernel-noble/Makefile"), "edited").unwrap();
    refused(&it, &[], CODE, ". has uncommitted edits");
    it.git(&sources, &["commit", "-qam", "two"]);
    refused(&it, &[], CODE, "kernel/kernel-noble is at ");
    state(&head(&sources), &head(&oot));
    it.promote(&["--dry-run"]).exits(0);
    // A nested repository with commits of its own that the build did not use.
    fs::write(oot.join("Makefile"), "customized").unwrap();
    it.git(&oot, &["commit", "-qam", "customize"]);
    refused(&it, &[], CODE, "nvidia-oot is at ");
    let path = it.path("Source/.build-state.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter(|line| !line.contains("nvidia-oot"));
    let unlisted: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(&path, unlisted).unwrap();
    refused(
        &it,
        &[],
        CODE,
        "nvidia-oot has commits that were never built",
    );
}

#[test]
fn freshness_follows_a_symlink_to_a_directory_of_another_repository() {
    needs_root!();
    let it = Workspace::new();
    let repo = it.path("Source/.repos/hardware");
    fs::create_dir_all(repo.join("nvidia/t264")).unwrap();
    fs::write(repo.join("nvidia/t264/board.dts"), "dts\n").unwrap();
    it.git(&repo, &["init", "-q"]);
    it.git(&repo, &["add", "-A"]);
    it.git(&repo, &["commit", "-qm", "hardware"]);
    symlink(repo.join("nvidia"), it.path("Source/bsp_sources/hardware")).unwrap();
    let head = it.git(&repo, &["rev-parse", "HEAD"]);
    let path = it.path("Source/.build-state.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}  hardware/t264: {head}\n")).unwrap();
    it.promote(&["--dry-run"]).exits(0);
    fs::write(repo.join("nvidia/t264/board.dts"), "edited\n").unwrap();
    refused(
        &it,
        &[],
        "stale-build",
        "hardware/t264 has uncommitted edits",
    );
    it.git(&repo, &["commit", "-qam", "edit"]);
    refused(&it, &[], "stale-build", "hardware/t264 is at ");
}

#[test]
fn customized_repositories_are_a_note_that_warns_of_nothing() {
    needs_root!();
    let it = Workspace::new();
    let manifest = it.path("Source/.build-manifest.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    let text = text.replace("dirty_repos: []", "dirty_repos: [{nvidia-oot: 1234567}]");
    fs::write(&manifest, text).unwrap();
    let ran = it.promote(&["--dry-run", "--strict"]).exits(0);
    says(&ran, "note: customized and committed: nvidia-oot\n");
    assert!(!ran.stdout.contains("uncommitted"), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
}

#[test]
fn rollback_says_which_files_it_removes_and_which_were_deleted() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    fs::remove_file(it.l4t("bootloader/board.conf")).unwrap();
    fs::write(it.l4t("kernel/dtb/custom.dtbo"), "by hand\n").unwrap();
    let ran = it.action(&["rollback", "--dry-run"]).exits(0);
    let module = format!("{MODULES}/updates/nv.ko");
    says(&ran, &format!("remove {module}, which is "));
    says(&ran, "remove kernel/dtb/custom.dtbo\n");
    says(&ran, "put back kernel/Image\n");
    says(&ran, "files: 5 to put back, 2 to remove, 1 identical\n");
    says(&ran, "note: bootloader/board.conf was deleted by hand\n");
    says(&ran, "note: kernel/dtb/custom.dtbo was edited by hand\n");
    let told = json(
        &it.action(&["rollback", "--dry-run", "--json"])
            .exits(0)
            .stdout,
    );
    assert_eq!(
        told["deleted"],
        serde_json::json!(["bootloader/board.conf"])
    );
    assert_eq!(
        told["edited"],
        serde_json::json!(["kernel/dtb/custom.dtbo"])
    );
    let files = told["files"].as_array().unwrap();
    let removed = files.iter().filter(|file| file["remove"] == true).count();
    assert_eq!(removed, 2);
    let ran = it.action(&["rollback"]).exits(0);
    says(&ran, "files: 5 put back, 2 removed, 1 identical\n");
}

#[test]
fn status_notices_what_was_written_over_the_initramfs() {
    needs_root!();
    for name in ["rootfs/boot/initrd", "bootloader/l4t_initrd.img"] {
        let it = Workspace::new();
        it.promote(&[]).exits(0);
        let status = json(&it.action(&["status", "--json"]).exits(0).stdout);
        assert_eq!(status["initramfs"].as_array().unwrap().len(), 2);
        fs::write(it.l4t(name), "another initrd\n").unwrap();
        let ran = it.action(&["status"]).exits(1);
        says(
            &ran,
            &format!("edited: {name} (the initramfs tool wrote it)\n"),
        );
        fs::remove_file(it.l4t(name)).unwrap();
        let ran = it.action(&["status"]).exits(1);
        says(
            &ran,
            &format!("missing: {name} (the initramfs tool wrote it)\n"),
        );
        it.promote(&["--refresh-initramfs"]).exits(0);
        it.action(&["status"]).exits(0);
    }
}

#[test]
fn new_files_belong_to_the_user_who_ran_sudo() {
    needs_root!();
    let it = Workspace::new();
    it.write_overlay("bootloader/new/deep/board.conf", "new\n");
    it.write_overlay("rootfs/opt/new", "new\n");
    symlink("board.conf", it.overlay().join("bootloader/link")).unwrap();
    it.commit("new");
    it.give_to(4711);
    let owner = |name: &str| {
        let meta = it.l4t(name).symlink_metadata().unwrap();
        (meta.uid(), meta.gid())
    };
    std::os::unix::fs::lchown(it.l4t("kernel/dtb/board.dtb"), Some(1), Some(2)).unwrap();
    let mut command = it.command();
    command.env("SUDO_UID", "4711").env("SUDO_GID", "4712");
    Ran::of(command.env("SUDO_USER", "dev")).exits(0);
    for name in [
        "bootloader/board.conf",
        "bootloader/link",
        "bootloader/new",
        "bootloader/new/deep",
        "bootloader/new/deep/board.conf",
    ] {
        assert_eq!(owner(name), (4711, 4712), "{name}");
    }
    assert_eq!(owner("kernel/dtb/board.dtb"), (1, 2));
    assert_eq!(owner("rootfs/opt/new"), (0, 0));
}

#[test]
fn plan_for_an_image_whose_journal_cannot_be_read_is_a_plan_with_a_warning() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    let conf = it.l4t("rootfs/etc/nvpmodel/nvpmodel.conf");
    fs::set_permissions(conf, fs::Permissions::from_mode(0o644)).unwrap();
    let user = User::new(&it, None);
    let root = Some(0);
    std::os::unix::fs::lchown(it.l4t(".lbpayload"), root, root).unwrap();
    let ran = Ran::of(user.promote(&it).arg("--dry-run")).exits(0);
    assert!(
        ran.stderr.contains("warning: could not read the journal"),
        "{}",
        ran.stderr
    );
}

#[test]
fn git_runs_as_the_user_who_ran_sudo() {
    needs_root!();
    let it = Workspace::new();
    let trap = it.put(
        "trap",
        "#!/bin/sh\nid -u >> \"$(dirname \"$0\")/ran-as\"\ncat\n",
    );
    check(Command::new("chmod").arg("755").arg(&trap));
    let config = ["config", "filter.trap.clean", trap.to_str().unwrap()];
    it.git(&it.overlay(), &config);
    let attributes = "*.conf filter=trap\n";
    it.put("Source/Linux_for_Tegra/.git/info/attributes", attributes);
    let file = fs::File::open(it.overlay().join("bootloader/board.conf")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    it.give_to(4711);
    let by = |uid: &str| {
        let mut command = it.command();
        command.args(["--dry-run", "--json"]);
        Ran::of(command.env("SUDO_UID", uid).env("SUDO_GID", uid))
    };
    // git decides, with its own setting, whether the user trusts the owner.
    failed(by("4712"), "foreign-repository", "Source/Linux_for_Tegra");
    by("4711");
    let ran_as = fs::read_to_string(it.path("ran-as")).unwrap();
    assert!(ran_as.lines().all(|uid| uid == "4711"), "{ran_as}");
}

#[test]
fn refusals_name_the_step_of_the_workflow_to_go_back_to() {
    needs_root!();
    let it = Workspace::new();
    let routed = |args: &[&str], code: &str, route: Option<&str>| {
        let ran = it.promote(&[&["--json"], args].concat()).exits(1);
        let error = &json(&ran.stdout)["error"];
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(error["route"].as_str(), route, "{error}");
        let help = error["help"][0].as_str().unwrap();
        assert!(route.is_none_or(|route| help.contains(route)), "{help}");
    };
    it.write_overlay("new", "x");
    routed(&[], "uncommitted-changes", None);
    fs::remove_file(it.overlay().join("new")).unwrap();
    fs::write(it.path("Source/bsp_sources/nvidia-oot/Makefile"), "edited").unwrap();
    routed(&[], "stale-build", Some("/jetson-build-source"));
    let oot = it.path("Source/bsp_sources/nvidia-oot");
    it.git(&oot, &["checkout", "-q", "."]);
    let manifest = fs::read_to_string(it.path("Source/.build-manifest.yaml")).unwrap();
    it.put("Source/.build-manifest.yaml", "mode: [");
    routed(&[], "syntax", Some("/jetson-build-source"));
    it.put("Source/.build-manifest.yaml", format!("x: 1\n{manifest}"));
    routed(&["--strict"], "deviation", Some("/jetson-build-source"));
    it.manifest_of(&[("/etc/hostname".into(), "kernel/x".into(), "dtb")]);
    routed(&[], "outside-workspace", Some("/jetson-build-source"));
    let gone = it.path("Source/gone").display().to_string();
    it.manifest_of(&[(gone, "kernel/x".into(), "dtb")]);
    routed(&[], "bad-source", Some("/jetson-build-source"));
    it.put("Source/.build-manifest.yaml", manifest);
    fs::rename(it.l4t("tools"), it.l4t("no-tools")).unwrap();
    routed(&[], "no-initramfs-tool", Some("/jetson-init-image"));
    fs::rename(it.overlay(), it.path("overlay")).unwrap();
    routed(&[], "no-source", Some("/jetson-init-source"));
    fs::rename(it.path("Image"), it.path("NoImage")).unwrap();
    routed(&[], "no-image", Some("/jetson-init-image"));
    it.put("target-platform/active_target.yml", "active: NA\n");
    routed(&[], "no-target", Some("/jetson-set-target"));
    fs::remove_dir_all(it.path("target-platform")).unwrap();
    routed(&[], "no-workspace", Some("/jetson-set-target"));
    // Errors of other commands have no route.
    let ran = crate::support::run(["list", "/nonexistent", "--json"]);
    assert!(json(&ran.stdout)["error"]["route"].is_null());
}
