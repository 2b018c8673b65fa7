//! Workspaces that are made by following the documents literally, in the three layouts that the
//! kernel-side repositories may have. The overlay is a symlink to a directory of another
//! repository, and the kernel, the modules and the device tree are real.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::needs_root;
use crate::real_kernel::RealImage;
use crate::repacked;
use crate::support::{Ran, check, lbpayload};
use crate::workspace::Workspace;

/// The directories that the state lists.
const LISTED: [&str; 3] = ["hardware/nvidia/t264", "kernel/kernel-noble", "nvidia-oot"];

/// The name of a layout, and its repositories, as paths below `bsp_sources/`.
const LAYOUTS: [(&str, &[&str]); 3] = [
    ("nested repositories", &LISTED),
    ("mono-repository", &["."]),
    (
        "mono-repository with nested ones",
        &[".", "hardware/nvidia/t264", "nvidia-oot"],
    ),
];

const OVERLAY: [(&str, &str); 2] = [
    ("bootloader/board.conf", "a board\n"),
    ("rootfs/etc/nvpmodel/nvpmodel.conf", "a model\n"),
];

/// A command of the documents, which is run in the workspace and finds it by itself.
fn promote(it: &Workspace, words: &str) -> Ran {
    let mut command = lbpayload();
    command.arg("promote").args(words.split_whitespace());
    command.current_dir(it.path("Source/bsp_sources"));
    Ran::of(command.env("GIT_CONFIG_GLOBAL", "/dev/null"))
}

#[track_caller]
fn says(ran: &Ran, layout: &str, lines: &[&str]) {
    for line in lines {
        let said = &ran.stdout;
        assert!(said.contains(line), "{layout}: no {line:?} in: {said}");
    }
}

/// Makes `target-platform/`, the overlay and the repositories of a layout, each with one commit.
fn set_up(it: &Workspace, image: &Path, repos: &[&str]) {
    for made in ["target-platform", "Source", "Image"] {
        fs::remove_dir_all(it.path(made)).unwrap();
    }
    it.put("target-platform/active_target.yml", "active: thor.yaml\n");
    let root = image.parent().unwrap().display();
    it.put(
        "target-platform/thor.yaml",
        format!(
            "reference_devkit:\n  module: {{id: p3834}}\ncustom_carrier: {{name: board}}\n\
             documents: []\nbsp_image:\n  root_path: {root}\n  version: \"38.2.0\"\n\
             source:\n  toolchain: /opt/x-tools/bin/aarch64-linux-gnu-\n  repos: {{}}\n"
        ),
    );
    let board = it.path("board");
    for (name, text) in OVERLAY {
        it.put(Path::new("board/Linux_for_Tegra").join(name), text);
    }
    it.put("board/README", "not for the image\n");
    for listed in LISTED {
        let dir = Path::new("Source/bsp_sources").join(listed);
        it.put(dir.join("Makefile"), "all:\n");
        it.put(dir.join(".gitignore"), "*.ko\n*.dtb\nImage\n");
    }
    symlink("../board/Linux_for_Tegra", it.overlay()).unwrap();
    let sources = it.path("Source/bsp_sources");
    // The nested ones first, so that the outer one can leave them out.
    let nested = repos.iter().filter(|repo| **repo != ".");
    let ignored: String = nested.map(|repo| format!("/{repo}/\n")).collect();
    if repos.contains(&".") {
        fs::write(sources.join(".gitignore"), ignored).unwrap();
    }
    let mut dirs: Vec<_> = repos.iter().map(|repo| sources.join(repo)).collect();
    dirs.push(board);
    for dir in dirs {
        it.git(&dir, &["init", "-q", "-b", "main"]);
        it.git(&dir, &["add", "-A"]);
        it.git(&dir, &["commit", "-qm", "as shipped"]);
    }
}

