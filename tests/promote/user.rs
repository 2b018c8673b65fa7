//! A user with a rule in sudoers, removed on drop.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::check;
use crate::workspace::Workspace;

pub(crate) const PASSWORD: &str = "correct horse";

/// useradd(8) needs a lock and does not wait for it.
static ACCOUNTS: Mutex<()> = Mutex::new(());

pub(crate) struct User {
    name: String,
    pub(crate) uid: u32,
    rule: PathBuf,
    program: PathBuf,
    bin: PathBuf,
}

impl User {
    /// A user who owns the workspace except its rootfs. In `rule`, `PROGRAM` stands
    /// for the copy of the program that [`User::promote`] runs, `TOOL` for the
    /// initramfs tool, `ROOTFS` for the image's rootfs.
    pub(crate) fn new(it: &Workspace, rule: Option<&str>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lbp{}x{number}", std::process::id());
        // In a directory where every user may run it.
        let program = it.path("lbpayload");
        fs::copy(env!("CARGO_BIN_EXE_lbpayload"), &program).unwrap();
        let _guard = ACCOUNTS.lock().unwrap_or_else(|e| e.into_inner());
        check(Command::new("useradd").args(["--no-create-home", "--shell", "/bin/sh", &name]));
        let uid = check(Command::new("id").args(["-u", &name]));
        let user = Self {
            uid: uid.trim().parse().unwrap(),
            rule: Path::new("/etc/sudoers.d").join(&name),
            program,
            bin: it.path("bin"),
            name,
        };
        let line = format!("{}:{PASSWORD}", user.name);
        check(Command::new("sh").args(["-c", "printf %s \"$0\" | chpasswd", &line]));
        if let Some(rule) = rule {
            let rule = rule
                .replace("PROGRAM", user.program.to_str().unwrap())
                .replace(
                    "TOOL",
                    it.l4t("tools/l4t_update_initrd.sh").to_str().unwrap(),
                )
                .replace("ROOTFS", it.l4t("rootfs").to_str().unwrap());
            fs::write(&user.rule, format!("{} ALL=(root) {rule}\n", user.name)).unwrap();
            fs::set_permissions(&user.rule, fs::Permissions::from_mode(0o440)).unwrap();
        }
        // A sudo that logs its arguments.
        fs::create_dir(&user.bin).unwrap();
        let log = it.path("sudo.log");
        fs::write(&log, "").unwrap();
        let wrapper = format!(
            "#!/bin/sh\necho \"$@\" >> '{}'\nexec /usr/bin/sudo \"$@\"\n",
            log.display()
        );
        fs::write(user.bin.join("sudo"), wrapper).unwrap();
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(user.bin.join("sudo"), all).unwrap();
        it.give_to(user.uid);
        user
    }

    /// Sets an option of sudo for this user.
    pub(crate) fn sudo_option(&self, option: &str) {
        let mut text = fs::read_to_string(&self.rule).unwrap();
        text += &format!("Defaults:{} {option}\n", self.name);
        fs::write(&self.rule, text).unwrap();
    }

    /// `lbpayload promote …` as this user, without a terminal for a password prompt.
    pub(crate) fn promote(&self, it: &Workspace) -> Command {
        let mut command = Command::new("setsid");
        command
            .arg("--wait")
            .arg(&self.program)
            .args(["promote", "--workspace"])
            .arg(it.path(""))
            .uid(self.uid)
            .gid(self.uid)
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/local/bin:/usr/bin:/bin", self.bin.display()),
            )
            .env("HOME", it.path(""))
            .env("USER", &self.name)
            .stdin(std::process::Stdio::null());
        command
    }

    /// The same, killed at the `n`th `call` of its main thread. False if there are
    /// fewer calls. strace(1) runs as root and starts the program as the user, so
    /// sudo works.
    pub(crate) fn promote_killed_at(&self, it: &Workspace, call: &str, n: u32) -> bool {
        let mut command = Command::new("setsid");
        command
            .args([
                "--wait",
                "strace",
                "-qq",
                "-o",
                "/dev/null",
                "-u",
                &self.name,
            ])
            .args(["-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:signal=KILL:when={n}")])
            .arg(&self.program)
            .args(["promote", "--workspace"])
            .arg(it.path(""))
            .env(
                "PATH",
                format!("{}:/usr/local/bin:/usr/bin:/bin", self.bin.display()),
            )
            .stdin(std::process::Stdio::null());
        !command.output().unwrap().status.success()
    }

    /// Whether a process of the program is still running, for example the helper.
    pub(crate) fn is_running(&self) -> bool {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .map(|p| p.path().join("exe"))
            .any(|exe| fs::read_link(exe).is_ok_and(|program| program == self.program))
    }

    /// The sudo calls since the last time.
    pub(crate) fn asked(&self, it: &Workspace) -> Vec<String> {
        let log = it.path("sudo.log");
        let text = fs::read_to_string(&log).unwrap();
        fs::write(&log, "").unwrap();
        let program = self.program.to_str().unwrap();
        let tool = it.l4t("tools/l4t_update_initrd.sh");
        text.lines()
            .map(|line| {
                line.replace(program, "PROGRAM")
                    .replace(tool.to_str().unwrap(), "TOOL")
                    .replace(it.l4t("rootfs").to_str().unwrap(), "ROOTFS")
            })
            .collect()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _guard = ACCOUNTS.lock().unwrap_or_else(|e| e.into_inner());
        let _ = fs::remove_file(&self.rule);
        let _ = fs::remove_file(Path::new("/var/lib/sudo/lectured").join(&self.name));
        let _ = fs::remove_file(Path::new("/run/sudo/ts").join(&self.name));
        let _ = Command::new("userdel").arg(&self.name).output();
    }
}
