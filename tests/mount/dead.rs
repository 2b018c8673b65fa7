//! Servers that are killed, and what they leave.

use std::fs::File;
use std::process::Command;

use rustix::process::Signal;

use crate::place::{Place, attribute, is_mounted, is_running, kill, mount_lines, sample, until};
use crate::support::{check, tree};

/// A mount whose server was killed, having answered all that the kernel keeps.
fn killed(options: &[&str]) -> Place {
    let place = Place::new(&sample());
    place.mounted(options);
    assert_eq!(tree(&place.point).len(), 5);
    let server = place.server();
    kill(server, Signal::KILL);
    until("it dies", || !is_running(server));
    place
}

#[test]
fn a_dead_mount_is_cleared_away_by_unmount_and_the_place_is_used_again() {
    needs_fuse!();
    for options in [&[][..], &["-o", "direct_io"]] {
        for lazy in [&[][..], &["--lazy"]] {
            let place = killed(options);
            assert!(is_mounted(&place.point));
            place.unmount(lazy).exits(0);
            assert!(!is_mounted(&place.point));
            place.mounted(options);
            assert_eq!(std::fs::read(place.file("z-first")).unwrap(), b"hello");
            place.unmount(&[]).exits(0);
            place.is_clean();
        }
    }
}

#[test]
fn a_server_killed_a_moment_ago_is_as_dead_as_any() {
    needs_fuse!();
    for _ in 0..10 {
        let place = Place::new(&sample());
        place.mounted(&[]);
        kill(place.server(), Signal::KILL);
        // It may not have let go of /dev/fuse yet, but answers nobody any more.
        let asked = attribute(&place.point, "pid").unwrap_err();
        assert!(
            [libc::ENOTCONN, libc::ECONNABORTED].contains(&asked),
            "{asked}"
        );
        place.unmount(&["--lazy"]).exits(0);
        assert!(!is_mounted(&place.point));
    }
}

#[test]
fn a_dead_mount_in_use_is_cleared_away_too() {
    needs_fuse!();
    let place = Place::new(&sample());
    place.mounted(&[]);
    let file = File::open(place.file("large")).unwrap();
    let server = place.server();
    kill(server, Signal::KILL);
    until("it dies", || !is_running(server));
    place.unmount(&[]).exits(0);
    assert!(!is_mounted(&place.point));
    assert!(std::os::unix::fs::FileExt::read_at(&file, &mut [0; 9], 2_000_000).is_err());
}

#[test]
fn umount_and_fusermount_clear_it_away() {
    needs_fuse!();
    for (program, args) in [("umount", &[][..]), ("fusermount3", &["-u"])] {
        let place = killed(&[]);
        check(Command::new(program).args(args).arg(&place.point));
        place.is_clean();
    }
}

#[test]
fn mounting_over_a_dead_mount_is_refused_with_what_to_do() {
    needs_fuse!();
    let place = killed(&[]);
    for background in [&[][..], &["-f"]] {
        let ran = place.mount(background).exits(1);
        let ran = ran.says("Transport endpoint is not connected");
        ran.says(&format!("lbpayload unmount {}", place.point.display()));
        assert_eq!(mount_lines(&place.point).len(), 1);
    }
    place.unmount(&[]).exits(0);
    place.is_clean();
}

#[test]
fn auto_unmount_clears_it_away_even_when_the_server_is_killed() {
    needs_fuse!();
    for options in ["auto_unmount", "auto_unmount,direct_io,allow_other"] {
        let mut place = Place::new(&sample());
        place.point = place.dir().join("made");
        place.mounted(&["-o", options]);
        assert_eq!(tree(&place.point).len(), 5);
        let server = place.server();
        kill(server, Signal::KILL);
        until("it is unmounted", || !is_mounted(&place.point));
        until("the directory is removed", || !place.point.exists());
        place.is_clean();
        // And once more on the same place.
        place.mounted(&["-o", options]);
        place.unmount(&[]).exits(0);
        assert!(!place.point.exists());
        place.is_clean();
    }
}

#[test]
fn auto_unmount_in_the_foreground_does_the_same() {
    needs_fuse!();
    let place = Place::new(&sample());
    let mut server = place.foreground(&["-o", "auto_unmount"]);
    assert_eq!(tree(&place.point).len(), 5);
    let file = File::open(place.file("large")).unwrap();
    server.signal(Signal::KILL);
    assert_eq!(server.ends(), -1);
    until("it is unmounted", || !is_mounted(&place.point));
    drop(file);
    place.is_clean();
}

#[test]
fn auto_unmount_leaves_alone_what_came_there_after_it() {
    needs_fuse!();
    let place = Place::new(&sample());
    place.mounted(&["-o", "auto_unmount"]);
    let first = place.server();
    check(Command::new("umount").arg("-l").arg(&place.point));
    place.mounted(&["-o", "fsname=second"]);
    until("the first one ends", || !is_running(first));
    // Its other process is gone too, with nothing unmounted.
    until("only the second one's processes are left", || {
        crate::place::users_of(place.dir()).len() == 1
    });
    assert_eq!(tree(&place.point).len(), 5);
    assert_eq!(mount_lines(&place.point).len(), 1);
}

#[test]
fn the_process_that_waits_to_unmount_holds_nothing_open() {
    needs_fuse!();
    let place = Place::new(&sample());
    place.mounted(&["-o", "auto_unmount"]);
    let server = place.server();
    let users = crate::place::users_of(place.dir());
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
