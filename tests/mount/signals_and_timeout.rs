//! Mounts that end because of a signal, `-o timeout=`, or another program.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Command;

use rustix::process::Signal;

use crate::fixture::{Fixture, is_mounted, is_running, kill, sample, until};
use crate::support::check;

#[test]
fn each_signal_ends_the_mount_and_nothing_is_left() {
    needs_fuse!();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut fixture = Fixture::new(&sample());
        fixture.point = fixture.dir().join("made");
        let mut server = fixture.foreground(&[]);
        server.signal(signal);
        assert_eq!(server.ends(), 0);
        assert!(!fixture.point.exists());
        fixture.is_clean();
    }
}

#[test]
fn first_signal_waits_for_the_last_user_and_a_second_one_does_not() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mut server = fixture.foreground(&[]);
    let file = File::open(fixture.file("large")).unwrap();
    server.signal(Signal::TERM);
    until("the mount is not visible any more", || {
        !is_mounted(&fixture.point)
    });
    let read = |at| {
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).map(|()| byte[0])
    };
    assert_eq!(
        read(2_000_000).unwrap(),
        crate::support::noise(1, 2_500_001)[2_000_000]
    );
    assert!(server.0.try_wait().unwrap().is_none());
    server.signal(Signal::TERM);
    assert_eq!(server.ends(), -1);
    let code = read(1_000_000).unwrap_err().raw_os_error().unwrap();
    assert!(
        [libc::ENOTCONN, libc::ECONNABORTED].contains(&code),
        "{code}"
    );
    drop(file);
    fixture.is_clean();
}

#[test]
fn signal_received_while_covered_by_another_mount_takes_effect_later() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mut server = fixture.foreground(&[]);
    check(
        Command::new("mount")
            .args(["-t", "tmpfs", "cover"])
            .arg(&fixture.point),
    );
    server.signal(Signal::TERM);
    let mut said = String::new();
    let stderr = server.0.stderr.as_mut().unwrap();
    BufReader::new(stderr).read_line(&mut said).unwrap();
    assert!(said.contains("another mount covers"), "{said}");
    check(Command::new("umount").arg(&fixture.point));
    assert_eq!(server.ends(), 0);
    assert!(!is_mounted(&fixture.point));
    fixture.is_clean();
}

#[test]
fn mount_ends_after_a_parent_directory_was_renamed() {
    needs_fuse!();
    for (options, signal) in [
        (&[][..], Some(Signal::TERM)),
        (&["-o", "timeout=1"], None),
        (&["-o", "direct_io"], Some(Signal::INT)),
    ] {
        let mut fixture = Fixture::new(&sample());
        let (old, new) = (fixture.dir().join("old"), fixture.dir().join("a new\\one"));
        std::fs::create_dir(&old).unwrap();
        fixture.point = old.join("made");
        fixture.mounted(options);
        let server = fixture.server();
        std::fs::rename(&old, &new).unwrap();
        signal.into_iter().for_each(|signal| kill(server, signal));
        until("the server ends", || !is_running(server));
        fixture.is_clean();
        assert_eq!(std::fs::read_dir(&new).unwrap().count(), 0);
    }
}

#[test]
fn server_ends_when_the_last_user_closes_the_file() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mut server = fixture.foreground(&[]);
    let file = File::open(fixture.file("large")).unwrap();
    server.signal(Signal::INT);
    until("the mount is not visible any more", || {
        !is_mounted(&fixture.point)
    });
    drop(file);
    assert_eq!(server.ends(), 0);
    fixture.is_clean();
}

#[test]
fn umount_and_fusermount_end_the_server() {
    needs_fuse!();
    for (program, args) in [
        ("umount", &[][..]),
        ("umount", &["-l"]),
        ("umount", &["-t", "fuse.lbpayload"]),
        ("fusermount3", &["-u"]),
        ("fusermount3", &["-u", "-z"]),
    ] {
        let fixture = Fixture::new(&sample());
        fixture.mounted(&["-o", "auto_unmount"]);
        let server = fixture.server();
        check(Command::new(program).args(args).arg(&fixture.point));
        until("the server ends", || !is_running(server));
        fixture.is_clean();
    }
}

