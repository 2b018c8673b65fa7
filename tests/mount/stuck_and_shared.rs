//! Servers that do not answer, and mounts that other mounts keep alive.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::fixture::{Fixture, is_mounted, is_running, kill, sample, until};
use crate::support::check;

/// A server that does not answer. It continues on drop.
struct Stopped(i32);

impl Stopped {
    fn new(server: i32) -> Self {
        kill(server, Signal::STOP);
        until("the server stops", || {
            let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
            stat.contains(") T ")
        });
        Self(server)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, Signal::CONT);
    }
}

#[test]
fn lazy_unmount_works_while_the_server_does_not_answer() {
    needs_fuse!();
    for path in ["point", "point/", "point/.", "link"] {
        let fixture = Fixture::new(&sample());
        std::os::unix::fs::symlink(&fixture.point, fixture.dir().join("link")).unwrap();
        fixture.mounted(&[]);
        let server = fixture.server();
        let stopped = Stopped::new(server);
        let mut command = Command::new("timeout");
        command
            .args(["-s", "KILL", "60"])
            .arg(env!("CARGO_BIN_EXE_lbpayload"));
        command
            .args(["unmount", "--lazy"])
            .arg(fixture.dir().join(path));
        check(&mut command);
        assert!(!is_mounted(&fixture.point));
        drop(stopped);
        until("the server ends", || !is_running(server));
        fixture.is_clean();
    }
}

#[test]
fn unmount_gives_up_when_the_server_does_not_answer_and_says_what_helps() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let stopped = Stopped::new(fixture.server());
    let ran = fixture.unmount_in_use(&["--timeout", "1"]).exits(1);
    let ran = ran.says("has not answered for 1 s");
    ran.says(&format!(
        "`lbpayload unmount --lazy {}`",
        fixture.point.display()
    ));
    assert!(is_mounted(&fixture.point));
    drop(stopped);
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}

/// A process in a mount namespace of its own, as a container has one. It is killed on drop.
struct Container(Child);

impl Container {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "--kill-child",
                "--fork",
            ])
            .args(["sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut said).unwrap();
        Self(child)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn unmount_does_not_wait_for_ever_for_a_mount_in_a_container_and_names_it() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let server = fixture.server();
    let container = Container::new();
    let ran = fixture.unmount(&["--timeout", "1"]).exits(0);
    let ran = ran.says("warning: ").says("still mounted elsewhere");
    let ran = ran.says(&format!("has it on `{}`", fixture.point.display()));
    // The process of the namespace: `unshare` itself, or the shell that it has started.
    let pid = container.0.id();
    let is_named = [pid, pid + 1]
        .iter()
        .any(|p| ran.stderr.contains(&format!("process {p} (")));
    assert!(is_named, "{}", ran.stderr);
    assert!(!is_mounted(&fixture.point) && is_running(server));
    drop(container);
    until("the server ends", || !is_running(server));
    fixture.is_clean();
}

#[test]
fn unmount_names_a_bind_mount_that_keeps_the_server() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let server = fixture.server();
    let second = fixture.dir().join("second");
    std::fs::create_dir(&second).unwrap();
    check(
        Command::new("mount")
            .arg("--bind")
            .arg(&fixture.point)
            .arg(&second),
    );
    let ran = fixture.unmount(&["--timeout", "1"]).exits(0);
    ran.says(&format!("has it on `{}`", second.display()));
    assert!(!is_mounted(&fixture.point) && is_mounted(&second));
    assert_eq!(std::fs::read(second.join("z-first")).unwrap(), b"hello");
    check(Command::new("umount").arg(&second));
    until("the server ends", || !is_running(server));
    fixture.is_clean();
}
