//! `lbpayload import`: which files it copies, keeps and reports.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;

use crate::fixture::{Place, as_tree, fails_with, json, sample};
use crate::support::{Image, Lacks, check, skip, tree};

#[test]
fn import_copies_every_file_and_creates_the_destination() {
    for image in [sample(), sample().narrow()] {
        let place = Place::new(&image);
        let ran = place.import().exits(0);
        assert!(tree(&place.dest) == as_tree(&image));
        let said = format!(
            "imported 5 files (2.45 MiB) from {} into {} in ",
            place.image.display(),
            place.dest.display()
        );
        assert!(ran.stdout.starts_with(&said), "{}", ran.stdout);
        assert_eq!(ran.stdout.lines().count(), 1);
        assert_eq!(ran.stderr, "");
        assert_eq!(place.dest.metadata().unwrap().mode() & 0o777 & !0o755, 0);
    }
}

#[test]
fn import_creates_missing_parent_directories() {
    let place = Place::new(&sample());
    let dest = place.dir().join("external/distfiles");
    lb!["import", "--device", &place.image, &dest].exits(0);
    assert!(tree(&dest) == as_tree(&sample()));
}

#[test]
fn import_uses_external_distfiles_by_default() {
    let ran = lb!["import", "--help"].exits(0);
    assert!(
        ran.stdout.contains("[default: /external/distfiles]"),
        "{}",
        ran.stdout
    );
}

#[test]
fn import_accepts_a_symlink_to_a_directory_as_destination() {
    let place = Place::new(&sample());
    let real = place.dir().join("real");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &place.dest).unwrap();
    place.import().exits(0);
    assert!(tree(&real) == as_tree(&sample()));
}

#[test]
fn import_json_has_the_documented_fields() {
    let place = Place::new(&sample());
    place.fill_dest(&[("b-small", b"hello"), ("d-medium", b"another")]);
    let ran = lb!["import", "--json", "--device", &place.image, &place.dest].exits(0);
    let report = json(&ran);
    assert_eq!(report["source"], json!(place.image));
    assert_eq!(report["dest"], json!(place.dest));
    assert_eq!(report["files"], 5);
    assert_eq!(report["bytes"], 2_500_001 + 70_003 + 7);
    assert_eq!(report["written"], 4);
    assert_eq!(report["kept"], 1);
    assert_eq!(report["replaced"], 1);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    let modes = ["direct", "uncached", "buffered"];
    assert!(
        modes.contains(&report["read_mode"].as_str().unwrap()),
        "{report}"
    );
    assert!(
        modes.contains(&report["write_mode"].as_str().unwrap()),
        "{report}"
    );
}

