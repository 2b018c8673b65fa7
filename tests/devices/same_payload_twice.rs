//! The same payload on two devices counts once. Two copies of a payload count as two.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use crate::disks::{Model, assert_holds, backing, disk, image, number};
use crate::mount_namespace::{Listing, View};
use crate::support::{Image, Loop, noise};
use crate::{alone, needs_devices};

fn model() -> Model {
    [
        ("a".into(), noise(1, 5000)),
        ("b".into(), noise(2, 100_000)),
    ]
    .into()
}

#[test]
fn probe_counts_two_loop_devices_of_one_file_once() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = backing(dir.path(), "image", &image(&model()).bytes(), 1 << 20);
    let (one, two) = (Loop::attach(&file, 512), Loop::attach(&file, 4096));
    let view = View::of(&[&one.path, &two.path], Listing::Sys);
    let ran = view.run(["probe"]).exits(0);
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    let dest = dir.path().join("dest");
    view.run([Path::new("import"), &dest]).exits(0);
    assert_holds(&dest, &model());
    let all: Vec<Value> =
        serde_json::from_str(&view.run(["probe", "--json"]).exits(0).stdout).unwrap();
    assert!(
        all.iter().all(|f| f["verdict"] == "payload"),
        "the report tells of each device"
    );
    let same: Vec<&Value> = all.iter().map(|f| &f["same_as"]).collect();
    let path = |l: &Loop| Value::from(l.path.to_str().unwrap());
    assert!(
        same == [&Value::Null, &path(&one)] || same == [&path(&two), &Value::Null],
        "one of them is marked: {same:?}"
    );
    let table = view.run(["probe", "--all"]).exits(0).stdout;
    assert_eq!(table.matches("same as /dev/loop").count(), 1, "{table}");
}

#[test]
fn probe_counts_two_offsets_in_one_file_as_two_payloads() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(&model()).bytes();
    let mut both = bytes.clone();
    both.resize(1 << 20, 0);
    both.extend(&bytes);
    let file = backing(dir.path(), "image", &both, 2 << 20);
    let one = Loop::with(&file, &["--sizelimit", "1048576"]);
    let two = Loop::with(&file, &["--offset", "1048576"]);
    let ran = View::of(&[&one.path, &two.path], Listing::Sys)
        .run(["probe"])
        .exits(0);
    assert_eq!(ran.stdout.lines().count(), 2, "{}", ran.stdout);
}

#[test]
fn probe_counts_only_the_upper_of_two_stacked_loop_devices() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let lower = disk(dir.path(), "image", &image(&model()).bytes(), 512);
    let middle = Loop::attach(&lower.path, 4096);
    let upper = Loop::attach(&middle.path, 512);
    let view = View::of(&[&lower.path, &middle.path, &upper.path], Listing::Sys);
    let ran = view.run(["probe"]).exits(0);
    assert_eq!(ran.stdout, format!("{}\n", upper.path.display()));
    let dest = dir.path().join("dest");
    view.run([Path::new("import"), &dest]).exits(0);
    assert_holds(&dest, &model());
}

#[test]
fn probe_counts_copies_on_two_disks_as_two_payloads() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(&model()).bytes();
    let (one, two) = (
        disk(dir.path(), "one", &bytes, 512),
        disk(dir.path(), "two", &bytes, 512),
    );
    let ran = View::of(&[&one.path, &two.path], Listing::Sys)
        .run(["probe"])
        .exits(0);
    assert_eq!(ran.stdout.lines().count(), 2, "{}", ran.stdout);
}

