//! `lbpayload probe`: the verdict on each kind of device.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::Path;

use serde_json::{Value, json};

use crate::disks::{Partitioned, Unattached, disk, name, number, open_error, size};
use crate::mount_namespace::{Listing, View};
use crate::support::{Image, Lacks, Loop, noise, run, skip};
use crate::{alone, needs_devices};

/// The report on one named device.
#[track_caller]
fn report(device: &Path, status: i32) -> Value {
    let ran = run([Path::new("probe"), Path::new("--json"), device]).exits(status);
    let mut all: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[track_caller]
fn is_broken(device: &Path, verdict: &str, texts: &[&str]) {
    let report = report(device, 3);
    assert_eq!(report["verdict"], verdict, "{report}");
    let error = report["error"].as_str().unwrap_or_default();
    assert_eq!(error.lines().count(), 1, "{error}");
    for text in texts {
        assert!(error.contains(text), "no {text:?} in {error:?}");
    }
    let plain = run([Path::new("probe"), device]).exits(3);
    assert_eq!(plain.stdout, "");
}

#[test]
fn probe_reports_every_field_of_a_payload() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new(&[("one", &noise(1, 5000)), ("two", b"")]);
    for sector in [512, 4096] {
        let device = disk(dir.path(), &format!("{sector}"), &image.bytes(), sector);
        let mut report = report(&device.path, 0);
        report.as_object_mut().unwrap().remove("udev");
        let (major, minor) = number(&device.path);
        assert_eq!(
            report,
            json!({
                "device": device.path, "major": major, "minor": minor, "kind": "loop",
                "size_bytes": size(&device.path), "logical_block_size": sector,
                "verdict": "payload", "dialect": "u64", "files": 2,
                "payload_bytes": image.bytes().len(), "error": null,
            })
        );
    }
}

#[test]
fn probe_accepts_a_u32_payload_and_an_empty_payload() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let early = disk(
        dir.path(),
        "early",
        &Image::new(&[("a", b"b")]).narrow().bytes(),
        512,
    );
    let found = report(&early.path, 0);
    assert_eq!(
        (&found["dialect"], &found["files"]),
        (&json!("u32"), &json!(1))
    );
    let empty = disk(dir.path(), "empty", &Image::new(&[]).bytes(), 4096);
    let found = report(&empty.path, 0);
    assert_eq!(
        (&found["payload_bytes"], &found["files"]),
        (&json!(16), &json!(0))
    );
}

#[test]
fn probe_of_named_devices_reports_only_these_in_the_given_order() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new(&[("a", b"b")]).bytes();
    let one = disk(dir.path(), "one", &image, 512);
    let other = disk(dir.path(), "other", b"nothing to see", 512);
    let two = disk(dir.path(), "two", &image, 4096);
    let ran = run([Path::new("probe"), &two.path, &other.path, &one.path]).exits(0);
    assert_eq!(
        ran.stdout,
        format!("{}\n{}\n", two.path.display(), one.path.display())
    );
    let none = run([Path::new("probe"), &other.path])
        .exits(3)
        .says("no payload in ");
    assert_eq!(none.stdout, "");
    assert_eq!(report(&other.path, 3)["verdict"], "no-magic");
}

#[test]
fn probe_without_arguments_prints_one_line_for_each_payload() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let one = disk(dir.path(), "one", &Image::new(&[("a", b"b")]).bytes(), 512);
    let blank = disk(dir.path(), "blank", &[], 512);
    let two = disk(dir.path(), "two", &Image::new(&[("c", b"d")]).bytes(), 4096);
    let ran = run(["probe"]).exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let times = |path: &Path| lines.iter().filter(|l| Path::new(l) == path).count();
    assert_eq!(
        (times(&one.path), times(&two.path), times(&blank.path)),
        (1, 1, 0),
        "{lines:?}"
    );
    let view = View::of(&[&two.path, &blank.path, &one.path], Listing::Sys);
    let mut expected = [&one.path, &two.path];
    expected.sort_by_key(|p| number(p));
    let ran = view.run(["probe"]).exits(0);
    assert_eq!(
        ran.stdout,
        format!("{}\n{}\n", expected[0].display(), expected[1].display())
    );
}

