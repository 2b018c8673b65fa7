//! Mounts that end by a signal, by `-o timeout=`, or by another program.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Command;

use rustix::process::Signal;

use crate::fixture::{Fixture, is_mounted, is_running, kill, sample, until};
use crate::support::check;

#[test]
fn each_signal_ends_it_and_nothing_is_left() {
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
fn a_signal_waits_for_the_last_user_and_a_second_one_does_not() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mut server = fixture.foreground(&[]);
    let file = File::open(fixture.file("large")).unwrap();
    server.signal(Signal::TERM);
    until("it is out of sight", || !is_mounted(&fixture.point));
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
fn a_signal_that_comes_while_something_is_mounted_over_it_is_not_forgotten() {
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
fn it_ends_when_asked_to_though_a_directory_above_it_has_got_another_name() {
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
fn the_last_user_s_end_is_the_server_s() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mut server = fixture.foreground(&[]);
    let file = File::open(fixture.file("large")).unwrap();
    server.signal(Signal::INT);
    until("it is out of sight", || !is_mounted(&fixture.point));
    drop(file);
    assert_eq!(server.ends(), 0);
    fixture.is_clean();
}

#[test]
fn umount_and_fusermount_end_it() {
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
fn an_idle_mount_ends_by_itself() {
    needs_fuse!();
    let mut fixture = Fixture::new(&sample());
    fixture.point = fixture.dir().join("made");
    fixture.mounted(&["-o", "timeout=1"]);
    let server = fixture.server();
    until("it ends", || !is_running(server));
    assert!(!fixture.point.exists());
    fixture.is_clean();
}

#[test]
fn a_mount_with_an_open_file_is_not_idle() {
    needs_fuse!();
    for how in ["timeout=1", "timeout=1,direct_io"] {
        let fixture = Fixture::new(&sample());
        fixture.mounted(&["-o", how]);
        let server = fixture.server();
        let file = File::open(fixture.file("z-first")).unwrap();
        // As long as it takes another one, begun later, to end by itself.
        let other = Fixture::new(&sample());
        other.mounted(&["-o", "timeout=2"]);
        let its = other.server();
        until("the other one ends", || !is_running(its));
        assert!(is_mounted(&fixture.point) && is_running(server));
        drop(file);
        until("it ends", || !is_running(server));
        fixture.is_clean();
    }
}

#[test]
fn a_timeout_of_0_is_none() {
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
fn what_lies_over_it_is_not_unmounted_in_its_place() {
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
    check(Command::new("umount").arg("-l").arg(&fixture.point));
    server.ends();
    fixture.is_clean();
}

/// The server had taken what covered its mount from the first moment for its own mount,
/// and later whatever got the same device number.
#[test]
fn what_covers_it_as_soon_as_it_appears_is_not_unmounted_either() {
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
        // Time enough to try again.
        std::thread::sleep(std::time::Duration::from_millis(400));
        assert_eq!(crate::fixture::mount_lines(&fixture.point).len(), 2);
        check(Command::new("umount").arg(&fixture.point));
        assert_eq!(server.ends(), 0);
        fixture.is_clean();
    }
}

/// From the moment on that it is seen, a mount is not left behind by a server that
/// was asked to stop.
#[test]
fn a_signal_right_after_the_mount_appears_is_heard_too() {
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
