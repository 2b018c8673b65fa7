//! Block devices with sectors of 512 and 4096 bytes, read with and without their page
//! cache, and payloads inside larger devices.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use crate::fixture::{Fixture, attribute, data, sample};
use crate::support::{Image, Loop, Ran, check, lbpayload, noise, tree};

/// The image on a loop device, after `before` bytes.
fn attached(fixture: &Fixture, image: &Image, sector: u32, before: usize) -> (Loop, PathBuf) {
    let backing = fixture.dir().join("backing");
    let mut bytes = noise(8, before);
    bytes.extend(image.bytes());
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    std::fs::write(&backing, bytes).unwrap();
    (Loop::attach(&backing, sector), backing)
}

#[track_caller]
fn assert_serves(fixture: &Fixture, image: &Image) {
    let mut expected: Vec<_> = image
        .files
        .iter()
        .map(|(name, data)| (String::from_utf8(name.clone()).unwrap(), data.clone()))
        .collect();
    expected.sort();
    assert!(tree(&fixture.point) == expected);
    // Also at unaligned offsets and sizes.
    let file = std::fs::File::open(fixture.file("large")).unwrap();
    let large = data(image, "large");
    for (at, size) in [
        (1, 1),
        (511, 513),
        (4095, 4098),
        (999_999, 300_001),
        (2_500_000, 9),
    ] {
        let mut buf = vec![0; size];
        let n = file.read_at(&mut buf, at as u64).unwrap();
        assert!(
            buf[..n] == large[at..(at + size).min(large.len())],
            "{at} {size}"
        );
    }
}

#[test]
fn device_can_be_mounted_in_every_read_mode() {
    needs_fuse!();
    for sector in [512, 4096] {
        for image in [sample(), sample().narrow()] {
            let fixture = Fixture::new(&image);
            let (device, _) = attached(&fixture, &image, sector, 0);
            for how in [
                &[][..],
                &["--direct"],
                &["--direct=auto"],
                &["--direct=never"],
                &["-o", "direct,direct_io"],
                &["-o", "direct=never,direct_io"],
            ] {
                fixture.mount_on(how, &device.path, &fixture.point).exits(0);
                assert_serves(&fixture, &image);
                fixture.unmount(&[]).exits(0);
            }
            // No process has the device open any more.
            check(
                Command::new("blockdev")
                    .arg("--flushbufs")
                    .arg(&device.path),
            );
            fixture.is_clean();
        }
    }
}

#[test]
fn direct_mode_bypasses_the_page_cache_and_cached_mode_uses_it() {
    needs_fuse!();
    for (how, cached) in [("--direct", false), ("--direct=never", true)] {
        let image = sample();
        let fixture = Fixture::new(&image);
        let (device, backing) = attached(&fixture, &image, 512, 0);
        // Fills the device's page cache. Then the backing file changes without the
        // cache being updated.
        let mut all = vec![0; image.bytes().len() / 512 * 512];
        let disk = std::fs::File::open(&device.path).unwrap();
        disk.read_exact_at(&mut all, 0).unwrap();
        fixture
            .mount_on(&[how], &device.path, &fixture.point)
            .exits(0);
        let at = crate::fixture::data_offset(&image, "large") + 1_000_000;
        let file = OpenOptions::new().write(true).open(&backing).unwrap();
        file.write_all_at(b"changed", at).unwrap();
        file.sync_all().unwrap();
        let mut seen = [0; 7];
        let mounted = std::fs::File::open(fixture.file("large")).unwrap();
        mounted.read_exact_at(&mut seen, 1_000_000).unwrap();
        assert_eq!(
            seen == data(&image, "large")[1_000_000..1_000_007],
            cached,
            "{how}"
        );
        assert_eq!(seen == *b"changed", !cached, "{how}");
    }
}

#[test]
fn payload_inside_a_larger_device_or_image_can_be_mounted() {
    needs_fuse!();
    let image = sample();
    for (sector, before, how) in [
        (512, 512, "offset=512,direct"),
        (512, 3 * 512, "offset=1536"),
        (4096, 8192, "offset=8K,direct=always"),
        (4096, 1 << 20, "offset=1M,direct=auto"),
        (512, 777, "offset=777"),
        (4096, 777, "offset=777,direct=auto"),
    ] {
        let fixture = Fixture::new(&image);
        let (device, backing) = attached(&fixture, &image, sector, before);
        for source in [&device.path, &backing] {
            if source == &backing && how.contains("direct=always") {
                continue;
            }
            let how = if source == &backing {
                how.split(",direct").next().unwrap()
            } else {
                how
            };
            fixture
                .mount_on(&["-o", how], source, &fixture.point)
                .exits(0);
            assert_serves(&fixture, &image);
            let start = attribute(&fixture.file("medium"), "data_offset").unwrap();
            let expected = before as u64 + crate::fixture::data_offset(&image, "medium");
            assert_eq!(start, expected.to_string());
            fixture.unmount(&[]).exits(0);
        }
    }
}

#[test]
fn unaligned_offset_with_direct_reads_is_refused_with_advice() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    let (device, _) = attached(&fixture, &image, 4096, 777);
    for how in ["offset=777,direct", "offset=512,direct=always"] {
        let ran = fixture
            .mount_on(&["-o", how], &device.path, &fixture.point)
            .exits(1);
        ran.says("multiple of 4096").says("--direct");
    }
    fixture.is_clean();
}

#[test]
fn device_can_be_mounted_twice_and_imported_from_meanwhile() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    let (device, _) = attached(&fixture, &image, 512, 0);
    fixture.mount_on(&[], &device.path, &fixture.point).exits(0);
    let again = fixture.dir().join("again");
    fixture.mount_on(&[], &device.path, &again).exits(0);
    let dest = fixture.dir().join("dest");
    let mut import = lbpayload();
    import
        .args(["import", "--device"])
        .arg(&device.path)
        .arg(&dest);
    Ran::of(&mut import).exits(0);
    assert!(tree(&dest) == tree(&fixture.point));
    assert!(tree(&dest) == tree(&again));
    Ran::when_free(lbpayload().arg("unmount").arg(&again)).exits(0);
}

#[test]
fn root_needs_no_other_program_to_mount_and_unmount() {
    needs_fuse!();
    let image = sample();
    let fixture = Fixture::new(&image);
    let mut command = lbpayload();
    command
        .env("PATH", "/nonexistent")
        .env("FUSERMOUNT_PATH", "/nonexistent");
    Ran::of(
        command
            .args(["mount", "-o", "auto_unmount"])
            .arg(&fixture.image)
            .arg(&fixture.point),
    )
    .exits(0);
    assert_serves(&fixture, &image);
    let mut command = lbpayload();
    command.env("PATH", "/nonexistent");
    Ran::when_free(command.arg("unmount").arg(&fixture.point)).exits(0);
    fixture.is_clean();
}