#[test]
fn table_has_a_row_for_every_device() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let device = disk(dir.path(), "one", &Image::new(&[("a", b"b")]).bytes(), 512);
    let ran = run(["probe", "--all"]).exits(0);
    let row = ran
        .stdout
        .lines()
        .find(|l| l.starts_with(&format!("{} ", device.path.display())));
    let row = row.unwrap_or_else(|| panic!("no row in {}", ran.stdout));
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[1], "loop");
    assert!(
        words.contains(&"512") && words.contains(&"payload"),
        "{row}"
    );
    let shown: BTreeSet<String> = ran
        .stdout
        .lines()
        .map(|l| name(Path::new(l.split(' ').next().unwrap())))
        .collect();
    for entry in std::fs::read_dir("/sys/class/block").unwrap() {
        let name = entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .replace('!', "/");
        // Other devices of the machine may appear and disappear meanwhile.
        let gone = !Path::new("/sys/class/block").join(&name).exists();
        assert!(
            gone || name.starts_with("loop") || shown.contains(&name),
            "{name}: {shown:?}"
        );
    }
}

#[test]
fn loop_device_without_a_backing_file_is_empty() {
    needs_devices!();
    let _alone = alone();
    let unattached = Unattached::make();
    let view = View::of(&[&unattached.path], Listing::Sys);
    let ran = view.run(["probe", "--json"]).exits(3);
    let all: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(all[0]["verdict"], "empty", "{}", ran.stdout);
    assert_eq!(
        (&all[0]["kind"], &all[0]["size_bytes"]),
        (&json!("loop"), &json!(0))
    );
}

#[test]
fn broken_headers_are_reported_as_corrupt_with_their_offset() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new(&[("first", &noise(1, 1000)), ("second", &noise(2, 3000))]);
    let second = image.header_offsets()[1];
    let mut bytes = image.bytes();
    bytes[second..second + 8].fill(0);
    let device = disk(dir.path(), "name-length", &bytes, 512);
    is_broken(
        &device.path,
        "corrupt",
        &["entry 1", &format!("at offset {second}"), "name length"],
    );
    let mut bytes = image.bytes();
    bytes[second + 16] = b'/';
    let device = disk(dir.path(), "name", &bytes, 512);
    is_broken(
        &device.path,
        "corrupt",
        &["entry 1", &format!("at offset {second}")],
    );
    let mut bytes = image.bytes();
    bytes[second + 8..second + 16].copy_from_slice(&u64::MAX.to_le_bytes());
    let device = disk(dir.path(), "overflow", &bytes, 512);
    is_broken(
        &device.path,
        "corrupt",
        &["entry 1", "`second`", "overflow"],
    );
}

#[test]
fn device_smaller_than_its_payload_is_corrupt() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let bytes = Image::new(&[("small", b"x"), ("large", &noise(1, 1 << 20))]).bytes();
    let file = dir.path().join("half");
    std::fs::write(&file, &bytes[..512 << 10]).unwrap();
    let device = Loop::attach(&file, 512);
    let (needed, found) = (bytes.len().to_string(), (512 << 10).to_string());
    is_broken(
        &device.path,
        "corrupt",
        &["entry 1", "`large`", &needed, &found, "larger"],
    );
    let view = View::of(&[&device.path], Listing::Sys);
    view.run(["probe"]).exits(3).says("is damaged");
}

#[test]
fn probe_continues_after_a_device_that_fails_to_read() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let bytes = Image::new(&[("a", &noise(1, 100_000))]).bytes();
    let bad = disk(dir.path(), "bad", &bytes, 512);
    let good = disk(dir.path(), "good", &bytes, 512);
    // The backing file of the loop device is truncated: every read returns EIO.
    OpenOptions::new()
        .write(true)
        .open(dir.path().join("bad"))
        .unwrap()
        .set_len(0)
        .unwrap();
    is_broken(&bad.path, "unreadable", &["Input/output error", "offset 0"]);
    let view = View::of(&[&bad.path, &good.path], Listing::Sys);
    let ran = view.run(["probe"]).exits(0);
    assert_eq!(ran.stdout, format!("{}\n", good.path.display()));
}

