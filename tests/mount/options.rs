//! Options that users of other file systems bring along.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::fixture::{Fixture, attribute, mount_lines, sample};
use crate::support::{Image, Ran, check};

#[test]
fn owner_and_group_can_be_given_by_name() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&["-o", "uid=daemon,gid=tty,timeout=5m,nosymfollow"]);
    let meta = fixture.file("medium").metadata().unwrap();
    let id = |args: [&str; 2]| check(Command::new("getent").args(args));
    let third = |line: String| line.split(':').nth(2).unwrap().parse::<u32>().unwrap();
    assert_eq!(meta.uid(), third(id(["passwd", "daemon"])));
    assert_eq!(meta.gid(), third(id(["group", "tty"])));
    fixture.unmount(&[]).exits(0);
    let ran = fixture.mount(&["-o", "uid=nobody-has-this-name"]).exits(2);
    ran.says("`uid=nobody-has-this-name`");
    fixture.is_clean();
}

#[test]
fn nolistxattr_lists_no_attributes_and_still_returns_them_by_name() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&["-o", "nolistxattr"]);
    for path in [fixture.point.clone(), fixture.file("medium")] {
        assert_eq!(rustix::fs::listxattr(&path, &mut [0_u8; 4096][..]), Ok(0));
    }
    assert_eq!(attribute(&fixture.file("medium"), "index"), Ok("3".into()));
    // cp -a copies all attributes that are listed.
    let copy = fixture.dir().join("copy");
    check(
        Command::new("cp")
            .arg("-a")
            .arg(fixture.file("medium"))
            .arg(&copy),
    );
    assert_eq!(attribute(&copy, "index"), Err(libc::ENODATA));
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}

#[test]
fn remount_changes_the_flags_and_never_makes_it_writable() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let flags = || mount_lines(&fixture.point)[0][5].clone();
    for (options, noexec) in [
        ("remount,ro", false),
        ("remount,ro,noexec", true),
        ("remount,rw", false),
    ] {
        fixture.mount(&["-o", options]).exits(0);
        let flags = flags();
        assert!(flags.starts_with("ro,nosuid,nodev"), "{flags}");
        assert_eq!(flags.contains("noexec"), noexec, "{flags}");
        assert_eq!(mount_lines(&fixture.point).len(), 1);
    }
    assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
    fixture.unmount(&[]).exits(0);
    fixture
        .mount(&["-o", "remount,ro"])
        .exits(1)
        .says("no payload is mounted there");
    fixture.is_clean();
}

/// Earlier the program was aborted.
#[test]
fn lack_of_memory_for_the_names_is_an_error() {
    needs_fuse!();
    let names: Vec<_> = (0..150_000).map(|n| format!("{n:0>250}")).collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, &b""[..])).collect();
    let fixture = Fixture::new(&Image::new(&files));
    let ran = with_memory(&fixture, 70 << 20).says("could not get memory for the names");
    ran.says("external.img");
    fixture.is_clean();
}

/// fuser aborts where it gets no memory for its buffers.
#[test]
fn lack_of_memory_for_the_server_is_an_error() {
    needs_fuse!();
    let mut fixture = Fixture::new(&sample());
    fixture.point = fixture.dir().join("made");
    with_memory(&fixture, 40 << 20).says("could not get memory to serve the mount");
    assert!(!fixture.point.exists());
    fixture.is_clean();
}

fn with_memory(fixture: &Fixture, bytes: u64) -> Ran {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--as={bytes}"))
        .arg(env!("CARGO_BIN_EXE_lbpayload"));
    let ran = Ran::of(command.arg("mount").arg(&fixture.image).arg(&fixture.point));
    ran.exits(1).says("error: ")
}
