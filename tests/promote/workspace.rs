//! A small workspace like those of BSP engineers: merged-usr rootfs, absolute
//! symlinks, files of root, setuid and capability bits, an overlay, kernel
//! repositories.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::snapshot::{Snapshot, raw_capability, touch_all};
use crate::support::{Ran, check, lbpayload};

/// A workspace that is removed on drop.
pub(crate) struct Workspace {
    // Unmounted before the directory is removed.
    _memory: Option<Memory>,
    dir: tempfile::TempDir,
}

/// A file system in memory, mounted at a path.
struct Memory(PathBuf);

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// NVIDIA's tool does more. What matters here is that it depends on the modules and
/// writes these two files.
const TOOL: &str = r#"#!/bin/sh
[ "$(id -u)" = 0 ] || { echo "not root"; exit 1; }
[ -d rootfs ] || { echo "started elsewhere"; exit 1; }
echo "making the initramfs of $PWD"
echo run >> ../../initramfs-runs
[ ! -e ../../tool-fails ] || { echo "no space in the chroot" >&2; exit 3; }
{ cat rootfs/boot/Image; cd rootfs/usr/lib/modules && find . -type f | sort | xargs cat; } |
    sha256sum > bootloader/l4t_initrd.img
cp bootloader/l4t_initrd.img rootfs/boot/initrd
touch -d @1700000000 bootloader/l4t_initrd.img rootfs/boot/initrd
"#;

pub(crate) const MODULES: &str = "rootfs/lib/modules/6.8.12-tegra";

impl Workspace {
    /// A workspace with an overlay of one commit and a manifest of four artifacts,
    /// all up to date.
    pub(crate) fn new() -> Self {
        Self::new_in(Self::in_directory())
    }

    /// The same on a file system in memory, for tests with hundreds of runs, which would wait
    /// for the disk most of the time. A process that is killed loses nothing on either.
    pub(crate) fn in_memory() -> Self {
        let mut this = Self::in_directory();
        let kind = Some("tmpfs");
        let flags = MsFlags::empty();
        // Where this is not permitted, the disk will do.
        if mount(kind, this.dir.path(), kind, flags, Some("mode=755")).is_ok() {
            this._memory = Some(Memory(this.dir.path().to_path_buf()));
        }
        Self::new_in(this)
    }

    fn new_in(this: Self) -> Self {
        static MADE: OnceLock<Snapshot> = OnceLock::new();
        let this = this.restored(MADE.get_or_init(|| {
            let this = Self::empty();
            this.write_overlay("bootloader/board.conf", "overlay board\n");
            this.write_overlay("rootfs/etc/nvpmodel/nvpmodel.conf", "overlay model\n");
            this.write_overlay("kernel/dtb/custom.dtbo", "overlay dtbo\n");
            this.commit("customize");
            this.state();
            Snapshot::of(this.dir.path())
        }));
        // The manifest has the path of the workspace in it.
        let built = [
            ("kernel/Image", "kernel_image", "new kernel\n"),
            ("kernel/dtb/board.dtb", "dtb", "new dtb\n"),
            (
                &format!("{MODULES}/kernel/net.ko"),
                "in_tree_module",
                "new net module\n",
            ),
            (
                &format!("{MODULES}/updates/nv.ko"),
                "oot_module",
                "new nv module\n",
            ),
        ];
        this.manifest(&built);
        this
    }

    /// The workspace without overlay commit and manifest.
    pub(crate) fn empty() -> Self {
        static MADE: OnceLock<Snapshot> = OnceLock::new();
        Self::in_directory().restored(MADE.get_or_init(|| Snapshot::of(Self::make().dir.path())))
    }

    /// Some hundred tests and runs need a workspace, and each would start some twenty processes.
    fn restored(self, snapshot: &Snapshot) -> Self {
        snapshot.restore(self.dir.path());
        self
    }

    fn in_directory() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("promote-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        Self { _memory: None, dir }
    }

