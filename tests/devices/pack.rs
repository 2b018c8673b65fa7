//! `lbpayload pack` onto a block device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disks::{Model, Partitioned, assert_holds, backing, first_bytes};
use crate::support::{Image, Loop, Mounted, Ran, TempDir, check, lbpayload, noise, run, sha256sum};
use crate::{alone, needs_devices};

/// Inputs in a directory, and the payload that they produce.
struct Inputs {
    dir: TempDir,
    model: Model,
}

impl Inputs {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |seed, len| (format!("{seed} file"), noise(seed, len));
        let model: Model = [
            file(1, 0),
            file(2, 5000),
            file(3, (2 << 20) + 1),
            file(4, 1),
        ]
        .into();
        for (name, bytes) in &model {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        Self { dir, model }
    }

    fn image(&self) -> Vec<u8> {
        let files: Vec<(&str, &[u8])> = self
            .model
            .iter()
            .map(|(n, b)| (n.as_str(), &b[..]))
            .collect();
        Image::new(&files).bytes()
    }

    #[track_caller]
    fn pack(&self, out: &Path, options: &[&str]) -> Ran {
        Ran::of(
            lbpayload()
                .arg("pack")
                .args(options)
                .arg("-o")
                .arg(out)
                .arg(self.dir.path()),
        )
    }
}

/// A disk full of random bytes, and its backing file.
fn noisy(dir: &Path, size: u64, sector: u32) -> (Loop, PathBuf) {
    let file = backing(dir, "noisy", &noise(9, size as usize), size);
    (Loop::attach(&file, sector), file)
}

#[test]
fn pack_does_not_overwrite_a_device_without_force() {
    needs_devices!();
    let _alone = alone();
    let (dir, inputs) = (tempfile::tempdir().unwrap(), Inputs::make());
    let (device, file) = noisy(dir.path(), 4 << 20, 512);
    let ran = inputs
        .pack(&device.path, &["--json"])
        .exits(1)
        .says("--force");
    let error = ran.json_error();
    assert_eq!(error["kind"], "refused");
    assert_eq!(error["path"], device.path.to_str().unwrap());
    assert!(
        fs::read(&file).unwrap() == noise(9, 4 << 20),
        "the device was changed"
    );
}

#[test]
fn forced_pack_clears_both_ends_and_changes_nothing_between_them() {
    needs_devices!();
    let _alone = alone();
    let (size, edge) = (8 << 20, 2 << 20);
    for sector in [512, 4096] {
        let (dir, inputs) = (tempfile::tempdir().unwrap(), Inputs::make());
        let (device, file) = noisy(dir.path(), size as u64, sector);
        inputs.pack(&device.path, &["--force"]).exits(0);
        let image = inputs.image();
        assert!(first_bytes(&device.path, image.len()) == image);
        check(
            Command::new("blockdev")
                .arg("--flushbufs")
                .arg(&device.path),
        );
        let all = fs::read(&file).unwrap();
        let end = image.len().next_multiple_of(sector as usize);
        assert!(
            end > edge,
            "the payload reaches behind the start that is cleared"
        );
        let between = end..size - edge;
        assert!(all[..image.len()] == image);
        assert!(all[between.clone()] == noise(9, size)[between]);
        assert!(all[size - edge..].iter().all(|&byte| byte == 0));
        let dest = dir.path().join("dest");
        run([
            Path::new("import"),
            Path::new("--device"),
            &device.path,
            &dest,
        ])
        .exits(0);
        assert_holds(&dest, &inputs.model);
        run([Path::new("verify"), &device.path]).exits(0);
    }
}

#[test]
fn pack_can_fill_a_device_to_the_last_byte() {
    needs_devices!();
    let _alone = alone();
    let (dir, inputs) = (tempfile::tempdir().unwrap(), Inputs::make());
    let size = (inputs.image().len() as u64).next_multiple_of(4096);
    let (device, _) = noisy(dir.path(), size, 4096);
    inputs
        .pack(&device.path, &["--force", "--pad", "4096"])
        .exits(0);
    run([Path::new("verify"), &device.path]).exits(0);
    let small = dir.path().join("small");
    fs::write(&small, noise(8, size as usize - 4096)).unwrap();
    let device = Loop::attach(&small, 4096);
    inputs.pack(&device.path, &["--force"]).exits(1);
}

#[test]
fn pack_refuses_a_device_that_is_too_small_before_writing() {
    needs_devices!();
    let _alone = alone();
    let (dir, inputs) = (tempfile::tempdir().unwrap(), Inputs::make());
    let (device, file) = noisy(dir.path(), 1 << 20, 512);
    let ran = inputs.pack(&device.path, &["--force", "--json"]).exits(1);
    let error = ran.json_error();
    assert_eq!(error["kind"], "space");
    assert_eq!(error["path"], device.path.to_str().unwrap());
    check(
        Command::new("blockdev")
            .arg("--flushbufs")
            .arg(&device.path),
    );
    assert!(
        fs::read(&file).unwrap() == noise(9, 1 << 20),
        "the device was changed"
    );
}

#[test]
fn pack_refuses_a_mounted_device_even_with_force() {
    needs_devices!();
    let _alone = alone();
    let (dir, inputs) = (tempfile::tempdir().unwrap(), Inputs::make());
    let ext4 = Mounted::make("ext4", dir.path(), 32 << 20);
    fs::write(ext4.path.join("precious"), b"precious").unwrap();
    let source = check(
        Command::new("findmnt")
            .args(["-no", "SOURCE"])
            .arg(&ext4.path),
    );
    let device = Path::new(source.trim());
    check(Command::new("sync").arg("-f").arg(&ext4.path));
    let before = first_bytes(device, 1 << 20);
    inputs
        .pack(device, &["--force", "--json"])
        .exits(1)
        .with_code("busy");
    assert!(
        first_bytes(device, 1 << 20) == before,
        "the device was changed"
    );
    assert_eq!(fs::read(ext4.path.join("precious")).unwrap(), b"precious");
}

