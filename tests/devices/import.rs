//! `lbpayload import` from loop devices onto real file systems, compared with a
//! model.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::disks::{Model, assert_holds, awkward, disk, image};
use crate::support::{Mounted, noise, run, sha256sum};
use crate::{alone, needs_devices};

/// Imports with `--json` and some options, and returns the report.
#[track_caller]
fn import(device: &Path, dest: &Path, options: &[&str]) -> Value {
    let mut args: Vec<OsString> = ["import", "--json", "--device"].map(Into::into).into();
    args.extend([device.into(), dest.into()]);
    args.extend(options.iter().map(Into::into));
    let ran = run(args).exits(0);
    assert_eq!(ran.stderr, "", "prints nothing without a terminal");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&report["source"], &report["dest"]),
        (&as_json(device), &as_json(dest))
    );
    assert!(report["seconds"].as_f64().is_some_and(|s| s > 0.0));
    report
}

fn as_json(path: &Path) -> Value {
    path.to_str().unwrap().into()
}

fn counts(report: &Value) -> [u64; 5] {
    ["files", "bytes", "written", "kept", "replaced"].map(|key| report[key].as_u64().unwrap())
}

fn modes(report: &Value) -> (&str, Option<&str>) {
    (
        report["read_mode"].as_str().unwrap(),
        report["write_mode"].as_str(),
    )
}

/// Imports the files of `awkward` from disks of both sector sizes into `root`, with
/// every combination of options, and returns the write modes of auto and of never.
fn assert_every_size_is_imported(root: &Path) -> Vec<[String; 2]> {
    let model = awkward();
    let (files, bytes) = (
        model.len() as u64,
        model.values().map(|b| b.len() as u64).sum(),
    );
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for sector in [512, 4096] {
        let device = disk(
            dir.path(),
            &format!("{sector}"),
            &image(&model).bytes(),
            sector,
        );
        let mut writes = Vec::new();
        for direct in ["auto", "never"] {
            let dest = root.join(format!("{sector}-{direct}"));
            let report = import(&device.path, &dest, &["--direct", direct]);
            assert_eq!(counts(&report), [files, bytes, files, 0, 0]);
            let (read, write) = modes(&report);
            assert_eq!(
                read,
                if direct == "auto" {
                    "direct"
                } else {
                    "buffered"
                }
            );
            writes.push(write.unwrap().to_owned());
            assert_holds(&dest, &model);
            let again = import(&device.path, &dest, &["--direct", direct]);
            assert_eq!(counts(&again), [files, 0, 0, files, 0]);
            assert_holds(&dest, &model);
        }
        seen.push(writes.try_into().unwrap());
    }
    seen
}

#[test]
fn files_of_every_size_and_name_are_imported_on_ext4() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let ext4 = Mounted::make("ext4", dir.path(), 256 << 20);
    for [auto, never] in assert_every_size_is_imported(&ext4.path) {
        assert_eq!(auto, "direct");
        assert!(["uncached", "buffered"].contains(&&*never), "{never}");
    }
}

#[test]
fn files_of_every_size_and_name_are_imported_on_xfs() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let xfs = Mounted::make("xfs", dir.path(), 512 << 20);
    for [auto, never] in assert_every_size_is_imported(&xfs.path) {
        assert_eq!(auto, "direct");
        assert!(["uncached", "buffered"].contains(&&*never), "{never}");
    }
}

#[test]
fn files_of_every_size_and_name_are_imported_on_tmpfs() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let tmpfs = Mounted::tmpfs(dir.path(), 128 << 20);
    // Whether a tmpfs supports O_DIRECT depends on the kernel.
    for [_, never] in assert_every_size_is_imported(&tmpfs.path) {
        assert!(["uncached", "buffered"].contains(&&*never), "{never}");
    }
}

#[test]
fn direct_always_reads_and_writes_with_direct_io() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model = awkward();
    let ext4 = Mounted::make("ext4", dir.path(), 128 << 20);
    let device = disk(dir.path(), "disk", &image(&model).bytes(), 4096);
    let dest = ext4.path.join("dest");
    let report = import(&device.path, &dest, &["--direct", "always"]);
    assert_eq!(modes(&report), ("direct", Some("direct")));
    assert_holds(&dest, &model);
}

#[test]
fn second_import_writes_only_files_that_differ() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model = awkward();
    let ext4 = Mounted::make("ext4", dir.path(), 128 << 20);
    let device = disk(dir.path(), "disk", &image(&model).bytes(), 512);
    let dest = ext4.path.join("dest");
    import(&device.path, &dest, &[]);
    // Change one byte of a large file, shorten a small one, and remove a third.
    let mut large = model["file of 3145745"].clone();
    *large.last_mut().unwrap() ^= 1;
    fs::write(dest.join("file of 3145745"), large).unwrap();
    fs::write(dest.join("file of 513"), &model["file of 513"][..512]).unwrap();
    fs::remove_file(dest.join("file of 0")).unwrap();
    let report = import(&device.path, &dest, &[]);
    let files = model.len() as u64;
    assert_eq!(counts(&report), [files, 3_145_745 + 513, 3, files - 3, 2]);
    assert_holds(&dest, &model);
}

