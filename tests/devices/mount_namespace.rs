//! The program in a mount namespace of its own, where the machine has just the
//! devices that a test wants it to have.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::disks::{name, number, size};
use crate::support::{Ran, TempDir};

/// What lists the devices in the view. `Proc` lacks /sys, `Dev` lacks both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    Sys,
    Proc,
    Dev,
}

/// A machine with certain block devices. Its /dev is its own, so that a node made
/// there is made in the view only; so is its directory for temporary files.
pub struct View {
    dir: TempDir,
    listing: Listing,
    devices: Vec<PathBuf>,
    nodes: Vec<PathBuf>,
    read_only_dev: bool,
    without: Vec<&'static str>,
}

impl View {
    pub fn of(devices: &[&Path], listing: Listing) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for made in ["sys", "tmp"] {
            fs::create_dir(dir.path().join(made)).unwrap();
        }
        let devices: Vec<PathBuf> = devices.iter().map(|&d| d.to_path_buf()).collect();
        Self {
            dir,
            listing,
            nodes: devices.clone(),
            devices,
            read_only_dev: false,
            without: Vec::new(),
        }
    }

    /// /dev has no nodes for the devices.
    pub fn without_nodes(mut self) -> Self {
        self.nodes.clear();
        self
    }

    /// /dev cannot be written.
    pub fn with_read_only_dev(mut self) -> Self {
        self.read_only_dev = true;
        self
    }

    /// The program lacks a capability ("mknod", "sys_admin").
    pub fn without(mut self, capability: &'static str) -> Self {
        self.without.push(capability);
        self
    }

    /// What is in its directory for temporary files.
    pub fn temporary_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("tmp")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Runs lbpayload in the view.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let program = Path::new(env!("CARGO_BIN_EXE_lbpayload"));
        self.run_program(program, args)
    }

    /// Runs a shell script in the view; `$0` is lbpayload, `$1` and on are `args`.
    #[track_caller]
    pub fn script<S: AsRef<OsStr>>(&self, script: &str, args: impl IntoIterator<Item = S>) -> Ran {
        let first = ["-uc", script, env!("CARGO_BIN_EXE_lbpayload")];
        let mut all: Vec<std::ffi::OsString> = first.iter().map(Into::into).collect();
        all.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self.run_program(Path::new("sh"), all)
    }

    /// Runs a program in the view.
    #[track_caller]
    pub fn run_program<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Ran {
        let ready = self.dir.path().join("ready");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--", "sh", "-euc", &self.setup(), "view"])
            .arg(program)
            .args(args)
            .env("TMPDIR", self.dir.path().join("tmp"))
            .env_remove("RUST_LOG")
            .current_dir("/")
            .stdin(Stdio::null());
        let ran = Ran::of(&mut command);
        assert!(ready.exists(), "the view could not be made: {}", ran.stderr);
        fs::remove_file(ready).unwrap();
        ran
    }

    /// The shell script that makes the view and then becomes the program.
    fn setup(&self) -> String {
        let dir = self.dir.path().display();
        let mut script = String::new();
        let mut line = |text: &str| writeln!(script, "{text}").unwrap();
        line("mount -t tmpfs -o mode=755 none /dev");
        line("mknod -m 666 /dev/null c 1 3");
        for node in &self.nodes {
            let (major, minor) = number(node);
            line(&format!(
                "mknod -m 600 /dev/{} b {major} {minor}",
                name(node)
            ));
        }
        if self.read_only_dev {
            line("mount -o remount,ro /dev");
        }
        line(&format!("mount --bind /sys {dir}/sys"));
        line("mount -t tmpfs none /sys");
        match self.listing {
            Listing::Sys => {
                line("mkdir -p /sys/class/block");
                for device in &self.devices {
                    let name = name(device);
                    let real = fs::canonicalize(format!("/sys/class/block/{name}")).unwrap();
                    let below = real.strip_prefix("/sys").unwrap().display();
                    line(&format!("ln -s {dir}/sys/{below} /sys/class/block/{name}"));
                }
            }
            Listing::Proc => {
                fs::write(self.dir.path().join("partitions"), self.partitions()).unwrap();
                line(&format!("mount --bind {dir}/partitions /proc/partitions"));
            }
            Listing::Dev => line("mount -t tmpfs none /proc"),
        }
        line(&format!(": > {dir}/ready"));
        if self.without.is_empty() {
            line("exec \"$@\"");
        } else {
            let dropped: Vec<String> = self.without.iter().map(|c| format!("-{c}")).collect();
            line(&format!(
                "exec setpriv --bounding-set {} -- \"$@\"",
                dropped.join(",")
            ));
        }
        script
    }

    /// /proc/partitions as the kernel writes it, in the order the test named them.
    fn partitions(&self) -> String {
        let mut text = "major minor  #blocks  name\n\n".to_owned();
        for device in &self.devices {
            let (major, minor) = number(device);
            writeln!(
                text,
                "{major:4}  {minor:7} {:10} {}",
                size(device) / 1024,
                name(device)
            )
            .unwrap();
        }
        text
    }
}
