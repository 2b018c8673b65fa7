//! Verify: what it says of a file is what the copies hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use lbpayload::block::{CopiesSource, Source};
use lbpayload::payload::Payload;
use lbpayload::verify::{FileVerdict, verify_on};

use crate::case::{Case, Fault};
use crate::disk::Disk;
use crate::power::{Power, Reached, reached};
use crate::queue::SimulatedQueue;
use crate::world::World;

pub fn run(case: &Case) -> Result<(), String> {
    let world = World::new(case);
    let random = &mut case.random("verify");
    let cancels = case.has(Fault::Cancelled, 8);
    let cancels_at = cancels.then(|| random.below(40) as u64 + 1);
    let power = Arc::new(Power::new(None, cancels_at));
    let mut disks = Vec::new();
    let mut copies: Vec<Arc<dyn Source>> = Vec::new();
    for (n, medium) in world.copies.iter().enumerate() {
        let disk = Arc::new(Disk::new(case, n, 0, medium.clone(), Arc::clone(&power)));
        disks.push(Arc::clone(&disk));
        copies.push(disk);
    }
    let source: Arc<dyn Source> = match copies.len() {
        1 => copies.remove(0),
        _ => Arc::new(CopiesSource::new(copies).unwrap()),
    };
    let mut told = BTreeMap::new();
    let queue = Box::new(SimulatedQueue::new(case.random("queue")));
    let report = Payload::open(source).and_then(|payload| {
        verify_on(
            &payload,
            world.sums(),
            queue,
            &*power,
            &mut |name, verdict| {
                told.insert(name.to_owned(), verdict);
            },
        )
    });
    power.check()?;
    let damaged = |n: usize| {
        let medium = &world.copies[n];
        !medium.bad.is_empty() || medium.bytes.len() < world.plain.len()
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            reached(Reached::Error);
            let tiny = world.copies.iter().any(|m| m.bytes.len() < 40);
            let excused = power.has_failed()
                || (0..world.copies.len()).all(damaged)
                || (tiny && error.code() == "copies-differ");
            return match error.code() != "bug" && excused {
                true => Ok(()),
                false => Err(format!("an error without a reason: {error}")),
            };
        }
    };
    for file in &world.files {
        match told.get(&file.name) {
            Some(FileVerdict::Ok) => {
                if !file.has_sum || !can_give(&world, file) {
                    return Err(format!("{} is called right, and is not", file.name));
                }
            }
            _ if power.has_failed() || report.files != world.files.len() as u64 => {}
            Some(FileVerdict::Failed) => {
                if world.must_give(file) {
                    return Err(format!("{} is called wrong, and is right", file.name));
                }
            }
            Some(FileVerdict::Unlisted) if !file.has_sum => {}
            None if !file.has_sum => {}
            other => return Err(format!("{}: {other:?}", file.name)),
        }
    }
    let readable = |at| world.copies.iter().any(|copy| copy.is_readable(at));
    if report.is_ok() {
        reached(Reached::Complete);
        for file in &world.files {
            let all = file.at.clone().all(readable);
            if !all || (file.has_sum && !can_give(&world, file)) {
                return Err(format!("all is well, but not {}", file.name));
            }
        }
    } else {
        reached(Reached::Failed);
    }
    if !power.has_failed() {
        let first = &world.copies[0];
        for bad in &report.bad {
            if (bad.start..bad.end).any(|at| first.is_readable(at as usize)) {
                return Err(format!("{bad:?} is called bad, and can be read"));
            }
        }
        let whole = (0..world.copies.len()).any(|n| !damaged(n));
        if whole && report.files != world.files.len() as u64 {
            return Err(format!("only {} headers were read", report.files));
        }
    }
    Ok(())
}

/// Returns whether each byte can be read, and is right, in one of the copies. A sector that
/// returns other bytes each time may be right once.
fn can_give(world: &World, file: &crate::world::Truth) -> bool {
    file.at.clone().zip(&file.bytes).all(|(at, byte)| {
        let mut copies = world.copies.iter();
        copies.any(|copy| {
            let right = copy.bytes.get(at) == Some(byte) || copy.erratic.contains(&at);
            copy.is_readable(at) && right
        })
    })
}
