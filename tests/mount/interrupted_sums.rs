//! Checksums that nobody waits for any more. Earlier, the killed caller stayed in the kernel until
//! its sum was complete, which for a large file takes hours.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::fixture::{Fixture, attribute, is_mounted, is_running, kill, until};
use crate::support::{Image, check};

/// An image of files of 64 GiB each, all of it holes. Each sum takes minutes.
fn huge(files: usize) -> Fixture {
    let fixture = Fixture::new(&Image::new(&[("small", b"hello")]));
    let mut bytes = Vec::new();
    let image = std::fs::File::create(&fixture.image).unwrap();
    bytes.extend_from_slice(b"LBPAYLD1");
    bytes.extend((files as u64).to_le_bytes());
    std::os::unix::fs::FileExt::write_all_at(&image, &bytes, 0).unwrap();
    let mut at = bytes.len() as u64;
    for n in 0..files {
        let name = format!("huge-{n:03}");
        let size = 1_u64 << 36;
        let mut header = (name.len() as u64).to_le_bytes().to_vec();
        header.extend(size.to_le_bytes());
        header.extend(name.as_bytes());
        std::os::unix::fs::FileExt::write_all_at(&image, &header, at).unwrap();
        at += header.len() as u64 + size;
    }
    image.set_len(at).unwrap();
    fixture
}

/// A process that asks for the sum of a file.
fn asking(file: &Path) -> Child {
    let mut command = Command::new("getfattr");
    command.args(["--absolute-names", "-n", "user.lbpayload.sha256"]);
    command
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

fn threads(server: i32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{server}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks
        .map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default())
        .map(|name| name.trim_end().to_owned())
        .collect()
}

fn computing(server: i32) -> usize {
    threads(server).iter().filter(|name| *name == "sum").count()
}

fn ends(mut child: Child) {
    until("the caller ends", || child.try_wait().unwrap().is_some());
}

#[test]
fn killed_caller_of_a_checksum_ends_and_so_does_the_sum() {
    needs_fuse!();
    let fixture = huge(1);
    fixture.mounted(&[]);
    let server = fixture.server();
    for signal in [Signal::KILL, Signal::TERM] {
        let caller = asking(&fixture.file("huge-000"));
        until("the sum is computed", || computing(server) == 1);
        kill(caller.id() as i32, signal);
        ends(caller);
        until("nothing is computed", || computing(server) == 0);
    }
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}

#[test]
fn hundred_checksums_at_once_take_a_few_threads_and_other_requests_are_answered() {
    needs_fuse!();
    let fixture = huge(100);
    fixture.mounted(&[]);
    let server = fixture.server();
    let callers: Vec<_> = (0..100)
        .map(|n| asking(&fixture.file(&format!("huge-{n:03}"))))
        .collect();
    until("sums are computed", || computing(server) == 2);
    assert_eq!(
        attribute(&fixture.file("huge-050"), "index"),
        Ok("50".into())
    );
    // All of them are in the server now, or wait for it.
    assert!(threads(server).len() < 20, "{:?}", threads(server));
    for caller in &callers {
        kill(caller.id() as i32, Signal::KILL);
    }
    callers.into_iter().for_each(ends);
    until("nothing is computed", || computing(server) == 0);
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}

#[test]
fn one_of_two_callers_can_be_killed_and_the_other_still_waits() {
    needs_fuse!();
    let fixture = huge(1);
    fixture.mounted(&[]);
    let server = fixture.server();
    let (first, mut second) = (
        asking(&fixture.file("huge-000")),
        asking(&fixture.file("huge-000")),
    );
    until("the sum is computed", || computing(server) == 1);
    kill(first.id() as i32, Signal::KILL);
    ends(first);
    assert!(second.try_wait().unwrap().is_none());
    assert_eq!(computing(server), 1);
    kill(second.id() as i32, Signal::KILL);
    ends(second);
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}

#[test]
fn every_way_to_detach_the_mount_stops_its_sums() {
    needs_fuse!();
    for how in ["signal", "lazy", "umount"] {
        let fixture = huge(3);
        fixture.mounted(&[]);
        let server = fixture.server();
        let callers: Vec<_> = (0..3)
            .map(|n| asking(&fixture.file(&format!("huge-{n:03}"))))
            .collect();
        until("sums are computed", || computing(server) == 2);
        fixture.unmount_in_use(&[]).exits(1).says("busy");
        match how {
            "signal" => kill(server, Signal::TERM),
            "lazy" => drop(fixture.unmount_in_use(&["--lazy"]).exits(0)),
            _ => drop(check(Command::new("umount").arg("-l").arg(&fixture.point))),
        }
        callers.into_iter().for_each(ends);
        until("the server ends", || !is_running(server));
        assert!(!is_mounted(&fixture.point));
        fixture.is_clean();
    }
}
