//! Servers that are killed, and the mounts that they leave behind.

use std::fs::File;
use std::process::Command;

use rustix::process::Signal;

use crate::fixture::{
    Fixture, attribute, is_mounted, is_running, kill, mount_lines, sample, until,
};
use crate::support::{check, tree};

/// A mount whose server was killed. Before that, the server had answered every
/// request whose result the kernel caches.
fn killed(options: &[&str]) -> Fixture {
    let fixture = Fixture::new(&sample());
    fixture.mounted(options);
    assert_eq!(tree(&fixture.point).len(), 5);
    let server = fixture.server();
    kill(server, Signal::KILL);
    until("the server dies", || !is_running(server));
    fixture
}

#[test]
fn unmount_removes_a_dead_mount_and_the_mount_point_can_be_reused() {
    needs_fuse!();
    for options in [&[][..], &["-o", "direct_io"]] {
        for lazy in [&[][..], &["--lazy"]] {
            let fixture = killed(options);
            assert!(is_mounted(&fixture.point));
            fixture.unmount(lazy).exits(0);
            assert!(!is_mounted(&fixture.point));
            fixture.mounted(options);
            assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
            fixture.unmount(&[]).exits(0);
            fixture.is_clean();
        }
    }
}

#[test]
fn unmount_removes_the_mount_of_a_server_killed_just_before() {
    needs_fuse!();
    for _ in 0..10 {
        let fixture = Fixture::new(&sample());
        fixture.mounted(&[]);
        kill(fixture.server(), Signal::KILL);
        // It may still have /dev/fuse open, but it answers no requests any more.
        let asked = attribute(&fixture.point, "pid").unwrap_err();
        assert!(
            [libc::ENOTCONN, libc::ECONNABORTED].contains(&asked),
            "{asked}"
        );
        fixture.unmount(&["--lazy"]).exits(0);
        assert!(!is_mounted(&fixture.point));
    }
}

#[test]
fn unmount_removes_a_dead_mount_that_is_in_use() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let file = File::open(fixture.file("large")).unwrap();
    let server = fixture.server();
    kill(server, Signal::KILL);
    until("the server dies", || !is_running(server));
    fixture.unmount(&[]).exits(0);
    assert!(!is_mounted(&fixture.point));
    assert!(std::os::unix::fs::FileExt::read_at(&file, &mut [0; 9], 2_000_000).is_err());
}

#[test]
fn umount_and_fusermount_remove_a_dead_mount() {
    needs_fuse!();
    for (program, args) in [("umount", &[][..]), ("fusermount3", &["-u"])] {
        let fixture = killed(&[]);
        check(Command::new(program).args(args).arg(&fixture.point));
        fixture.is_clean();
    }
}

#[test]
fn mounting_over_a_dead_mount_is_refused_with_advice() {
    needs_fuse!();
    let fixture = killed(&[]);
    for background in [&[][..], &["-f"]] {
        let ran = fixture.mount(background).exits(1);
        let ran = ran.says("Transport endpoint is not connected");
        ran.says(&format!("lbpayload unmount {}", fixture.point.display()));
        assert_eq!(mount_lines(&fixture.point).len(), 1);
    }
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}

#[test]
fn auto_unmount_removes_the_mount_of_a_killed_server() {
    needs_fuse!();
    for options in ["auto_unmount", "auto_unmount,direct_io,allow_other"] {
        let mut fixture = Fixture::new(&sample());
        fixture.point = fixture.dir().join("made");
        fixture.mounted(&["-o", options]);
        assert_eq!(tree(&fixture.point).len(), 5);
        let server = fixture.server();
        kill(server, Signal::KILL);
        until("it is unmounted", || !is_mounted(&fixture.point));
        until("the directory is removed", || !fixture.point.exists());
        fixture.is_clean();
        // And again on the same mount point.
        fixture.mounted(&["-o", options]);
        fixture.unmount(&[]).exits(0);
        assert!(!fixture.point.exists());
        fixture.is_clean();
    }
}

#[test]
fn auto_unmount_removes_the_mount_of_a_killed_foreground_server() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mut server = fixture.foreground(&["-o", "auto_unmount"]);
    assert_eq!(tree(&fixture.point).len(), 5);
    let file = File::open(fixture.file("large")).unwrap();
    server.signal(Signal::KILL);
    assert_eq!(server.ends(), -1);
    until("it is unmounted", || !is_mounted(&fixture.point));
    drop(file);
    fixture.is_clean();
}

#[test]
fn auto_unmount_does_not_remove_a_later_mount() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&["-o", "auto_unmount"]);
    let first = fixture.server();
    check(Command::new("umount").arg("-l").arg(&fixture.point));
    fixture.mounted(&["-o", "fsname=second"]);
    until("the first one ends", || !is_running(first));
    // Its second process has ended too, and nothing was unmounted.
    until("only the second one's processes are left", || {
        crate::fixture::users_of(fixture.dir()).len() == 1
    });
    assert_eq!(tree(&fixture.point).len(), 5);
    assert_eq!(mount_lines(&fixture.point).len(), 1);
}

#[test]
fn auto_unmount_process_keeps_no_files_open() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&["-o", "auto_unmount"]);
    let server = fixture.server();
    let users = crate::fixture::users_of(fixture.dir());
    assert_eq!(users.len(), 2, "{users:?}");
    let other = users
        .iter()
        .find(|user| !user.starts_with(&format!("{server}: ")));
    let other = other.unwrap().split(':').next().unwrap();
    let open = std::fs::read_dir(format!("/proc/{other}/fd")).unwrap();
    let open = open.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap());
    let open: Vec<_> = open
        .filter(|path| path.to_str() != Some("/dev/null"))
        .collect();
    assert_eq!(open.len(), 1, "{open:?}");
    assert!(open[0].to_string_lossy().starts_with("socket:"), "{open:?}");
}