#[test]
fn import_of_named_files_imports_only_these_and_dry_run_writes_nothing() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model = awkward();
    let device = disk(dir.path(), "disk", &image(&model).bytes(), 4096);
    let dest = dir.path().join("dest");
    let names = ["file of 65537", ".hidden", "file of 0"];
    let picked: Model = names
        .iter()
        .map(|&n| (n.to_owned(), model[n].clone()))
        .collect();
    let bytes = picked.values().map(|b| b.len() as u64).sum();
    let options: Vec<&str> = ["--dry-run", "--files"].into_iter().chain(names).collect();
    let report = import(&device.path, &dest, &options);
    assert_eq!(counts(&report), [3, bytes, 3, 0, 0]);
    assert_eq!(modes(&report), ("direct", None));
    assert!(!dest.exists());
    import(&device.path, &dest, &options[1..]);
    assert_holds(&dest, &picked);
}

#[test]
fn only_the_file_with_a_wrong_checksum_is_not_imported() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut model = awkward();
    let sums: String = model
        .iter()
        .map(|(n, b)| format!("{}  {n}\n", sha256sum(b)))
        .collect();
    let file = dir.path().join("sums");
    fs::write(&file, sums).unwrap();
    let ext4 = Mounted::make("ext4", dir.path(), 128 << 20);
    let dest = ext4.path.join("dest");
    for bad in ["file of 3145745", "file of 511"] {
        model.get_mut(bad).unwrap()[0] ^= 1;
    }
    let device = disk(dir.path(), "disk", &image(&model).bytes(), 512);
    let args = ["import", "--device"].map(Path::new);
    let ran = run(args
        .into_iter()
        .chain([&*device.path, &dest, Path::new("--checksums"), &file]));
    let ran = ran.exits(1).says("`file of 511`").says("`file of 3145745`");
    assert!(
        ran.says("2 of 21 files not imported")
            .stdout
            .contains("19 files")
    );
    model.retain(|name, _| !["file of 3145745", "file of 511"].contains(&&**name));
    assert_holds(&dest, &model);
}

#[test]
fn verify_list_and_cat_read_a_payload_that_fills_the_device() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model = awkward();
    let image = image(&model);
    let sums = dir.path().join("sums");
    let text: String = model
        .iter()
        .map(|(n, b)| format!("{}  {n}\n", sha256sum(b)))
        .collect();
    fs::write(&sums, text).unwrap();
    let names: Vec<&str> = image
        .files
        .iter()
        .map(|f| std::str::from_utf8(&f.0).unwrap())
        .collect();
    for sector in [512, 4096] {
        let device = disk(dir.path(), &format!("{sector}"), &image.bytes(), sector);
        let verify = run([
            Path::new("verify"),
            Path::new("--checksums"),
            &sums,
            &device.path,
        ])
        .exits(0);
        let lines: String = names.iter().map(|n| format!("{n}: OK\n")).collect();
        assert_eq!(verify.stdout, lines);
        let list = run([Path::new("list"), &device.path]).exits(0);
        let listed: Vec<(usize, &str)> = list
            .stdout
            .lines()
            .map(|line| line.trim_start().split_once(' ').unwrap())
            .map(|(size, name)| (size.parse().unwrap(), name))
            .collect();
        let expected: Vec<(usize, &str)> = names.iter().map(|&n| (model[n].len(), n)).collect();
        assert_eq!(listed, expected);
        for name in &names {
            let args = ["cat", device.path.to_str().unwrap(), "--", name];
            assert!(run(args).exits(0).stdout_bytes == model[*name], "{name}");
        }
        let two = [
            "cat",
            device.path.to_str().unwrap(),
            "file of 513",
            "file of 65537",
        ];
        let both = [&model["file of 513"][..], &model["file of 65537"]].concat();
        assert!(run(two).exits(0).stdout_bytes == both);
    }
}

#[test]
fn list_reports_device_size_and_payload_size() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model: Model = [("a".into(), noise(1, 700)), ("b".into(), noise(2, 10))].into();
    let bytes = image(&model).bytes();
    let device = disk(dir.path(), "disk", &bytes, 512);
    let ran = run([Path::new("list"), Path::new("--json"), &device.path]).exits(0);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["source_bytes"], crate::disks::size(&device.path));
    assert_eq!(
        (&report["payload_bytes"], &report["files"]),
        (&bytes.len().into(), &2.into())
    );
    assert_eq!(report["entries"][1]["data_offset"], bytes.len() - 700);
}
