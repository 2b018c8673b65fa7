//! A directory with an image and a mount point. Whatever a test leaves mounted there
//! is unmounted on drop.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Image, Ran, TempDir, lbpayload, noise};

/// Whether nothing can be mounted here. If so, the skip is reported.
#[track_caller]
pub(crate) fn cannot_mount() -> bool {
    crate::support::cannot_use("/dev/fuse", "no /dev/fuse")
}

/// An image, and a directory to mount it on.
pub(crate) struct Fixture {
    dir: TempDir,
    pub(crate) image: PathBuf,
    pub(crate) point: PathBuf,
}

impl Fixture {
    pub(crate) fn new(image: &Image) -> Self {
        Self::with_bytes(&image.bytes())
    }

    pub(crate) fn with_bytes(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("external.img");
        std::fs::write(&image, bytes).unwrap();
        let point = dir.path().join("point");
        std::fs::create_dir(&point).unwrap();
        Self { dir, image, point }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `lbpayload mount ARGS IMAGE POINT`
    pub(crate) fn mount(&self, args: &[&str]) -> Ran {
        self.mount_on(args, &self.image, &self.point)
    }

    pub(crate) fn mount_on(&self, args: &[&str], source: &Path, point: &Path) -> Ran {
        Ran::of(lbpayload().arg("mount").args(args).arg(source).arg(point))
    }

    /// Like [`Fixture::mount`], which must succeed without output.
    #[track_caller]
    pub(crate) fn mounted(&self, args: &[&str]) -> &Path {
        let ran = self.mount(args).exits(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
        assert!(is_mounted(&self.point));
        &self.point
    }

    /// `lbpayload mount -f ARGS IMAGE POINT`, once it is ready.
    pub(crate) fn foreground(&self, args: &[&str]) -> Foreground {
        let mut command = lbpayload();
        command.args(["mount", "-f"]).args(args);
        Foreground::start(command.arg(&self.image).arg(&self.point), &self.point)
    }

    /// The mount must not be in use.
    pub(crate) fn unmount(&self, args: &[&str]) -> Ran {
        Ran::when_free(lbpayload().arg("unmount").args(args).arg(&self.point))
    }

    pub(crate) fn unmount_in_use(&self, args: &[&str]) -> Ran {
        Ran::of(lbpayload().arg("unmount").args(args).arg(&self.point))
    }

    pub(crate) fn server(&self) -> i32 {
        server_of(&self.point)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// Asserts that nothing is mounted here any more, no server runs for it, and no
    /// process uses the image.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        assert_eq!(mounts_below(self.dir()), [] as [PathBuf; 0]);
        let dir = self.dir();
        until("no process has the mount point open", || {
            users_of(dir).is_empty()
        });
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for point in mounts_below(self.dir.path()).iter().rev() {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

/// A server that is a child process of the test. It is killed on drop.
pub(crate) struct Foreground(pub(crate) Child);

impl Foreground {
    pub(crate) fn start(command: &mut Command, point: &Path) -> Self {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let this = Self(child);
        until("it is mounted", || is_mounted(point));
        // The server handles signals from its first reply on.
        let pid = this.pid();
        until("the server handles signals", || catches(pid, Signal::TERM));
        this
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for the process to end: its exit status, or -1 if a signal ended it.
    pub(crate) fn ends(&mut self) -> i32 {
        until("the server ends", || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the process has a handler for `signal`.
pub(crate) fn catches(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap_or("0").trim(), 16).unwrap();
    caught & (1 << (signal.as_raw() - 1)) != 0
}

/// The server's process, from the attribute of the mount.
pub(crate) fn server_of(point: &Path) -> i32 {
    attribute(point, "pid").unwrap().parse().unwrap()
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// A `user.lbpayload` attribute, or the errno.
pub(crate) fn attribute(path: &Path, name: &str) -> Result<String, i32> {
    let mut value = vec![0; 65536];
    let name = format!("user.lbpayload.{name}");
    match rustix::fs::getxattr(path, name, &mut value[..]) {
        Ok(len) => Ok(String::from_utf8(value[..len].to_vec()).unwrap()),
        Err(e) => Err(e.raw_os_error()),
    }
}

/// Waits for a condition that must become true. Fails only after a very long time.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z'))
}

/// The fields of /proc/self/mountinfo's lines whose mount point is `point`.
pub(crate) fn mount_lines(point: &Path) -> Vec<Vec<String>> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let fields = info
        .lines()
        .map(|line| line.split(' ').map(str::to_owned).collect());
    fields
        .filter(|fields: &Vec<String>| Path::new(&fields[4]) == point)
        .collect()
}

pub(crate) fn is_mounted(point: &Path) -> bool {
    !mount_lines(point).is_empty()
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = info.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

/// Other processes that have something below `dir` open, or have it in their
/// arguments.
pub(crate) fn users_of(dir: &Path) -> Vec<String> {
    let mut users = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = process.file_name();
        let name = name.to_string_lossy();
        let own = name == std::process::id().to_string();
        if own || !name.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let open = std::fs::read_dir(process.path().join("fd"));
        let open = open.into_iter().flatten().flatten();
        let mut open = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let args = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let args = String::from_utf8_lossy(&args).into_owned();
        if open.any(|path| path.starts_with(dir)) || args.contains(&*dir.to_string_lossy()) {
            users.push(format!("{name}: {}", args.replace('\0', " ")));
        }
    }
    users
}

/// The program called by another name.
pub(crate) fn called(name: &str) -> Command {
    let mut command = lbpayload();
    command.arg0(name);
    command
}

/// Runs a program that must succeed, and returns its output.
#[track_caller]
pub(crate) fn sh(program: &str, args: &[&dyn AsRef<OsStr>]) -> String {
    crate::support::check(Command::new(program).args(args.iter().map(|a| a.as_ref())))
}

/// Files of many different sizes, at unaligned offsets.
pub(crate) fn sample() -> Image {
    Image::new(&[
        ("z-first", b"hello"),
        ("empty", b""),
        ("large", &noise(1, 2_500_001)),
        ("medium", &noise(2, 70_003)),
        ("größe", b"last"),
    ])
}

/// The data of the file `name` in `image`.
pub(crate) fn data<'a>(image: &'a Image, name: &str) -> &'a [u8] {
    let files = image.files.iter();
    let mut named = files.filter(|(have, _)| have == name.as_bytes());
    &named.next().unwrap().1
}

/// The offset of its data.
pub(crate) fn data_offset(image: &Image, name: &str) -> u64 {
    let files = image.files.iter();
    let number = files.take_while(|(n, _)| n != name.as_bytes()).count();
    (image.header_offsets()[number] + 16 + name.len()) as u64
}
