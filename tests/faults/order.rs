//! Completions arrive in the worst order and buffers are scarce: there is no
//! deadlock, and the files are the same.

use lbpayload::import::Tuning;

use crate::doubles::{Engine, Trial, tiny};
use crate::support::memory::Memory;
use crate::support::{Image, noise, sha256sum, tree};

fn image() -> (Image, String) {
    let files: Vec<(String, Vec<u8>)> = (0..30)
        .map(|n| {
            (
                format!("file-{n:02}"),
                noise(n, [0, 17, 900, 1001, 4096, 9000, 70_000][n as usize % 7]),
            )
        })
        .collect();
    let sums = files
        .iter()
        .map(|(name, data)| format!("{}  {name}\n", sha256sum(data)))
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
    (Image::new(&files), sums)
}

fn tunings() -> Vec<Tuning> {
    let mut all = Vec::new();
    for reads in [1, 2, 5] {
        for held in [0, 1, 4] {
            for writes in [0, 1, 3] {
                all.push(Tuning {
                    reads,
                    held,
                    writes,
                    ..tiny()
                });
            }
        }
    }
    all
}

#[test]
fn reordered_completions_with_all_buffers_in_use_do_not_deadlock() {
    let (image, sums) = image();
    for engine in [Engine::Threads, Engine::LastFirst, Engine::FirstFirst] {
        for tuning in tunings() {
            let dir = tempfile::tempdir().unwrap();
            let mut trial = Trial::new(Memory::new(image.bytes()).shared(), dir.path());
            (trial.sums, trial.tuning, trial.engine) = (&sums, tuning, engine);
            let copied = trial.run().0.unwrap_or_else(|e| panic!("{tuning:?}: {e}"));
            assert_eq!(copied.files, 30, "{tuning:?}");
            assert_eq!(copied.failed.len(), 0, "{tuning:?}");
            let found = tree(dir.path());
            assert_eq!(found.len(), 30);
            for ((name, content), (expected_name, expected)) in found.iter().zip(&image.files) {
                assert_eq!(name.as_bytes(), expected_name);
                assert!(content == expected, "{name} with {tuning:?}");
            }
        }
    }
}
