//! Code that the tests share: hand-made images, damaged images, loop devices that
//! detach on drop, and running the program.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part of it

mod failure;
pub mod memory;
pub mod preload;
pub mod protected_state;
pub mod recorder;
pub mod skip;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[allow(unused_imports)]
pub use skip::{Lacks, skip};
#[allow(unused_imports)]
pub use tempfile::TempDir;

/// An image built from the specification without using code of the library.
#[derive(Debug, Clone)]
pub struct Image {
    pub wide: bool,
    pub files: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Image {
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let own = |(name, data): &(&str, &[u8])| (name.as_bytes().to_vec(), data.to_vec());
        Self {
            wide: true,
            files: files.iter().map(own).collect(),
        }
    }

    pub fn narrow(mut self) -> Self {
        self.wide = false;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"LBPAYLD1".to_vec();
        self.int(self.files.len() as u64, &mut out);
        for (name, data) in &self.files {
            self.int(name.len() as u64, &mut out);
            self.int(data.len() as u64, &mut out);
            out.extend_from_slice(name);
            out.extend_from_slice(data);
        }
        out
    }

    fn int(&self, value: u64, out: &mut Vec<u8>) {
        if self.wide {
            out.extend_from_slice(&value.to_le_bytes());
        } else {
            out.extend_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
        }
    }

    /// Offset of each entry's header.
    pub fn header_offsets(&self) -> Vec<usize> {
        let (head, entry) = if self.wide { (16, 16) } else { (12, 8) };
        let mut at = head;
        self.files
            .iter()
            .map(|(name, data)| {
                let this = at;
                at += entry + name.len() + data.len();
                this
            })
            .collect()
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// Pseudo-random bytes that differ for each seed and cannot be compressed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// The SHA-256 checksum in hexadecimal, from sha256sum(1) and not from the library.
pub fn sha256sum(data: &[u8]) -> String {
    use std::io::Write;
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum of coreutils");
    child.stdin.take().unwrap().write_all(data).unwrap();
    let out = child.wait_with_output().unwrap();
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

/// The command for the program, without arguments.
pub fn lbpayload() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbpayload"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    // promote runs git as the user who ran sudo, and the tests' repositories belong to root.
    command.env_remove("SUDO_UID");
    command
}

/// Runs the program.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    Ran::of(lbpayload().args(args))
}

/// The output of a run and its exit status.
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub stdout_bytes: Vec<u8>,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().expect("could not start the program");
        Self {
            status: status.code(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            stdout_bytes: stdout,
        }
    }

    /// Like [`Ran::of`], for a command that unmounts an unused mount. A process that
    /// another test starts inherits our open files for a moment, so the command is
    /// repeated while it reports "busy".
    pub fn when_free(command: &mut Command) -> Self {
        let mut ran = Self::of(command);
        for _ in 0..40 {
            let busy = ["os error 16", "target is busy", "resource busy"];
            if ran.status == Some(0) || !busy.iter().any(|said| ran.stderr.contains(said)) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
            ran = Self::of(command);
        }
        ran
    }

    /// Asserts the exit status, and that the program did not panic.
    #[track_caller]
    pub fn exits(self, status: i32) -> Self {
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert_eq!(
            self.status,
            Some(status),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Asserts that standard error contains `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "no {text:?} in: {}",
            self.stderr
        );
        self
    }
}

/// Everything in a directory, by name: the bytes of files, the type of other entries.
pub fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            let meta = entry.path().symlink_metadata().unwrap();
            let content = if meta.is_file() {
                std::fs::read(entry.path()).unwrap()
            } else {
                format!("{:?}", meta.file_type()).into_bytes()
            };
            (name, content)
        })
        .collect();
    found.sort();
    found
}

/// Whether device tests cannot run here. If so, the skip is reported.
#[track_caller]
pub fn cannot_use_devices() -> bool {
    cannot_use("/dev/loop-control", "no loop devices")
}

/// Whether a test that needs root and `device` cannot run here. If so, the skip is
/// reported.
#[track_caller]
pub fn cannot_use(device: &str, without: &str) -> bool {
    let why = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new(device).exists() {
        without
    } else {
        return false;
    };
    skip(Lacks::Setup, why);
    true
}

/// Skips the rest of a test with a message where devices cannot be used.
#[macro_export]
macro_rules! needs_devices {
    () => {
        if $crate::support::cannot_use_devices() {
            return;
        }
    };
}

/// A loop device that detaches on drop.
pub struct Loop {
    pub path: PathBuf,
}

impl Loop {
    pub fn attach(file: &Path, sector: u32) -> Self {
        Self::with(file, &["--sector-size", &sector.to_string()])
    }

    pub fn with(file: &Path, options: &[&str]) -> Self {
        let out = Command::new("losetup")
            .args(["--find", "--show"])
            .args(options)
            .arg(file)
            .output()
            .expect("losetup of util-linux");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        Self {
            path: PathBuf::from(String::from_utf8(out.stdout).unwrap().trim()),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
    }
}

/// A mounted file system that unmounts on drop.
pub struct Mounted {
    pub path: PathBuf,
    _device: Option<Loop>,
}

impl Mounted {
    /// Makes a file system of `kind` ("ext4", "xfs") with `bytes` on a loop device
    /// over a sparse file in `dir`, and mounts it there.
    pub fn make(kind: &str, dir: &Path, bytes: u64) -> Self {
        let image = dir.join(format!("{kind}.img"));
        std::fs::File::create(&image)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        let device = Loop::with(&image, &[]);
        let quiet = if kind == "ext4" { "-qF" } else { "-qf" };
        check(
            Command::new(format!("mkfs.{kind}"))
                .arg(quiet)
                .arg(&device.path),
        );
        let path = dir.join(format!("{kind}.mnt"));
        std::fs::create_dir(&path).unwrap();
        check(Command::new("mount").arg(&device.path).arg(&path));
        Self {
            path,
            _device: Some(device),
        }
    }

    /// Mounts a tmpfs of `bytes`.
    pub fn tmpfs(dir: &Path, bytes: u64) -> Self {
        let path = dir.join("tmpfs.mnt");
        std::fs::create_dir(&path).unwrap();
        check(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"])
                .arg(&path),
        );
        Self {
            path,
            _device: None,
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.path)
            .status();
    }
}

/// Runs a command and expects success.
#[track_caller]
pub fn check(command: &mut Command) -> String {
    let ran = Ran::when_free(command);
    assert!(ran.status == Some(0), "{command:?}: {}", ran.stderr);
    ran.stdout
}
