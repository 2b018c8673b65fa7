//! Every attempt to change something fails with EROFS, for root too.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{Mode, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::fixture::{Fixture, mount_lines, sample};
use crate::support::{check, tree};

/// Tries every kind of change, and asserts that each one fails.
#[track_caller]
fn assert_nothing_can_be_changed(fixture: &Fixture) {
    let before = tree(&fixture.point);
    let (old, new) = (fixture.file("medium"), fixture.file("new"));
    let outside = fixture.dir().join("outside");
    std::fs::write(&outside, b"x").unwrap();
    let now = Timestamps {
        last_access: Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
        last_modification: Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
    };
    let cwd = rustix::fs::CWD;
    let tried: [(&str, Result<(), Errno>); 16] = [
        ("unlink", rustix::fs::unlink(&old)),
        ("mkdir", rustix::fs::mkdir(&new, Mode::RWXU)),
        ("rmdir", rustix::fs::rmdir(&old)),
        ("symlink", rustix::fs::symlink("medium", &new)),
        ("link", rustix::fs::link(&old, &new)),
        ("link from outside", rustix::fs::link(&old, &outside)),
        ("rename", rustix::fs::rename(&old, &new)),
        (
            "rename over",
            rustix::fs::rename(&old, fixture.file("empty")),
        ),
        (
            "rename, exchanging",
            rustix::fs::renameat_with(cwd, &old, cwd, fixture.file("empty"), RenameFlags::EXCHANGE),
        ),
        ("chmod", rustix::fs::chmod(&old, Mode::RWXU)),
        (
            "chmod of the root",
            rustix::fs::chmod(&fixture.point, Mode::RWXU),
        ),
        (
            "chown",
            rustix::fs::chown(&old, Some(rustix::fs::Uid::ROOT), None),
        ),
        (
            "utimens",
            rustix::fs::utimensat(cwd, &old, &now, rustix::fs::AtFlags::empty()),
        ),
        (
            "setxattr",
            rustix::fs::setxattr(&old, "user.x", b"y", XattrFlags::empty()),
        ),
        (
            "removexattr",
            rustix::fs::removexattr(&old, "user.lbpayload.index"),
        ),
        (
            "mkfifo",
            rustix::fs::mknodat(cwd, &new, rustix::fs::FileType::Fifo, Mode::RWXU, 0),
        ),
    ];
    for (what, result) in tried {
        let expected = match what {
            "rmdir" | "link" | "link from outside" => {
                vec![Errno::ROFS, Errno::NOTDIR, Errno::EXIST, Errno::XDEV]
            }
            _ => vec![Errno::ROFS],
        };
        let e = result.expect_err(what);
        assert!(expected.contains(&e), "{what}: {e}");
    }
    let truncated = nix::unistd::truncate(&old, 0);
    assert_eq!(truncated, Err(nix::errno::Errno::EROFS));
    assert!(tree(&fixture.point) == before);
    assert_eq!(std::fs::read(outside).unwrap(), b"x");
}

#[test]
fn every_change_fails_with_erofs() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    assert_nothing_can_be_changed(&fixture);
}

#[test]
fn every_way_to_open_for_writing_fails_with_erofs() {
    needs_fuse!();
    for how in [&[][..], &["-o", "direct_io"]] {
        let fixture = Fixture::new(&sample());
        fixture.mounted(how);
        let write = || OpenOptions::new().write(true).clone();
        let opens = [
            write(),
            write().read(true).clone(),
            write().truncate(true).clone(),
            OpenOptions::new().append(true).clone(),
            write().create(true).clone(),
            write().custom_flags(libc::O_DIRECT).clone(),
        ];
        for options in opens {
            let e = options.open(fixture.file("medium")).unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EROFS), "{options:?}");
        }
        for name in ["new", ".hidden"] {
            let e = write().create(true).open(fixture.file(name)).unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EROFS));
            let e = write()
                .create_new(true)
                .open(fixture.file(name))
                .unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EROFS));
        }
        let e = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(&fixture.point)
            .unwrap_err();
        let code = e.raw_os_error().unwrap();
        assert!([libc::EROFS, libc::EOPNOTSUPP].contains(&code), "{e}");
    }
}

#[test]
fn files_cannot_be_changed_after_a_writable_remount() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    // Root may request this from the kernel. Then the server refuses the changes.
    let mut remount = std::process::Command::new("mount");
    check(remount.args(["-i", "-o", "remount,rw"]).arg(&fixture.point));
    let line = mount_lines(&fixture.point).concat();
    assert!(line[5].starts_with("rw,"), "{line:?}");
    assert_nothing_can_be_changed(&fixture);
    // The kernel opens files for writing without asking the server (see ENOSYS to
    // open), so the write itself must fail.
    let mut opened = OpenOptions::new()
        .write(true)
        .open(fixture.file("medium"))
        .unwrap();
    let write = std::io::Write::write(&mut opened, b"x");
    let create = std::fs::write(fixture.file("new"), b"x");
    for e in [write.unwrap_err(), create.unwrap_err()] {
        assert_eq!(e.raw_os_error(), Some(libc::EROFS));
    }
}
