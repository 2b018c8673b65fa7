//! `lbpayload import`: interrupted, run twice at once, and leftovers of an earlier
//! run.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use crate::fixture::{Place, as_tree, sample};
use crate::support::{Image, check, lbpayload, noise, tree};

const STAGING: &str = ".lbpayload-staging";

fn start(image: &Path, dest: &Path) -> Child {
    lbpayload()
        .arg("import")
        .arg("--device")
        .args([image, dest])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn lock(dir: &Path) -> Flock<File> {
    Flock::lock(File::open(dir).unwrap(), FlockArg::LockExclusiveNonblock).unwrap()
}

/// Reads lines of standard error until one contains `text`.
fn hear(child: &mut Child, text: &str) -> BufReader<std::process::ChildStderr> {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut heard = String::new();
    while !heard.contains(text) {
        let n = stderr.read_line(&mut heard).unwrap();
        assert_ne!(n, 0, "it ended without {text:?}: {heard}");
    }
    stderr
}

#[test]
fn second_import_into_the_same_destination_waits_and_reports_it() {
    let place = Place::new(&sample());
    place.fill_dest(&[("b-small", b"mine")]);
    let held = lock(&place.dest);
    let mut child = start(&place.image, &place.dest);
    let text = format!("waiting for another import into {}", place.dest.display());
    let mut stderr = hear(&mut child, &text);
    assert_eq!(
        tree(&place.dest),
        [("b-small".to_owned(), b"mine".to_vec())]
    );
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    drop(held);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn dry_run_does_not_wait_for_an_import() {
    let place = Place::new(&sample());
    place.fill_dest(&[]);
    let _held = lock(&place.dest);
    lb!["import", "--dry-run", "--device", &place.image, &place.dest].exits(0);
}

#[test]
fn import_stopped_by_a_signal_leaves_nothing_and_ends_with_that_signal() {
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let place = Place::new(&sample());
        place.fill_dest(&[("mine", b"precious")]);
        let _held = lock(&place.dest);
        let mut child = start(&place.image, &place.dest);
        let mut stderr = hear(&mut child, "waiting");
        check(Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]));
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(number), "{status}");
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("interrupted"), "{rest}");
        assert_eq!(
            tree(&place.dest),
            [("mine".to_owned(), b"precious".to_vec())]
        );
    }
}

#[test]
fn next_import_removes_leftovers_of_an_interrupted_one() {
    let place = Place::new(&sample());
    let staging = place.dest.join(STAGING);
    std::fs::create_dir_all(&staging).unwrap();
    // Under names that this run uses too, and under others.
    for name in ["0", "2", "probe", "ffff"] {
        std::fs::write(staging.join(name), noise(5, 10_000)).unwrap();
    }
    place.import().exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
    // Also when there is nothing left to write.
    std::fs::create_dir(&staging).unwrap();
    std::fs::write(staging.join("3"), "half").unwrap();
    place.import().exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn two_concurrent_imports_both_succeed() {
    let place = Place::new(&sample());
    let first = start(&place.image, &place.dest);
    let second = start(&place.image, &place.dest);
    for child in [first, second] {
        let out = child.wait_with_output().unwrap();
        assert_eq!(
            out.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    assert!(tree(&place.dest) == as_tree(&sample()));
}

/// A sparse image with files of many sizes, 300 MiB in all. Each file has different
/// bytes at its start and end.
struct Sparse {
    path: std::path::PathBuf,
    files: Vec<(String, u64)>,
}

impl Sparse {
    fn write(dir: &Path) -> Self {
        use std::os::unix::fs::FileExt;
        let path = dir.join("sparse.img");
        let file = File::create(&path).unwrap();
        let files: Vec<(String, u64)> = (0..60_u64)
            .map(|i| {
                (
                    format!("file-{i:02}"),
                    if i % 2 == 0 { 10 << 20 } else { 3000 + i },
                )
            })
            .collect();
        file.write_all_at(b"LBPAYLD1", 0).unwrap();
        file.write_all_at(&(files.len() as u64).to_le_bytes(), 8)
            .unwrap();
        let mut at = 16;
        for (name, size) in &files {
            let mut head = (name.len() as u64).to_le_bytes().to_vec();
            head.extend_from_slice(&size.to_le_bytes());
            head.extend_from_slice(name.as_bytes());
            file.write_all_at(&head, at).unwrap();
            at += head.len() as u64;
            file.write_all_at(name.as_bytes(), at).unwrap();
            at += size;
            file.write_all_at(name.as_bytes(), at - name.len() as u64)
                .unwrap();
        }
        file.set_len(at).unwrap();
        Self { path, files }
    }

    /// Asserts that every file in `dest` except the staging directory is complete.
    /// Returns their number.
    fn complete(&self, dest: &Path) -> usize {
        use std::os::unix::fs::FileExt;
        let Ok(entries) = std::fs::read_dir(dest) else {
            return 0;
        };
        let mut count = 0;
        for entry in entries {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name == STAGING {
                continue;
            }
            let (_, size) = self
                .files
                .iter()
                .find(|f| f.0 == name)
                .expect("a file of the payload");
            let file = File::open(dest.join(&name)).unwrap();
            assert_eq!(file.metadata().unwrap().len(), *size, "{name}");
            for at in [0, size - name.len() as u64] {
                let mut mark = vec![0; name.len()];
                file.read_exact_at(&mut mark, at).unwrap();
                assert_eq!(mark, name.as_bytes(), "{name} at {at}");
            }
            count += 1;
        }
        count
    }
}

#[test]
fn killed_import_leaves_only_complete_files_and_the_next_one_completes_it() {
    let place = Place::new(&Image::new(&[]));
    let sparse = Sparse::write(place.dir());
    // The import is killed at several moments, from its start on. The last one runs
    // to its end.
    for files_staged in [0, 1, 5, 20] {
        let mut child = start(&sparse.path, &place.dest);
        while child.try_wait().unwrap().is_none() {
            let staged = std::fs::read_dir(place.dest.join(STAGING)).map_or(0, Iterator::count);
            if staged >= files_staged {
                break;
            }
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        sparse.complete(&place.dest);
    }
    let before = sparse.complete(&place.dest);
    let ran = lb!["import", "--json", "--device", &sparse.path, &place.dest].exits(0);
    let report = crate::fixture::json(&ran);
    assert_eq!(
        report["kept"], before,
        "what was complete is not copied again"
    );
    assert_eq!(sparse.complete(&place.dest), sparse.files.len());
    assert!(!place.dest.join(STAGING).exists());
    lb!["verify", "-q", &sparse.path].exits(0);
}