#[test]
fn probe_continues_after_a_device_that_fails_to_open() {
    needs_devices!();
    let _alone = alone();
    let Some(vda) = Some(Path::new("/dev/vda")).filter(|p| p.exists()) else {
        skip(Lacks::Machine, "no /dev/vda");
        return;
    };
    let Some(error) = open_error(vda) else {
        skip(Lacks::Machine, "/dev/vda can be opened");
        return;
    };
    let error = error.to_string();
    let said = error.split(" (os error").next().unwrap();
    is_broken(vda, "unreadable", &["`/dev/vda`", said]);
    let dir = tempfile::tempdir().unwrap();
    let device = disk(dir.path(), "good", &Image::new(&[("a", b"b")]).bytes(), 512);
    let view = View::of(&[vda, &device.path], Listing::Sys);
    let ran = view.run(["probe", "--json"]).exits(0);
    let all: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    let verdict = |path: &Path| {
        all.iter()
            .find(|f| Path::new(f["device"].as_str().unwrap()) == path)
            .unwrap()["verdict"]
            .clone()
    };
    assert_eq!(
        (verdict(vda), verdict(&device.path)),
        (json!("unreadable"), json!("payload"))
    );
    assert_eq!(
        all.iter().find(|f| f["device"] == "/dev/vda").unwrap()["kind"],
        "disk"
    );
}

#[test]
fn probe_continues_after_a_named_device_that_does_not_exist() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let device = disk(dir.path(), "good", &Image::new(&[("a", b"b")]).bytes(), 512);
    let ran = run([Path::new("probe"), Path::new("/dev/no-such"), &device.path]).exits(0);
    assert_eq!(ran.stdout, format!("{}\n", device.path.display()));
    run(["probe", "/dev/no-such"])
        .exits(3)
        .says("/dev/no-such")
        .says("No such file");
}

#[test]
fn report_is_the_same_from_sys_proc_and_dev() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let bytes = Image::new(&[("a", &noise(1, 100_000))]).bytes();
    let payload = disk(dir.path(), "payload", &bytes, 4096);
    let blank = disk(dir.path(), "blank", &[], 512);
    let parted = Partitioned::make(dir.path(), "gpt", 512, &bytes);
    let devices = [
        &*payload.path,
        &blank.path,
        &parted.disk.path,
        &parted.first,
        &parted.second,
    ];
    let look = |listing| {
        let ran = View::of(&devices, listing)
            .run(["probe", "--json"])
            .exits(0);
        let mut all: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
        for finding in &mut all {
            finding.as_object_mut().unwrap().remove("udev");
        }
        all
    };
    let by_sys = look(Listing::Sys);
    assert_eq!(by_sys.len(), devices.len());
    let kind =
        |path: &Path| by_sys.iter().find(|f| f["device"] == json!(path)).unwrap()["kind"].clone();
    assert_eq!(
        (kind(&parted.disk.path), kind(&parted.second)),
        (json!("loop"), json!("partition"))
    );
    assert_eq!(look(Listing::Proc), by_sys);
    assert_eq!(look(Listing::Dev), by_sys);
}

/// A build without libudev reads udev's database itself; the other one asks libudev.
#[test]
fn probe_shows_what_udev_knows_of_a_device() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let device = disk(dir.path(), "known", &Image::new(&[]).bytes(), 512);
    let (major, minor) = number(&device.path);
    let record = "I:1\nE:ID_SERIAL=A_1\nE:ID_FS_TYPE=ext4\nE:ID_VENDOR=QEMU\nG:systemd\n";
    let script = "mount -t tmpfs none /run && mkdir -p /run/udev/data &&
        { [ -z \"$1\" ] || printf %b \"$1\" > /run/udev/data/b$2; } && exec \"$3\" probe --json \"$4\"";
    let udev = |record: &str| {
        let number = format!("{major}:{minor}");
        let program = env!("CARGO_BIN_EXE_lbpayload");
        let mut command = std::process::Command::new("unshare");
        command.args([
            "--mount", "sh", "-ec", script, "sh", record, &number, program,
        ]);
        let report: Value =
            serde_json::from_str(&crate::support::check(command.arg(&device.path))).unwrap();
        report[0]["udev"].clone()
    };
    let known = json!({"serial": "A_1", "medium": "Loopback", "filesystem": "ext4"});
    assert_eq!(udev(record), known);
    assert_eq!(udev("I:1\nE:ID_FS_TYPE=\n"), json!({"medium": "Loopback"}));
    assert_eq!(udev(""), json!({"medium": "Loopback"}));
}