/// Customizes nvidia-oot, and does what the last build would: a kernel image, a device tree, an
/// in-tree and an out-of-tree module, and the two files that say so.
fn build(it: &Workspace, real: &RealImage) {
    let sources = it.path("Source/bsp_sources");
    let oot = sources.join("nvidia-oot");
    fs::write(oot.join("nv.c"), "int nv;\n").unwrap();
    it.git(&oot, &["add", "-A"]);
    it.git(&oot, &["commit", "-qm", "customize"]);
    let modules = real.some_modules();
    let newer = |module: &Path| {
        let mut bytes = fs::read(real.l4t("rootfs").join(module)).unwrap();
        // Bytes behind the end of a module do not change what it says about itself.
        bytes.extend(b"newer");
        bytes
    };
    let net = modules[0].strip_prefix("usr").unwrap();
    let dts = it.put(
        "Source/bsp_sources/hardware/nvidia/t264/board.dts",
        "/dts-v1/; / { model = \"board\"; };\n",
    );
    let dtb = dts.with_extension("dtb");
    check(Command::new("dtc").arg("-o").arg(&dtb).arg(&dts));
    fs::remove_file(dts).unwrap();
    let kernel = fs::read(real.l4t("kernel/Image")).unwrap();
    let built = [
        (
            "in_tree_module",
            "kernel/kernel-noble/net.ko",
            newer(&modules[0]),
            format!("rootfs/{}", net.display()),
        ),
        (
            "oot_module",
            "nvidia-oot/nv.ko",
            newer(&modules[1]),
            format!("rootfs/lib/modules/{}/updates/nv.ko", real.release),
        ),
        (
            "kernel_image",
            "kernel/kernel-noble/Image",
            kernel,
            "kernel/Image".into(),
        ),
        (
            "dtb",
            "hardware/nvidia/t264/board.dtb",
            fs::read(&dtb).unwrap(),
            "kernel/dtb/board.dtb".into(),
        ),
    ];
    let head = |dir: &str, form: &str| it.git(&sources.join(dir), &["log", "-1", form]);
    let mut manifest = format!(
        "mode: full\ntoolchain: /opt/x-tools/bin/aarch64-linux-gnu-\nbsp_version: \"38.2.0\"\n\
         rebuilt_at: 2026-05-01T10:00:00Z\ndirty_repos:\n  - nvidia-oot: {}\nartifacts:\n",
        head("nvidia-oot", "--format=%h")
    );
    for (kind, src, bytes, dst) in built {
        let path = sources.join(src);
        fs::write(&path, bytes).unwrap();
        let repo = LISTED.iter().find(|repo| src.starts_with(**repo)).unwrap();
        manifest += &format!(
            "  - kind: {kind}\n    src: {}\n    dst: {dst}\n    source_repo: {repo}\n",
            path.display()
        );
    }
    it.put("Source/.build-manifest.yaml", manifest);
    let mut state = String::from("repos:\n");
    for listed in LISTED {
        state += &format!("  {listed}: {}\n", head(listed, "--format=%H"));
    }
    state +=
        "toolchain: /opt/x-tools/bin/aarch64-linux-gnu-\nbsp_version: \"38.2.0\"\nmode: full\n";
    it.put("Source/.build-state.yaml", state);
}

#[test]
fn workspace_made_by_the_documents_is_promoted_and_verified_in_every_layout() {
    needs_root!();
    for (layout, repos) in LAYOUTS {
        let Some(real) = RealImage::new() else { return };
        let tool = real.l4t("tools/l4t_update_initrd.sh");
        real.put(&tool, repacked::TOOL.as_bytes());
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let it = Workspace::empty();
        set_up(&it, &real.l4t(""), repos);
        build(&it, &real);

        promote(&it, "status").exits(1);
        let ran = promote(&it, "diff --exit-code").exits(1);
        let lines = ["new: bootloader/board.conf (overlay)\n", "5 differences\n"];
        says(&ran, layout, &lines);
        let ran = promote(&it, "--strict").exits(0);
        assert_eq!(ran.stderr, "", "{layout}");
        let counts = [
            "overlay files: 2 copied, 0 identical\n",
            "manifest files: 3 copied, 1 identical\n",
            "note: customized and committed: nvidia-oot\n",
            "initramfs: rebuilt",
        ];
        says(&ran, layout, &counts);
        assert!(!real.l4t("README").exists());
        // As the message of verify says.
        let ran = promote(&it, "verify").exits(1);
        says(&ran, layout, &["modules-dep: FAILED"]);
        real.depmod();
        let ran = promote(&it, "verify").exits(0);
        assert!(!ran.stdout.contains("FAILED"), "{layout}: {}", ran.stdout);
        let ran = promote(&it, "history").exits(0);
        assert_eq!(ran.stdout.matches("promote").count(), 1, "{}", ran.stdout);
        promote(&it, "status").exits(0);
        promote(&it, "diff --exit-code").exits(0);

        // A customization that was not built.
        let oot = it.path("Source/bsp_sources/nvidia-oot");
        fs::write(oot.join("nv.c"), "int newer;\n").unwrap();
        let edited = promote(&it, "").exits(1).stderr;
        assert!(edited.contains("has uncommitted edits"), "{edited}");
        it.git(&oot, &["commit", "-qam", "customize again"]);
        let stale = promote(&it, "").exits(1).stderr;
        assert!(stale.contains("nvidia-oot is at "), "{layout}: {stale}");
    }
}
