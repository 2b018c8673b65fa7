//! A device that has unreadable sectors half-way.

use std::fs::OpenOptions;
use std::path::Path;

use serde_json::Value;

use crate::disks::{assert_holds, disk};
use crate::support::{Image, Loop, Mounted, TempDir, noise, run};
use crate::{alone, needs_devices};

const BAD: u64 = (4 << 20) + 3 * 4096;

/// A disk that returns EIO for everything from `BAD` on, in its last file's data: the
/// backing file of the loop device has been truncated.
fn failing(dir: &TempDir, image: &Image, sector: u32) -> Loop {
    let device = disk(dir.path(), "disk", &image.bytes(), sector);
    let beneath = OpenOptions::new()
        .write(true)
        .open(dir.path().join("disk"))
        .unwrap();
    beneath.set_len(BAD).unwrap();
    device
}

fn image() -> Image {
    let (large, rest) = (noise(2, 1 << 20), noise(3, 8 << 20));
    Image::new(&[("small", &noise(1, 100)), ("large", &large), ("bad", &rest)])
}

#[test]
fn import_goes_on_after_unreadable_sectors_and_names_them() {
    needs_devices!();
    let _alone = alone();
    for sector in [512, 4096] {
        let dir = tempfile::tempdir().unwrap();
        let device = failing(&dir, &image(), sector);
        let ext4 = Mounted::make("ext4", dir.path(), 64 << 20);
        let dest = ext4.path.join("dest");
        let ran = run([
            Path::new("import"),
            Path::new("--device"),
            &device.path,
            &dest,
        ])
        .exits(1);
        let ran = ran.says(device.path.to_str().unwrap()).says("`bad`");
        let ran = ran.says(&BAD.to_string()).says("Input/output error");
        ran.says("ddrescue").says("1 of 3 files not imported");
        let (small, large) = (noise(1, 100), noise(2, 1 << 20));
        assert_holds(
            &dest,
            &[("small".into(), small), ("large".into(), large)].into(),
        );
    }
}

#[test]
fn verify_reports_the_offset_of_the_read_error() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let device = failing(&dir, &image(), 4096);
    let ran = run([Path::new("verify"), Path::new("--json"), &device.path]).exits(1);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let problem = &report["problems"][0];
    assert_eq!(
        (&problem["index"], &problem["name"]),
        (&2.into(), &"bad".into())
    );
    assert_eq!(
        (&problem["kind"], &problem["offset"]),
        (&"io".into(), &BAD.into())
    );
    let bad = image().bytes().len() as u64 - BAD;
    let ranges = serde_json::json!([{ "offset": BAD, "length": bad }]);
    assert_eq!(problem["ranges"], ranges);
}

#[test]
fn import_completes_the_file_that_ends_just_before_the_unreadable_sector() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    // The fault starts at a sector that is not the first of its page.
    let bad = BAD + 512;
    let near = noise(
        1,
        bad as usize - 16 - 16 - "near".len() - 16 - "bad".len() - 10,
    );
    let image = Image::new(&[("near", &near), ("bad", &noise(2, 1 << 20))]);
    assert_eq!(image.header_offsets()[1] as u64, bad - 10 - 16 - 3);
    let device = disk(dir.path(), "disk", &image.bytes(), 512);
    let beneath = OpenOptions::new().write(true).open(dir.path().join("disk"));
    beneath.unwrap().set_len(bad).unwrap();
    run([Path::new("cat"), &device.path, Path::new("near")]).exits(0);
    let ran = run([Path::new("verify"), Path::new("--json"), &device.path]).exits(1);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let found: Vec<(&Value, &Value)> = report["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (&p["name"], &p["offset"]))
        .collect();
    assert_eq!(found, [(&"bad".into(), &bad.into())]);
}

#[test]
fn files_before_and_after_the_unreadable_sectors_can_be_read() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let device = failing(&dir, &image(), 512);
    let ran = run([Path::new("cat"), &device.path, Path::new("large")]).exits(0);
    assert!(ran.stdout_bytes == noise(2, 1 << 20));
    run([Path::new("list"), &device.path]).exits(0);
    // A probe reads only the headers, which are readable.
    run([Path::new("probe"), &device.path]).exits(0);
    let dest = dir.path().join("dest");
    let args = [
        "import",
        "--device",
        device.path.to_str().unwrap(),
        dest.to_str().unwrap(),
    ];
    run(args.into_iter().chain(["--files", "small", "large"])).exits(0);
    let (small, large) = (noise(1, 100), noise(2, 1 << 20));
    assert_holds(
        &dest,
        &[("small".into(), small), ("large".into(), large)].into(),
    );
    let ran = run([Path::new("cat"), &device.path, Path::new("bad")]).exits(1);
    ran.says(&BAD.to_string()).says("Input/output error");
}