    fn make() -> Self {
        let this = Self::in_directory();
        this.put("target-platform/active_target.yml", "active: thor.yaml\n");
        this.put(
            "target-platform/thor.yaml",
            "reference_devkit:\n  module: {id: p3834}\nbsp_image:\n  version: \"38.2.0\"\n\
             source:\n  toolchain: /opt/x-\n  repos: {a: b}\n",
        );
        this.image();
        let overlay = this.overlay();
        fs::create_dir_all(&overlay).unwrap();
        this.git(&overlay, &["init", "-q", "-b", "main"]);
        for repo in ["kernel/kernel-noble", "nvidia-oot"] {
            let dir = this.path("Source/bsp_sources").join(repo);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("Makefile"), repo).unwrap();
            this.git(&dir, &["init", "-q", "-b", "main"]);
            this.git(&dir, &["add", "."]);
            this.git(&dir, &["commit", "-qm", "as shipped"]);
        }
        this
    }

    fn image(&self) {
        let root = "Image/Linux_for_Tegra/rootfs/";
        let put = |path: &str, text: &str, mode: u32| {
            let path = self.put(format!("{root}{path}"), text);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        put("usr/bin/sudo", "a setuid program\n", 0o4755);
        let ping = put("usr/bin/ping", "a program with a capability\n", 0o755);
        check(Command::new("setcap").arg("cap_net_raw+ep").arg(ping));
        let shadow = put("etc/shadow", "root:*:\n", 0o640);
        lchown(&shadow, Some(0), Some(42)).unwrap();
        put("etc/nvpmodel/nvpmodel.conf", "as shipped\n", 0o600);
        put("etc/hostname", "tegra\n", 0o644);
        put("boot/Image", "old kernel\n", 0o644);
        put("boot/initrd", "old initrd\n", 0o644);
        put("root/.profile", "private\n", 0o600);
        fs::set_permissions(
            self.path(format!("{root}root")),
            fs::Permissions::from_mode(0o700),
        )
        .unwrap();
        put(
            "usr/lib/modules/6.8.12-tegra/kernel/net.ko",
            "old net module\n",
            0o644,
        );
        for dir in [
            "run",
            "etc/alternatives",
            "usr/lib/modules/6.8.12-tegra/updates",
        ] {
            fs::create_dir_all(self.path(format!("{root}{dir}"))).unwrap();
        }
        for (link, target) in [
            ("lib", "usr/lib"),
            ("bin", "usr/bin"),
            ("etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"),
            ("etc/alternatives/editor", "/usr/bin/nano"),
        ] {
            symlink(target, self.path(format!("{root}{link}"))).unwrap();
        }
        let l4t = "Image/Linux_for_Tegra/";
        for (path, text) in [
            ("kernel/Image", "old kernel\n"),
            ("kernel/dtb/board.dtb", "old dtb\n"),
            ("bootloader/initrd", "never touched\n"),
            ("bootloader/l4t_initrd.img", "old initrd\n"),
        ] {
            self.put(format!("{l4t}{path}"), text);
        }
        let tool = self.put(format!("{l4t}tools/l4t_update_initrd.sh"), TOOL);
        fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).unwrap();
        // So that two workspaces are identical.
        touch_all(&self.l4t(""), 1_500_000_000);
    }

    pub(crate) fn path(&self, rel: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(rel)
    }

    pub(crate) fn l4t(&self, rel: impl AsRef<Path>) -> PathBuf {
        self.path("Image/Linux_for_Tegra").join(rel)
    }

    pub(crate) fn overlay(&self) -> PathBuf {
        self.path("Source/Linux_for_Tegra")
    }

    pub(crate) fn read(&self, rel: &str) -> String {
        let path = self.l4t(rel);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Writes a file of the workspace, with the folders above it.
    pub(crate) fn put(&self, rel: impl AsRef<Path>, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(rel);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn write_overlay(&self, rel: impl AsRef<Path>, text: impl AsRef<[u8]>) -> PathBuf {
        self.put(Path::new("Source/Linux_for_Tegra").join(rel), text)
    }

    pub(crate) fn git(&self, dir: &Path, args: &[&str]) -> String {
        let out = check(
            Command::new("git")
                .args(["-c", "user.name=Dev", "-c", "user.email=dev@example.com"])
                .args(["-c", "protocol.file.allow=always"])
                .args(["-c", &format!("safe.directory={}", dir.display())])
                .args(args)
                .current_dir(dir)
                .stdin(Stdio::null())
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                // So that two workspaces are identical.
                .env("GIT_COMMITTER_DATE", "1650000000 +0000")
                .env("LC_ALL", "C"),
        );
        out.trim().to_owned()
    }

    /// Commits everything in the overlay and returns the commit.
    pub(crate) fn commit(&self, message: &str) -> String {
        let overlay = self.overlay();
        self.git(&overlay, &["add", "-A"]);
        self.git(&overlay, &["commit", "-qm", message]);
        // So that two workspaces are identical.
        touch_all(&overlay, 1_650_000_000);
        self.git(&overlay, &["rev-parse", "HEAD"])
    }

    /// Simulates a build: files under `bsp_sources/out`, and a manifest of them.
    pub(crate) fn manifest(&self, built: &[(&str, &str, &str)]) {
        let artifacts: Vec<_> = built
            .iter()
            .map(|(dst, kind, text)| {
                let name = dst.replace(['/', '.'], "-");
                let src = self.put(format!("Source/bsp_sources/out/{name}"), text);
                touch_all(&src, 1_600_000_000);
                (src.to_str().unwrap().to_owned(), (*dst).to_owned(), *kind)
            })
            .collect();
        self.manifest_of(&artifacts);
    }

    /// A manifest of `(src, dst, kind)`.
    pub(crate) fn manifest_of(&self, artifacts: &[(String, String, &str)]) {
        let mut text = String::from(
            "mode: full\ntoolchain: /opt/x-\nbsp_version: \"38.2.0\"\n\
             rebuilt_at: 2026-05-01T10:00:00Z\ndirty_repos: []\nartifacts:\n",
        );
        for (src, dst, kind) in artifacts {
            text += &format!(
                "  - kind: {kind}\n    src: {}\n    dst: {}\n    source_repo: nvidia-oot\n",
                serde_json::to_string(src).unwrap(),
                serde_json::to_string(dst).unwrap()
            );
        }
        self.put("Source/.build-manifest.yaml", text);
    }

    /// Records that everything was built in its present state.
    pub(crate) fn state(&self) {
        let mut text =
            String::from("toolchain: /opt/x-\nbsp_version: \"38.2.0\"\nmode: full\nrepos:\n");
        for repo in ["kernel/kernel-noble", "nvidia-oot"] {
            let dir = self.path("Source/bsp_sources").join(repo);
            text += &format!("  {repo}: {}\n", self.git(&dir, &["rev-parse", "HEAD"]));
        }
        self.put("Source/.build-state.yaml", text);
    }

    /// `lbpayload promote` in this workspace.
    pub(crate) fn command(&self) -> Command {
        let mut command = lbpayload();
        command
            .args(["promote", "--workspace"])
            .arg(self.dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
    }

    pub(crate) fn promote(&self, args: &[&str]) -> Ran {
        Ran::of(self.command().args(args))
    }

    /// `lbpayload promote ACTION --image …`.
    pub(crate) fn action(&self, args: &[&str]) -> Ran {
        let (action, rest) = args.split_first().unwrap();
        Ran::of(
            lbpayload()
                .args(["promote", action, "--image"])
                .arg(self.l4t(""))
                .args(rest),
        )
    }

    /// The number of initramfs rebuilds.
    pub(crate) fn refreshes(&self) -> usize {
        fs::read_to_string(self.path("initramfs-runs")).map_or(0, |text| text.lines().count())
    }

    /// The image as a device would get it: every path with type, mode, owner, content
    /// and capability, without the `.lbpayload` folder.
    pub(crate) fn image_now(&self) -> BTreeMap<PathBuf, String> {
        let mut all = self.everything();
        all.retain(|path, _| !path.starts_with(".lbpayload"));
        all
    }

    /// The same with the `.lbpayload` folder, and with the times that change with
    /// every write.
    pub(crate) fn everything_and_when(&self) -> BTreeMap<PathBuf, String> {
        let mut all = self.everything();
        for (path, what) in &mut all {
            let meta = self.l4t(path).symlink_metadata().unwrap();
            *what += &format!(" {} {} {}", meta.mtime(), meta.ctime(), meta.ctime_nsec());
        }
        all
    }

    fn everything(&self) -> BTreeMap<PathBuf, String> {
        let top = self.l4t("");
        let mut found = BTreeMap::new();
        let mut dirs = vec![top.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                let what = if meta.is_dir() {
                    dirs.push(path.clone());
                    "directory".to_owned()
                } else if meta.is_symlink() {
                    format!("-> {}", fs::read_link(&path).unwrap().display())
                } else if meta.is_file() {
                    let text = fs::read(&path).unwrap();
                    let mtime = meta.mtime();
                    let shown = if text.len() < 100 {
                        String::from_utf8_lossy(&text).into_owned()
                    } else {
                        let mut hasher = DefaultHasher::new();
                        text.hash(&mut hasher);
                        format!("{} bytes, {:x}", text.len(), hasher.finish())
                    };
                    let capability = raw_capability(&path).map(|_| capability(&path));
                    format!("{shown} mtime {mtime} {}", capability.unwrap_or_default())
                } else {
                    format!("{:?}", meta.file_type())
                };
                let rel = path.strip_prefix(&top).unwrap().to_path_buf();
                let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
                found.insert(rel, format!("{mode:o} {uid}:{gid} {what}"));
            }
        }
        found
    }

    /// Gives everything except `rootfs/` to a user.
    pub(crate) fn give_to(&self, uid: u32) {
        let mut dirs = vec![self.dir.path().to_path_buf()];
        lchown(self.dir.path(), Some(uid), Some(uid)).unwrap();
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                if path == self.l4t("rootfs") {
                    continue;
                }
                lchown(&path, Some(uid), Some(uid)).unwrap();
                if path.symlink_metadata().unwrap().is_dir() {
                    dirs.push(path);
                }
            }
        }
    }
}

/// The file capability, as getfattr(1) shows it.
pub(crate) fn capability(path: &Path) -> String {
    let out = Command::new("getcap").arg(path).output().unwrap();
    String::from_utf8_lossy(&out.stdout)
        .trim()
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Skips the rest of a test with a message where it cannot run.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            $crate::support::skip($crate::support::Lacks::Setup, "not root");
            return;
        }
    };
}