#[test]
fn idle_mount_ends_after_the_timeout() {
    needs_fuse!();
    let mut fixture = Fixture::new(&sample());
    fixture.point = fixture.dir().join("made");
    fixture.mounted(&["-o", "timeout=1"]);
    let server = fixture.server();
    until("the server ends", || !is_running(server));
    assert!(!fixture.point.exists());
    fixture.is_clean();
}

#[test]
fn mount_with_an_open_file_is_not_idle() {
    needs_fuse!();
    for how in ["timeout=1", "timeout=1,direct_io"] {
        let fixture = Fixture::new(&sample());
        fixture.mounted(&["-o", how]);
        let server = fixture.server();
        let file = File::open(fixture.file("z-first")).unwrap();
        // Wait until another mount that started later has ended because of its
        // timeout.
        let other = Fixture::new(&sample());
        other.mounted(&["-o", "timeout=2"]);
        let its = other.server();
        until("the other one ends", || !is_running(its));
        assert!(is_mounted(&fixture.point) && is_running(server));
        drop(file);
        until("the server ends", || !is_running(server));
        fixture.is_clean();
    }
}

#[test]
fn timeout_of_0_means_no_timeout() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&["-o", "timeout=0"]);
    let server = fixture.server();
    let other = Fixture::new(&sample());
    other.mounted(&["-o", "timeout=1"]);
    let its = other.server();
    until("the other one ends", || !is_running(its));
    assert!(is_running(server));
}

#[test]
fn server_does_not_unmount_another_mount_that_covers_its_own() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mut server = fixture.foreground(&["-o", "timeout=1"]);
    check(
        Command::new("mount")
            .args(["-t", "tmpfs", "over"])
            .arg(&fixture.point),
    );
    kill(server.pid(), Signal::TERM);
    let other = Fixture::new(&sample());
    other.mounted(&["-o", "timeout=2"]);
    let its = other.server();
    until("the other one ends", || !is_running(its));
    let lines = crate::fixture::mount_lines(&fixture.point)
        .concat()
        .join(" ");
    assert!(lines.contains("tmpfs over"), "{lines}");
    check(Command::new("umount").arg(&fixture.point));
    // The signal takes effect now.
    assert_eq!(server.ends(), 0);
    fixture.is_clean();
}

/// Earlier the server treated a mount that covered its own from the first moment as
/// its own, and later any mount that got the same device number.
#[test]
fn server_does_not_unmount_another_mount_that_covers_its_own_at_once() {
    needs_fuse!();
    for _ in 0..5 {
        let fixture = Fixture::new(&sample());
        let mut command = crate::support::lbpayload();
        command.args(["mount", "-f"]);
        command.arg(&fixture.image).arg(&fixture.point);
        command.stderr(std::process::Stdio::null());
        let mut server = crate::fixture::Foreground(command.spawn().unwrap());
        while !is_mounted(&fixture.point) {
            std::hint::spin_loop();
        }
        let (none, no_flags) = (None::<&str>, nix::mount::MsFlags::empty());
        nix::mount::mount(none, &fixture.point, Some("tmpfs"), no_flags, none).unwrap();
        server.signal(Signal::TERM);
        // Enough time for another attempt.
        std::thread::sleep(std::time::Duration::from_millis(400));
        assert_eq!(crate::fixture::mount_lines(&fixture.point).len(), 2);
        check(Command::new("umount").arg(&fixture.point));
        assert_eq!(server.ends(), 0);
        fixture.is_clean();
    }
}

/// Once the mount is visible, a server that gets a signal to stop does not leave it
/// behind.
#[test]
fn signal_right_after_the_mount_appears_ends_the_server() {
    needs_fuse!();
    for _ in 0..10 {
        let fixture = Fixture::new(&sample());
        let mut command = crate::support::lbpayload();
        command.args(["mount", "-f"]);
        let mut server = command
            .arg(&fixture.image)
            .arg(&fixture.point)
            .spawn()
            .unwrap();
        while !is_mounted(&fixture.point) {
            std::hint::spin_loop();
        }
        kill(server.id() as i32, Signal::TERM);
        assert_eq!(server.wait().unwrap().code(), Some(0));
        fixture.is_clean();
    }
}
