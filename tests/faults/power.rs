//! The power is cut at any moment. Nothing is known about what the disk keeps of
//! operations that were not flushed. So the tests assume the worst: names reach the
//! disk at once, data only when it is flushed.

use std::collections::{HashMap, HashSet};

use crate::doubles::{Engine, Op, Trial, direct_source};
use crate::support::memory::Memory;
use crate::support::{Image, noise};

/// Checks a power cut after every operation: a file that has its final name by then
/// must have been written, finished and flushed before. The name of a file that was
/// reported as complete must have been flushed before.
fn assert_complete_at_every_cut(ops: &[Op], pieces: &HashMap<u64, usize>) {
    let mut written: HashMap<u64, usize> = HashMap::new();
    let mut finished: HashSet<u64> = HashSet::new();
    let mut flushing: HashSet<u64> = HashSet::new();
    let mut durable: HashSet<u64> = HashSet::new();
    let mut named: HashSet<u64> = HashSet::new();
    let mut names_flushing: HashSet<u64> = HashSet::new();
    let mut lasting: HashSet<u64> = HashSet::new();
    let mut told = 0;
    for (cut, op) in ops.iter().enumerate() {
        match op {
            Op::Create(_) | Op::Discard(_) => {}
            Op::Write(slot) => {
                assert!(
                    !finished.contains(slot),
                    "cut {cut}: written after it was finished"
                );
                *written.entry(*slot).or_default() += 1;
            }
            Op::Finish(slot) => {
                assert_eq!(
                    written.get(slot),
                    pieces.get(slot),
                    "cut {cut}: finished before everything was written"
                );
                finished.insert(*slot);
            }
            Op::Put(slot) => {
                finished.insert(*slot);
            }
            // A flush does not cover operations that end while it runs.
            Op::FlushStarts => flushing.clone_from(&finished),
            Op::Flush => durable.extend(&flushing),
            Op::Publish(slot, name) => {
                named.insert(*slot);
                assert!(
                    durable.contains(slot),
                    "cut {cut}: {name} has its final name and may be incomplete"
                );
            }
            Op::FlushNamesStarts => names_flushing.clone_from(&named),
            Op::FlushNames => lasting.extend(&names_flushing),
            Op::Told(slot) => {
                told += 1;
                assert!(
                    lasting.contains(slot),
                    "cut {cut}: file {slot} is reported as complete, but its name may be lost"
                );
            }
        }
    }
    assert_eq!(
        named.len(),
        pieces.len(),
        "every file must get its final name"
    );
    assert_eq!(told, pieces.len(), "every file must be reported");
}

#[test]
fn files_under_their_final_names_are_complete_after_any_power_cut() {
    let files: Vec<(String, Vec<u8>)> = (0..40)
        .map(|n| {
            (
                format!("file-{n:02}"),
                noise(n, (n as usize * 977) % 20_000),
            )
        })
        .collect();
    let given: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
    let pieces = files
        .iter()
        .enumerate()
        .map(|(slot, (_, data))| (slot as u64, data.len().div_ceil(4096)))
        .collect::<HashMap<_, _>>();
    for engine in [Engine::Threads, Engine::LastFirst, Engine::FirstFirst] {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = Trial::new(Memory::new(Image::new(&given).bytes()).shared(), dir.path());
        trial.engine = engine;
        let (result, ops) = trial.run();
        assert_eq!(result.unwrap().files, 40);
        let flushes = ops.iter().filter(|op| **op == Op::Flush).count();
        assert!(
            flushes > 2,
            "expected several batches, got {flushes} flushes"
        );
        assert_complete_at_every_cut(&ops, &pieces);
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let Some(source) = direct_source(elsewhere.path(), &Image::new(&given).bytes()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(source, dir.path());
    trial.engine = Engine::Uring;
    let (result, ops) = trial.run();
    assert_eq!(result.unwrap().files, 40);
    assert_complete_at_every_cut(&ops, &pieces);
}

#[test]
#[should_panic(expected = "may be incomplete")]
fn check_detects_a_rename_before_the_data_is_flushed() {
    let ops = [
        Op::Put(0),
        Op::Publish(0, "x".into()),
        Op::Flush,
        Op::FlushNames,
    ];
    assert_complete_at_every_cut(&ops, &HashMap::from([(0, 1)]));
}

#[test]
#[should_panic(expected = "its name may be lost")]
fn check_detects_a_file_reported_before_its_name_is_flushed() {
    let ops = [
        Op::Put(0),
        Op::FlushStarts,
        Op::Flush,
        Op::FlushNamesStarts,
        Op::Publish(0, "x".into()),
        Op::FlushNames,
        Op::Told(0),
    ];
    assert_complete_at_every_cut(&ops, &HashMap::from([(0, 1)]));
}