#[test]
fn import_uses_two_copies_only_if_it_is_asked_to() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(&model()).bytes();
    let (one, two) = (
        disk(dir.path(), "one", &bytes, 512),
        disk(dir.path(), "two", &bytes, 4096),
    );
    let view = View::of(&[&one.path, &two.path], Listing::Sys);
    let dest = dir.path().join("dest");
    let args = |copies: bool| {
        let args = ["import", "--json"]
            .into_iter()
            .chain(copies.then_some("--copies"));
        let args: Vec<&Path> = args.map(Path::new).chain([&*dest]).collect();
        args
    };
    view.run(args(false)).exits(4).with_code("ambiguous");
    assert!(!dest.exists(), "the destination was created");
    let ran = view.run(args(true)).exits(0);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["copies"].as_array().unwrap().len(), 2);
    assert_holds(&dest, &model());
    // A payload with other headers is no copy.
    let three = disk(
        dir.path(),
        "three",
        &Image::new(&[("z", b"z")]).bytes(),
        512,
    );
    let view = View::of(&[&one.path, &two.path, &three.path], Listing::Sys);
    view.run(args(true)).exits(4).with_code("copies-differ");
}

#[test]
fn import_uses_the_only_payload_it_finds() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let payload = disk(dir.path(), "payload", &image(&model()).bytes(), 512);
    let blank = disk(dir.path(), "blank", &[], 512);
    let mut broken = Image::new(&[("x", b"y")]).bytes();
    broken[8] = 2;
    let broken = Loop::attach(&backing(dir.path(), "broken", &broken, 4096), 512);
    let devices = [&*blank.path, &broken.path, &payload.path];
    for listing in [Listing::Sys, Listing::Proc, Listing::Dev] {
        let dest = dir.path().join(format!("{listing:?}"));
        let view = View::of(&devices, listing);
        let ran = view
            .run([Path::new("import"), Path::new("--json"), &dest])
            .exits(0);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(report["source"], payload.path.to_str().unwrap());
        assert_holds(&dest, &model());
    }
}

#[test]
fn import_refuses_two_payloads_and_names_both_devices() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let one = disk(dir.path(), "one", &image(&model()).bytes(), 512);
    let two = disk(dir.path(), "two", &Image::new(&[("z", b"z")]).bytes(), 4096);
    let dest = dir.path().join("dest");
    let mut found = [&one.path, &two.path];
    found.sort_by_key(|p| number(p));
    for listing in [Listing::Sys, Listing::Proc, Listing::Dev] {
        let view = View::of(&[&two.path, &one.path], listing);
        let ran = view
            .run([Path::new("import"), Path::new("--json"), &dest])
            .exits(4);
        let names = format!("{}, {}", found[0].display(), found[1].display());
        ran.says(&names).says("--device").with_code("ambiguous");
        assert!(!dest.exists(), "the destination was created");
    }
}

#[test]
fn import_without_a_payload_lists_the_devices_it_probed() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let blank = disk(dir.path(), "blank", &[], 512);
    let cut = Image::new(&[("x", &noise(1, 100_000))]).bytes();
    let cut = Loop::attach(&backing(dir.path(), "cut", &cut[..50_000], 51_200), 512);
    let dest = dir.path().join("dest");
    let looked = [
        (Listing::Sys, "/sys/class/block"),
        (Listing::Proc, "/proc/partitions"),
        (Listing::Dev, "/dev"),
    ];
    for (listing, from) in looked {
        let view = View::of(&[&blank.path, &cut.path], listing);
        let ran = view
            .run([Path::new("import"), Path::new("--json"), &dest])
            .exits(3);
        let ran = ran.says(&format!("2 devices from {from}"));
        let error = ran.with_code("damaged-candidate").json_error();
        assert_eq!(error["path"], cut.path.to_str().unwrap());
        assert!(!dest.exists(), "the destination was created");
    }
}

#[test]
fn is_device_held_while_opened_exclusively() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let device = disk(dir.path(), "held", &[], 512);
    let mut exclusive = std::fs::OpenOptions::new();
    exclusive.read(true).custom_flags(libc::O_EXCL);
    let holder = exclusive.open(&device.path).unwrap();
    assert!(lbpayload::block::is_held(&device.path));
    drop(holder);
    assert!(!lbpayload::block::is_held(&device.path));
}
