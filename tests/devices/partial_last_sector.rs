//! Images whose size is not a multiple of the sector size: the device does not
//! contain their tail.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::disks::{Model, assert_holds, image};
use crate::support::{Image, Loop, Ran, check, lbpayload, noise, run};
use crate::{alone, needs_devices};

/// Two files whose image has `total` bytes.
fn model_of(total: usize) -> Model {
    let headers = 16 + 2 * 16 + "first".len() + "second".len();
    [
        ("first".into(), noise(1, 5000)),
        ("second".into(), noise(2, total - headers - 5000)),
    ]
    .into()
}

const PAD: &str = "truncate -s %4096 IMAGE";

#[track_caller]
fn every_command_fails(device: &Path, dest: &Path, texts: &[&str]) {
    let import = run([Path::new("import"), Path::new("--device"), device, dest]);
    let verify = run([Path::new("verify"), device]);
    let list = run([Path::new("list"), device]);
    for ran in [import, verify, list] {
        let mut ran = ran.exits(1);
        for text in texts {
            ran = ran.says(text);
        }
        assert!(
            !ran.stderr.contains("ddrescue"),
            "a wrong advice: {}",
            ran.stderr
        );
    }
    assert!(
        !dest.exists() || fs::read_dir(dest).unwrap().count() == 0,
        "something was written"
    );
}

/// The device over an image of `total` bytes does not contain its tail. The commands
/// report this until the image is padded.
#[track_caller]
fn assert_lost_tail_is_reported(sector: usize, total: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (file, dest) = (dir.path().join("image"), dir.path().join("dest"));
    let model = model_of(total);
    let image = image(&model);
    assert!(image.bytes().len() == total && total % sector != 0);
    image.write(&file);
    let device = Loop::attach(&file, sector as u32);
    run([Path::new("probe"), &device.path])
        .exits(3)
        .says("cut off")
        .says(PAD);
    let entry = format!("`{}`", String::from_utf8_lossy(&image.files[1].0));
    let (needed, found) = (total.to_string(), (total / sector * sector).to_string());
    every_command_fails(&device.path, &dest, &[&entry, &needed, &found, PAD]);
    drop(device);
    check(Command::new("truncate").args(["-s", "%4096"]).arg(&file));
    let device = Loop::attach(&file, sector as u32);
    for command in ["probe", "verify", "list"] {
        run([Path::new(command), &device.path]).exits(0);
    }
    run([
        Path::new("import"),
        Path::new("--device"),
        &device.path,
        &dest,
    ])
    .exits(0);
    assert_holds(&dest, &model);
}

#[test]
fn lost_tail_on_512_byte_sectors_is_reported() {
    needs_devices!();
    let _alone = alone();
    for total in [24_577, 25_087, 25_599] {
        assert_lost_tail_is_reported(512, total);
    }
}

#[test]
fn lost_tail_on_4096_byte_sectors_is_reported() {
    needs_devices!();
    let _alone = alone();
    // With less than 512 bytes after the last whole sector, and with more: Linux
    // gives such a loop device a size that is not a multiple of its own sector size,
    // and reads nothing after the last whole sector.
    for total in [24_577, 25_087, 25_088, 25_100, 28_671] {
        assert_lost_tail_is_reported(4096, total);
    }
}

#[test]
fn payload_that_ends_before_a_partial_last_sector_is_read() {
    needs_devices!();
    let _alone = alone();
    for total in [100 << 10, (100 << 10) - 3, 3 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let model = model_of(total);
        let mut bytes = image(&model).bytes();
        bytes.resize(total.next_multiple_of(4096) + 1536, 0xaa);
        let file = dir.path().join("image");
        fs::write(&file, bytes).unwrap();
        let device = Loop::attach(&file, 4096);
        for command in ["probe", "list", "verify"] {
            run([Path::new(command), &device.path]).exits(0);
        }
        let dest = dir.path().join("dest");
        run([
            Path::new("import"),
            Path::new("--device"),
            &device.path,
            &dest,
        ])
        .exits(0);
        assert_holds(&dest, &model);
    }
}

#[test]
fn image_smaller_than_a_sector_is_reported() {
    needs_devices!();
    let _alone = alone();
    for (sector, size) in [(512, 100), (4096, 1000)] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        Image::new(&[("a", &noise(1, size))]).write(&file);
        let device = Loop::attach(&file, sector);
        let dest = dir.path().join("dest");
        every_command_fails(&device.path, &dest, &[PAD]);
        run([Path::new("probe"), &device.path]).exits(3);
    }
}

#[test]
fn lost_entry_header_is_reported() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (file, dest) = (dir.path().join("image"), dir.path().join("dest"));
    // The second entry's header starts ten bytes before the end of the last whole
    // sector.
    let image = Image::new(&[("a", &noise(1, 8192 - 16 - 17 - 10)), ("b", b"lost")]);
    assert_eq!(image.header_offsets()[1], 8192 - 10);
    image.write(&file);
    let device = Loop::attach(&file, 4096);
    every_command_fails(&device.path, &dest, &["entry 1", "8182", "cut off", PAD]);
    // The same with all of the header after the end.
    let image = Image::new(&[("a", &noise(1, 8192 - 16 - 17)), ("b", b"")]);
    assert_eq!(image.header_offsets()[1], 8192);
    image.write(&file);
    let device = Loop::attach(&file, 4096);
    every_command_fails(&device.path, &dest, &[PAD]);
}

#[test]
fn padded_image_is_complete_on_the_device() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (inputs, file) = (dir.path().join("in"), dir.path().join("image"));
    fs::create_dir(&inputs).unwrap();
    let files = model_of(25_001);
    for (name, bytes) in &files {
        fs::write(inputs.join(name), bytes).unwrap();
    }
    let pack = |pad: &[&str]| {
        let mut command = lbpayload();
        Ran::of(
            command
                .arg("pack")
                .args(pad)
                .arg("-o")
                .args([&file, &inputs]),
        )
        .exits(0);
        fs::read(&file).unwrap()
    };
    let (plain, padded) = (pack(&[]), pack(&["--pad", "4K"]));
    let sorted: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    assert!(
        plain == Image::new(&sorted).bytes(),
        "by default nothing is padded"
    );
    assert_eq!(padded.len(), plain.len().next_multiple_of(4096));
    assert!(padded[..plain.len()] == plain && padded[plain.len()..].iter().all(|&b| b == 0));
    for sector in [512, 4096] {
        let device = Loop::attach(&file, sector);
        let dest = dir.path().join(format!("{sector}"));
        run([
            Path::new("import"),
            Path::new("--device"),
            &device.path,
            &dest,
        ])
        .exits(0);
        assert_holds(&dest, &files);
    }
}
