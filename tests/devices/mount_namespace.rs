//! Runs the program in a mount namespace of its own, where it sees only the devices
//! that a test gives it.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::disks::{name, number, size};
use crate::support::{Ran, TempDir};

/// What lists the devices in the namespace. `Proc` has no /sys, `Dev` has neither
/// /sys nor /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    Sys,
    Proc,
    Dev,
}

/// A machine with certain block devices. It has its own /dev, so that a node created
/// there does not appear on the host, and its own directory for temporary files.
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

    /// /dev is read-only.
    pub fn with_read_only_dev(mut self) -> Self {
        self.read_only_dev = true;
        self
    }

    /// The program does not have a capability ("mknod", "sys_admin").
    pub fn without(mut self, capability: &'static str) -> Self {
        self.without.push(capability);
        self
    }

    /// The files in its directory for temporary files.
    pub fn temporary_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("tmp")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Runs lbpayload in the namespace.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let program = Path::new(env!("CARGO_BIN_EXE_lbpayload"));
        self.run_program(program, args)
    }

    /// Runs a shell script in the namespace. `$0` is lbpayload, `$1` and following
    /// are `args`.
    #[track_caller]
    pub fn script<S: AsRef<OsStr>>(&self, script: &str, args: impl IntoIterator<Item = S>) -> Ran {
        let first = ["-uc", script, env!("CARGO_BIN_EXE_lbpayload")];
        let mut all: Vec<std::ffi::OsString> = first.iter().map(Into::into).collect();
        all.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self.run_program(Path::new("sh"), all)
    }

    /// Runs a program in the namespace.
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
        assert!(
            ready.exists(),
            "could not set up the namespace: {}",
            ran.stderr
        );
        fs::remove_file(ready).unwrap();
        ran
    }

    /// The shell script that sets up the namespace and then executes the program.
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

    /// /proc/partitions in the kernel's format, with the devices in the order given
    /// by the test.
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
