//! The image, or the disk it is on, disappears while it is mounted.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::fixture::{Fixture, attribute, data, data_offset, is_mounted, sample, until};
use crate::support::{Loop, check};

const HOWS: [&[&str]; 3] = [&[], &["-o", "direct_io"], &["--direct=auto"]];

fn read(fixture: &Fixture, name: &str) -> io::Result<Vec<u8>> {
    std::fs::read(fixture.file(name))
}

#[track_caller]
fn assert_eio<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
}

#[test]
fn truncated_image_gives_eio_for_lost_data_and_serves_the_rest() {
    needs_fuse!();
    for how in HOWS {
        let image = sample();
        let fixture = Fixture::new(&image);
        fixture.mounted(how);
        let server = fixture.server();
        let file = OpenOptions::new().write(true).open(&fixture.image).unwrap();
        let end = data_offset(&image, "large") + 1_234_567;
        file.set_len(end).unwrap();
        assert_eq!(read(&fixture, "z-first").unwrap(), b"hello");
        assert_eio(read(&fixture, "medium"));
        assert_eio(read(&fixture, "größe"));
        let large = File::open(fixture.file("large")).unwrap();
        let mut page = [0; 4096];
        // The page that contains the end is lost as a whole. The pages before it can
        // be read.
        large.read_exact_at(&mut page, 1_224_704).unwrap();
        assert!(page == data(&image, "large")[1_224_704..][..4096]);
        assert_eio(large.read_at(&mut page, 1_232_896));
        assert_eio(large.read_at(&mut page, 2_000_000));
        // The reported size stays the same, and the server keeps running.
        assert_eq!(large.metadata().unwrap().len(), 2_500_001);
        assert_eq!(fixture.server(), server);
        let problem = attribute(&fixture.file("medium"), "problem").unwrap();
        assert!(
            problem.contains("it was longer when it was mounted"),
            "{problem}"
        );
        assert_eq!(
            attribute(&fixture.file("z-first"), "problem"),
            Err(libc::ENODATA)
        );
        assert_eq!(attribute(&fixture.file("medium"), "sha256"), Err(libc::EIO));
        drop(large);
        fixture.unmount(&[]).exits(0);
        fixture.is_clean();
    }
}

#[test]
fn image_that_is_restored_is_readable_again() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    fixture.mounted(&[]);
    let file = OpenOptions::new().write(true).open(&fixture.image).unwrap();
    file.set_len(1000).unwrap();
    assert_eio(read(&fixture, "medium"));
    file.write_all_at(&image.bytes(), 0).unwrap();
    assert!(read(&fixture, "medium").unwrap() == data(&image, "medium"));
}

#[test]
fn deleted_or_replaced_image_is_still_served() {
    needs_fuse!();
    for how in HOWS {
        let image = sample();
        let fixture = Fixture::new(&image);
        fixture.mounted(how);
        std::fs::remove_file(&fixture.image).unwrap();
        std::fs::write(&fixture.image, b"something else").unwrap();
        for (name, data) in &image.files {
            let name = std::str::from_utf8(name).unwrap();
            assert!(read(&fixture, name).unwrap() == *data, "{name}");
        }
        fixture.unmount(&[]).exits(0);
        fixture.is_clean();
    }
}

#[test]
fn detached_loop_device_is_served_until_the_unmount() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    let backing = fixture.dir().join("backing");
    let mut bytes = image.bytes();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    std::fs::write(&backing, bytes).unwrap();
    let device = Loop::attach(&backing, 512);
    fixture.mount_on(&[], &device.path, &fixture.point).exits(0);
    // The kernel detaches it once no process has it open.
    check(Command::new("losetup").arg("--detach").arg(&device.path));
    assert!(read(&fixture, "large").unwrap() == data(&image, "large"));
    fixture.unmount(&[]).exits(0);
    let held = || check(Command::new("losetup").arg("--associated").arg(&backing));
    until("no loop device uses the file", || held().is_empty());
    // Another device may have its number by now.
    std::mem::forget(device);
}

#[test]
fn failing_disk_gives_eio() {
    needs_fuse!();
    for how in HOWS {
        let image = sample();
        let fixture = Fixture::new(&image);
        let backing = fixture.dir().join("backing");
        let mut bytes = image.bytes();
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        std::fs::write(&backing, bytes).unwrap();
        let device = Loop::attach(&backing, 512);
        fixture.mount_on(how, &device.path, &fixture.point).exits(0);
        // Data that it read together with the headers is in the device's page cache.
        let file = OpenOptions::new().write(true).open(&backing).unwrap();
        file.set_len(8192).unwrap();
        check(
            Command::new("blockdev")
                .arg("--flushbufs")
                .arg(&device.path),
        );
        assert_eq!(read(&fixture, "z-first").unwrap(), b"hello", "{how:?}");
        assert_eio(read(&fixture, "medium"));
        assert_eio(read(&fixture, "large"));
        assert!(is_mounted(&fixture.point));
        let problem = attribute(&fixture.file("medium"), "problem").unwrap();
        assert!(problem.contains(device.path.to_str().unwrap()), "{problem}");
        fixture.unmount(&[]).exits(0);
        fixture.is_clean();
    }
}

#[test]
fn parent_directory_of_the_mount_point_can_be_renamed() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let parent = fixture.dir().join("parent");
    let point = parent.join("point");
    std::fs::create_dir_all(&point).unwrap();
    fixture.mount_on(&[], &fixture.image, &point).exits(0);
    let other = fixture.dir().join("other");
    std::fs::rename(&parent, &other).unwrap();
    assert_eq!(
        std::fs::read(other.join("point/z-first")).unwrap(),
        b"hello"
    );
    let mut unmount = crate::support::lbpayload();
    crate::support::Ran::when_free(unmount.arg("unmount").arg(other.join("point"))).exits(0);
    fixture.is_clean();
}
