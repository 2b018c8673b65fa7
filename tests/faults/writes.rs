//! The n-th operation on the destination fails.

use std::path::Path;
use std::sync::Arc;

use crate::doubles::{Engine, Trial, direct_source};
use crate::support::memory::Memory;
use crate::support::{Image, noise, tree};

fn image() -> Image {
    let large = |seed, len| noise(seed, len);
    let files: Vec<(String, Vec<u8>)> = vec![
        ("a-small".into(), large(1, 10)),
        ("b-large".into(), large(2, 30_000)),
        ("c-empty".into(), Vec::new()),
        ("d-large".into(), large(3, 12_288)),
        ("e-small".into(), large(4, 1000)),
        ("f-large".into(), large(5, 5001)),
    ];
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
    Image::new(&files)
}

/// Every name has its old content, its new content, or is absent if it was absent
/// before.
fn assert_old_or_new(dest: &Path, image: &Image, old: &[(&str, &[u8])], when: &str) {
    for (name, content) in tree(dest) {
        let new = image
            .files
            .iter()
            .find(|(n, _)| *n == name.as_bytes())
            .map(|(_, d)| d);
        let old = old
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, d)| d.to_vec());
        assert!(
            new == Some(&content) || old == Some(content),
            "{when}: {name} is neither old nor new"
        );
    }
    for (name, _) in old {
        assert!(dest.join(name).exists(), "{when}: {name} is lost");
    }
}

#[test]
fn every_file_is_old_or_new_after_any_failed_operation() {
    let old: &[(&str, &[u8])] = &[
        ("b-large", b"old"),
        ("f-large", b"older"),
        ("other", b"kept"),
    ];
    let kinds = [
        "create",
        "write",
        "finish",
        "put",
        "flush",
        "publish",
        "flush names",
    ];
    for kind in kinds {
        let mut failures = 0;
        for n in 0.. {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in old {
                std::fs::write(dir.path().join(name), content).unwrap();
            }
            let image = image();
            let mut trial = Trial::new(Memory::new(image.bytes()).shared(), dir.path());
            trial.fail = Some((kind, n));
            let (result, _) = trial.run();
            assert_old_or_new(dir.path(), &image, old, &format!("{kind} {n}"));
            let Err(error) = result else {
                assert_eq!(
                    tree(dir.path()).len(),
                    7,
                    "the copy must be complete: {kind} {n}"
                );
                break;
            };
            let errno = if kind == "flush" {
                libc::EIO
            } else {
                libc::ENOSPC
            };
            let found = error.io_error().unwrap().raw_os_error();
            assert_eq!(found, Some(errno), "{error}");
            failures += 1;
        }
        assert!(failures > 0, "{kind} never failed");
    }
}

#[test]
fn every_file_is_old_or_new_after_any_failed_io_uring_operation() {
    let old: &[(&str, &[u8])] = &[
        ("b-large", b"old"),
        ("f-large", b"older"),
        ("other", b"kept"),
    ];
    let image = image();
    let elsewhere = tempfile::tempdir().unwrap();
    let Some(source) = direct_source(elsewhere.path(), &image.bytes()) else {
        return;
    };
    for kind in ["create", "write", "finish", "put", "flush", "publish"] {
        let mut failures = 0;
        for n in 0.. {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in old {
                std::fs::write(dir.path().join(name), content).unwrap();
            }
            let mut trial = Trial::new(Arc::clone(&source), dir.path());
            (trial.fail, trial.engine) = (Some((kind, n)), Engine::Uring);
            let (result, _) = trial.run();
            assert_old_or_new(dir.path(), &image, old, &format!("{kind} {n}"));
            if result.is_ok() {
                assert_eq!(
                    tree(dir.path()).len(),
                    7,
                    "the copy must be complete: {kind} {n}"
                );
                break;
            }
            failures += 1;
        }
        assert!(failures > 0, "{kind} never failed");
    }
}

#[test]
fn write_error_names_the_file() {
    for kind in ["create", "write", "finish", "put", "publish"] {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = Trial::new(Memory::new(image().bytes()).shared(), dir.path());
        trial.fail = Some((kind, 0));
        let error = trial.run().0.unwrap_err();
        let (_, name) = error.entry().unwrap();
        assert!(name.is_some(), "{kind}: {error}");
    }
}

#[test]
fn no_file_is_renamed_after_a_failed_flush() {
    let dir = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(Memory::new(image().bytes()).shared(), dir.path());
    trial.fail = Some(("flush", 0));
    let (result, ops) = trial.run();
    result.unwrap_err();
    assert!(!ops.iter().any(|op| op.kind() == "publish"), "{ops:?}");
    assert_eq!(tree(dir.path()), []);
}

#[test]
fn wrong_checksum_excludes_only_the_file_it_belongs_to() {
    let image = image();
    let wrong = "0".repeat(64);
    for (name, _) in &image.files {
        let name = String::from_utf8(name.clone()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let sums = format!("{wrong}  {name}\n");
        let mut trial = Trial::new(Memory::new(image.bytes()).shared(), dir.path());
        trial.sums = &sums;
        let copied = trial.run().0.unwrap();
        assert_eq!(copied.failed.len(), 1, "{name}");
        assert_eq!(copied.failed[0].name.as_deref(), Some(&*name));
        let names: Vec<_> = tree(dir.path()).into_iter().map(|(n, _)| n).collect();
        assert_eq!(names.len(), 5);
        assert!(!names.contains(&name));
    }
}

#[test]
fn failed_rename_of_one_file_does_not_affect_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(Memory::new(image().bytes()).shared(), dir.path());
    trial.fail = Some(("publish", 1));
    let (result, _) = trial.run();
    result.unwrap_err();
    assert_eq!(tree(dir.path()).len(), 5);
}

#[test]
fn batch_is_flushed_when_its_total_size_reaches_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let image = image();
    let mut trial = Trial::new(Memory::new(image.bytes()).shared(), dir.path());
    trial.tuning.batch.files = 1000;
    trial.tuning.batch.bytes = 12_000;
    let (copied, ops) = trial.run();
    assert_eq!(copied.unwrap().files, 6);
    let flushes = ops.iter().filter(|op| op.kind() == "flush").count();
    // b and d are each large enough alone. Files that arrive while b's batch is
    // flushed may be in the last batch.
    assert!(flushes >= 2, "{ops:?}");
}