#[test]
fn second_import_keeps_every_file_and_writes_nothing() {
    let place = Place::new(&sample());
    place.import().exits(0);
    let inodes = || -> Vec<(u64, i64)> {
        let meta = |name: &str| place.dest.join(name).metadata().unwrap();
        as_tree(&sample())
            .iter()
            .map(|(n, _)| (meta(n).ino(), meta(n).mtime_nsec()))
            .collect()
    };
    let before = inodes();
    let report = json(&lb!["import", "--json", "--device", &place.image, &place.dest].exits(0));
    assert_eq!(report["kept"], 5);
    assert_eq!(
        (&report["written"], &report["replaced"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(report["bytes"], 0);
    assert_eq!(inodes(), before);
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn import_replaces_a_file_that_differs_in_its_last_byte_and_keeps_unrelated_files() {
    let image = sample();
    let place = Place::new(&image);
    let mut nearly = image.files[2].1.clone();
    *nearly.last_mut().unwrap() ^= 1;
    place.fill_dest(&[("c-large", &nearly), ("stranger", b"mine")]);
    let report = json(&lb!["import", "--json", "--device", &place.image, &place.dest].exits(0));
    assert_eq!(report["replaced"], 1);
    let mut expected = as_tree(&image);
    expected.push(("stranger".into(), b"mine".to_vec()));
    assert!(tree(&place.dest) == expected);
}

#[test]
fn import_with_existing_keep_keeps_different_files_and_reports_them() {
    let place = Place::new(&sample());
    place.fill_dest(&[("b-small", b"mine"), ("a-empty", b"")]);
    let ran = lb![
        "import",
        "--json",
        "--existing",
        "keep",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0);
    assert_eq!(json(&ran)["kept"], 2);
    assert_eq!(json(&ran)["replaced"], 0);
    let ran = ran.says("lbpayload: warning: ");
    assert!(
        ran.stderr.contains("b-small") && !ran.stderr.contains("a-empty"),
        "{}",
        ran.stderr
    );
    assert_eq!(std::fs::read(place.dest.join("b-small")).unwrap(), b"mine");
    assert!(std::fs::read(place.dest.join("c-large")).unwrap() == sample().files[2].1);
}

#[test]
fn import_with_existing_error_writes_nothing_if_content_differs() {
    let place = Place::new(&sample());
    place.fill_dest(&[("e-last", b"mine"), ("b-small", b"hello")]);
    let before = tree(&place.dest);
    let ran = lb![
        "import",
        "--json",
        "--existing",
        "error",
        "--device",
        &place.image,
        &place.dest
    ];
    let error = fails_with(ran, "content-differs");
    let path = place.dest.join("e-last");
    assert_eq!(error["path"], path.to_str().unwrap());
    assert_eq!(tree(&place.dest), before);
    // Identical content does not cause a failure.
    std::fs::remove_file(place.dest.join("e-last")).unwrap();
    lb![
        "import",
        "--existing",
        "error",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn import_with_existing_replace_is_the_default() {
    let place = Place::new(&sample());
    place.fill_dest(&[("b-small", b"mine")]);
    lb![
        "import",
        "--existing",
        "replace",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn dry_run_creates_no_directory_and_prints_the_plan() {
    let place = Place::new(&sample());
    let ran = lb!["import", "--dry-run", "--device", &place.image, &place.dest].exits(0);
    assert!(
        ran.stdout.starts_with("would import 5 files"),
        "{}",
        ran.stdout
    );
    assert!(!place.dest.exists());
    let ran = lb![
        "import",
        "--dry-run",
        "--json",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0);
    assert_eq!(json(&ran)["written"], 5);
    assert_eq!(
        json(&ran)["bytes"],
        sample().files.iter().map(|f| f.1.len()).sum::<usize>()
    );
    assert!(!place.dest.exists());
}

#[test]
fn dry_run_writes_nothing_into_an_existing_destination() {
    let place = Place::new(&sample());
    place.fill_dest(&[("b-small", b"mine"), ("a-empty", b"")]);
    let before = tree(&place.dest);
    let ran = lb![
        "import",
        "--dry-run",
        "--json",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0);
    let report = json(&ran);
    assert_eq!(
        (&report["written"], &report["kept"]),
        (&json!(4), &json!(1))
    );
    assert_eq!(report["replaced"], 1);
    assert_eq!(tree(&place.dest), before);
    lb![
        "import",
        "--dry-run",
        "--existing",
        "error",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(1)
    .says("b-small");
    assert_eq!(tree(&place.dest), before);
}

#[test]
fn import_of_named_files_copies_only_these() {
    let place = Place::new(&sample());
    let ran = lb![
        "import",
        "--json",
        "--device",
        &place.image,
        &place.dest,
        "--files",
        "e-last",
        "b-small"
    ];
    assert_eq!(json(&ran.exits(0))["files"], 2);
    let names: Vec<String> = tree(&place.dest)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["b-small", "e-last"]);
    assert_eq!(
        std::fs::read(place.dest.join("e-last")).unwrap(),
        "größe".as_bytes()
    );
}

#[test]
fn import_of_a_missing_name_changes_nothing() {
    let place = Place::new(&sample());
    let ran = lb![
        "import",
        "--json",
        "--device",
        &place.image,
        &place.dest,
        "--files",
        "b-small",
        "nope"
    ];
    let error = fails_with(ran.says("nope"), "no-such-entry");
    assert_eq!(error["path"], place.image.to_str().unwrap());
    assert!(!place.dest.exists());
}

#[test]
fn import_without_direct_io_reports_it() {
    let place = Place::new(&sample());
    let ran = lb![
        "import",
        "--json",
        "--direct",
        "never",
        "--device",
        &place.image,
        &place.dest
    ];
    let report = json(&ran.exits(0));
    assert_eq!(report["read_mode"], "buffered");
    assert_ne!(report["write_mode"], "direct");
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn import_with_direct_always_uses_direct_io_or_fails_with_advice() {
    let place = Place::new(&sample());
    let ran = lb![
        "import",
        "--json",
        "--direct",
        "always",
        "--device",
        &place.image,
        &place.dest
    ];
    if ran.status == Some(0) {
        let report = json(&ran);
        assert_eq!(
            (&report["read_mode"], &report["write_mode"]),
            (&json!("direct"), &json!("direct"))
        );
        assert!(tree(&place.dest) == as_tree(&sample()));
    } else {
        ran.exits(1).says("--direct always");
        assert!(!place.dest.exists() || tree(&place.dest).is_empty());
    }
}

#[test]
fn import_of_a_payload_without_files_creates_an_empty_directory() {
    let place = Place::new(&Image::new(&[]));
    let ran = place.import().exits(0);
    assert!(ran.stdout.starts_with("imported 0 files"), "{}", ran.stdout);
    assert_eq!(tree(&place.dest), []);
}

#[test]
fn modes_of_imported_files_depend_on_the_umask() {
    let place = Place::new(&sample());
    let script = "umask 027; exec \"$0\" import --device \"$1\" \"$2\"";
    let program = crate::support::lbpayload();
    check(
        std::process::Command::new("sh")
            .args(["-c", script])
            .arg(program.get_program())
            .args([&place.image, &place.dest]),
    );
    for (name, _) in tree(&place.dest) {
        let mode = place
            .dest
            .join(&name)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640, "{name}");
    }
}

#[test]
fn import_with_quiet_prints_nothing() {
    let place = Place::new(&sample());
    let ran = lb!["-q", "import", "--device", &place.image, &place.dest].exits(0);
    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
}

#[test]
fn every_io_engine_and_memory_limit_gives_the_same_files() {
    for options in [
        &["--io", "uring"][..],
        &["--io", "threads"],
        &["--memory", "4M"],
        &["--io", "threads", "--memory", "1G"],
    ] {
        if options.contains(&"uring") && lbpayload::block::UringQueue::<()>::new(1).is_err() {
            skip(Lacks::Machine, "no io_uring on this kernel");
            continue;
        }
        let place = Place::new(&sample());
        let mut args: Vec<std::ffi::OsString> = vec!["import".into(), "--json".into()];
        args.extend(options.iter().map(Into::into));
        args.extend(["--device".into(), place.image.clone().into()]);
        args.push(place.dest.clone().into());
        let ran = crate::support::run(args).exits(0);
        assert!(tree(&place.dest) == as_tree(&sample()), "{options:?}");
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        if options[0] == "--io" {
            assert_eq!(report["io"], options[1], "{options:?}");
        }
    }
}
