//! A staged image with a real kernel and its modules: Debian's for arm64, which
//! qemu/harness fetches once and keeps under target/.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::support::{Lacks, Ran, check, lbpayload, skip};

/// A staged image that is removed on drop. Its files are hard links to those that all
/// tests share, so tests change them only through [`RealImage::put`].
pub(crate) struct RealImage {
    dir: tempfile::TempDir,
    pub(crate) release: String,
}

impl RealImage {
    /// An image that fits together, with two gzip-compressed initramfs. `None` if the kernel
    /// cannot be fetched: then the test is skipped with a message.
    pub(crate) fn new() -> Option<Self> {
        let shared = shared()?;
        let dir = tempfile::Builder::new()
            .prefix("real-kernel-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        check(
            Command::new("cp")
                .arg("-al")
                .arg(shared)
                .arg(dir.path().join("Linux_for_Tegra")),
        );
        let modules = dir.path().join("Linux_for_Tegra/rootfs/lib/modules");
        let release = fs::read_dir(modules).unwrap().next().unwrap().unwrap();
        let release = release.file_name().into_string().unwrap();
        Some(Self { dir, release })
    }

    pub(crate) fn l4t(&self, rel: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("Linux_for_Tegra").join(rel)
    }

    /// A path below the directory of the modules.
    pub(crate) fn module(&self, rel: &str) -> PathBuf {
        self.l4t("rootfs/usr/lib/modules")
            .join(&self.release)
            .join(rel)
    }

    /// Writes a new file in the place of a shared one.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8]) {
        let _ = fs::remove_file(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn put_initrds(&self, bytes: &[u8]) {
        for name in ["bootloader/l4t_initrd.img", "rootfs/boot/initrd"] {
            self.put(&self.l4t(name), bytes);
        }
    }

    /// The modules in the initramfs, as paths below rootfs/.
    pub(crate) fn some_modules(&self) -> Vec<PathBuf> {
        some_modules(&self.l4t("rootfs"), &self.release)
    }

    /// A cpio archive of these files of rootfs/, made by cpio(1).
    pub(crate) fn archive(&self, files: &[PathBuf]) -> Vec<u8> {
        archive(&self.l4t("rootfs"), files)
    }

    pub(crate) fn depmod(&self) {
        check(
            Command::new("depmod")
                .arg("-b")
                .arg(self.l4t("rootfs"))
                .arg(&self.release),
        );
    }

    pub(crate) fn verify(&self, args: &[&str]) -> Ran {
        Ran::of(
            lbpayload()
                .args(["promote", "verify", "--image"])
                .arg(self.l4t(""))
                .args(args),
        )
    }
}

fn some_modules(rootfs: &Path, release: &str) -> Vec<PathBuf> {
    let dir = format!("usr/lib/modules/{release}/kernel/fs/nls");
    let names = fs::read_dir(rootfs.join(&dir)).unwrap();
    let mut all: Vec<PathBuf> = names
        .map(|entry| Path::new(&dir).join(entry.unwrap().file_name()))
        .collect();
    all.sort();
    all.truncate(12);
    all
}

fn archive(rootfs: &Path, files: &[PathBuf]) -> Vec<u8> {
    let mut names: Vec<&str> = vec!["lib", "usr", "usr/lib"];
    names.extend(files.iter().map(|path| path.to_str().unwrap()));
    let mut command = Command::new("cpio");
    command
        .args(["-o", "-H", "newc", "--quiet"])
        .current_dir(rootfs);
    piped(command, (names.join("\n") + "\n").as_bytes())
}

/// The output of a program that compresses.
pub(crate) fn pack(program: &str, args: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(args);
    piped(command, bytes)
}

fn piped(mut command: Command, bytes: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let out = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(out.status.success());
    out.stdout
}

/// `Linux_for_Tegra/`, made once.
fn shared() -> Option<&'static Path> {
    static SHARED: OnceLock<Option<PathBuf>> = OnceLock::new();
    SHARED.get_or_init(make).as_deref()
}

fn make() -> Option<PathBuf> {
    let script = "import sys; sys.path.insert(0, 'qemu'); from harness import debian\n\
                  print(debian.unpacked('linux-image-cloud-arm64', 'arm64'))";
    let fetched = Command::new("python3")
        .args(["-c", script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    if !fetched.status.success() {
        let said = String::from_utf8_lossy(&fetched.stderr);
        let last = said.lines().last().unwrap_or_default();
        skip(
            Lacks::Machine,
            &format!("Debian's kernel for arm64 cannot be fetched: {last}"),
        );
        return None;
    }
    let package = String::from_utf8(fetched.stdout).unwrap();
    let package = Path::new(package.trim());
    let only = |dir: &str, start: &str| {
        let entries = fs::read_dir(package.join(dir)).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(start)
        };
        paths.find(is_it).unwrap()
    };
    let modules = only("lib/modules", "");
    let release = modules.file_name().unwrap();
    let whole = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("real-kernel")
        .join(release);
    if whole.exists() {
        return Some(whole);
    }
    fs::create_dir_all(whole.parent().unwrap()).unwrap();
    let fresh = tempfile::tempdir_in(whole.parent().unwrap()).unwrap();
    let at = |rel: &str| fresh.path().join(rel);
    for dir in [
        "kernel",
        "bootloader",
        "rootfs/boot",
        "rootfs/usr/lib/modules",
    ] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    symlink("usr/lib", at("rootfs/lib")).unwrap();
    for image in ["kernel/Image", "rootfs/boot/Image"] {
        fs::copy(only("boot", "vmlinuz-"), at(image)).unwrap();
    }
    check(
        Command::new("cp")
            .arg("-a")
            .arg(&modules)
            .arg(at("rootfs/usr/lib/modules")),
    );
    check(
        Command::new("depmod")
            .arg("-b")
            .arg(at("rootfs"))
            .arg(release),
    );
    keep_file_systems(&at("rootfs/usr/lib/modules").join(release));
    check(
        Command::new("depmod")
            .arg("-b")
            .arg(at("rootfs"))
            .arg(release),
    );
    let rootfs = at("rootfs");
    let modules = some_modules(&rootfs, release.to_str().unwrap());
    let initrd = pack("gzip", &["-n"], &archive(&rootfs, &modules));
    for path in ["bootloader/l4t_initrd.img", "rootfs/boot/initrd"] {
        fs::write(at(path), &initrd).unwrap();
    }
    fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Another test may have been faster.
    let _ = fs::rename(fresh.keep(), &whole);
    Some(whole)
}

/// Removes all modules but those of file systems, and what they depend on, so that the
/// tests take less time.
fn keep_file_systems(dir: &Path) {
    let dep = fs::read_to_string(dir.join("modules.dep")).unwrap();
    let kept: BTreeSet<&str> = dep
        .lines()
        .filter(|line| line.starts_with("kernel/fs/"))
        .flat_map(|line| line.split([':', ' ']))
        .collect();
    for line in dep.lines() {
        let module = line.split(':').next().unwrap();
        if !kept.contains(module) {
            fs::remove_file(dir.join(module)).unwrap();
        }
    }
}