#[test]
fn pack_refuses_a_disk_with_a_mounted_partition_even_with_force() {
    needs_devices!();
    let _alone = alone();
    let (dir, inputs) = (tempfile::tempdir().unwrap(), Inputs::make());
    let parted = Partitioned::make(dir.path(), "gpt", 512, b"something");
    check(Command::new("mkfs.ext4").arg("-qF").arg(&parted.first));
    let at = dir.path().join("mnt");
    fs::create_dir(&at).unwrap();
    check(Command::new("mount").args([&parted.first, &at]));
    let unmount = Unmount(&at);
    let before = first_bytes(&parted.disk.path, 1 << 20);
    inputs
        .pack(&parted.disk.path, &["--force", "--json"])
        .exits(1)
        .with_code("busy");
    assert!(
        first_bytes(&parted.disk.path, 1 << 20) == before,
        "the device was changed"
    );
    // The other partition is not mounted.
    inputs.pack(&parted.second, &["--force"]).exits(0);
    run([Path::new("verify"), &parted.second]).exits(0);
    drop(unmount);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn failing_pack_leaves_no_payload_on_the_device() {
    needs_devices!();
    let _alone = alone();
    let (dir, inputs) = (tempfile::tempdir().unwrap(), Inputs::make());
    // The last input does not match its checksum. By then most of the image is
    // written.
    let sums: String = inputs
        .model
        .iter()
        .map(|(name, bytes)| {
            let bytes = if name.starts_with('4') {
                b"other"
            } else {
                &bytes[..]
            };
            format!("{}  {name}\n", sha256sum(bytes))
        })
        .collect();
    let file = dir.path().join("sums");
    fs::write(&file, sums).unwrap();
    let sums = file.to_str().unwrap();
    for old in [&Image::new(&[("old", b"payload")]).bytes(), &noise(3, 5000)] {
        let file = backing(dir.path(), "disk", old, 4 << 20);
        let device = Loop::attach(&file, 4096);
        let ran = inputs
            .pack(&device.path, &["--force", "--checksums", sums])
            .exits(1);
        assert!(ran.stderr.contains("4 file"), "{}", ran.stderr);
        assert!(first_bytes(&device.path, 8) != b"LBPAYLD1");
        run([Path::new("probe"), &device.path]).exits(3);
        inputs.pack(&device.path, &["--force"]).exits(0);
        run([Path::new("verify"), &device.path]).exits(0);
    }
}

#[test]
fn read_error_in_an_input_leaves_no_payload_on_the_device() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let ext4 = Mounted::make("ext4", dir.path(), 32 << 20);
    for (name, len) in [("a good", 3 << 20), ("b bad", 1 << 20)] {
        fs::write(ext4.path.join(name), noise(len as u64, len)).unwrap();
    }
    check(
        Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&ext4.path),
    );
    let (good, bad) = (ext4.path.join("a good"), ext4.path.join("b bad"));
    for path in [&good, &bad] {
        fs::read(path).unwrap();
    }
    check(
        Command::new("dd")
            .arg(format!("if={}", bad.display()))
            .args(["iflag=nocache", "count=0"]),
    );
    // The names and sizes have been read. Now the backing file of the inputs' file
    // system is truncated.
    backing(dir.path(), "ext4.img", &[], 0);
    let (device, _) = noisy(dir.path(), 8 << 20, 512);
    let mut pack = lbpayload();
    pack.args(["pack", "--json", "--force", "-o"])
        .arg(&device.path)
        .arg(&good)
        .arg(&bad);
    let ran = Ran::of(&mut pack).exits(1).says("Input/output error");
    assert_eq!(ran.json_error()["path"], bad.to_str().unwrap());
    assert!(first_bytes(&device.path, 8) != b"LBPAYLD1");
    run([Path::new("probe"), &device.path]).exits(3);
}

#[test]
fn missing_input_leaves_the_device_unchanged() {
    needs_devices!();
    let _alone = alone();
    let (dir, inputs) = (tempfile::tempdir().unwrap(), Inputs::make());
    let (device, file) = noisy(dir.path(), 4 << 20, 512);
    let gone = inputs.dir.path().join("gone");
    let mut command = lbpayload();
    command.args(["pack", "--json", "--force", "-o"]).args([
        &device.path,
        &inputs.dir.path().join("2 file"),
        &gone,
    ]);
    let ran = Ran::of(&mut command).exits(1);
    assert_eq!(ran.json_error()["path"], gone.to_str().unwrap());
    assert!(
        fs::read(&file).unwrap() == noise(9, 4 << 20),
        "the device was changed"
    );
}

#[test]
fn pack_refuses_a_read_only_device() {
    needs_devices!();
    let _alone = alone();
    let (dir, inputs) = (tempfile::tempdir().unwrap(), Inputs::make());
    let file = backing(dir.path(), "disk", &noise(9, 1 << 20), 4 << 20);
    let device = Loop::with(&file, &["--read-only"]);
    let ran = inputs.pack(&device.path, &["--force", "--json"]).exits(1);
    let error = ran.says("read-only").json_error();
    assert_eq!(error["path"], device.path.to_str().unwrap());
    assert!(fs::read(&file).unwrap()[..1 << 20] == noise(9, 1 << 20));
}
