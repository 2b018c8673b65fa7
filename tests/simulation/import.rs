//! Imports: runs that are cut off at any call, and the runs after them.

use std::cell::RefCell;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use lbpayload::block::{CopiesSource, Source};
use lbpayload::durable::{Directory, Store};
use lbpayload::error::{Error, Result as LibResult};
use lbpayload::import::{
    BatchLimits, Copied, CopyJob, ExistingPolicy, Plan, Recovery, Selection, Tuning, Unreadable,
};
use lbpayload::payload::{Cause, Checksums, Index, Payload, refuse_other_headers};

use crate::case::{Case, Fault};
use crate::directory::{Files, SimulatedStore};
use crate::disk::Disk;
use crate::power::{Power, Reached, reached};
use crate::queue::SimulatedQueue;
use crate::support::noise;
use crate::world::World;

/// The number of the run in which nothing goes wrong but what is wrong for good.
pub const LAST_RUN: usize = 2;

thread_local! {
    /// A real directory, in memory: a plan looks up existing files there.
    static PLACE: RefCell<Option<(tempfile::TempDir, Files)>> = const { RefCell::new(None) };
}

fn with_place<T>(files: &Files, act: impl FnOnce(&Directory) -> T) -> T {
    PLACE.with_borrow_mut(|place| {
        let (dir, there) = place.get_or_insert_with(|| {
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
            (dir.unwrap(), Files::new())
        });
        for name in there.keys().filter(|name| !files.contains_key(*name)) {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        for (name, bytes) in files {
            if there.get(name) != Some(bytes) {
                fs::write(dir.path().join(name), bytes).unwrap();
            }
        }
        there.clone_from(files);
        act(&Directory::open(dir.path()).unwrap())
    })
}

/// The outcome of one run.
struct Outcome {
    result: LibResult<Copied>,
    told: Vec<String>,
    kept: Vec<String>,
    /// The number of headers that were read.
    found: u64,
    left: Files,
    /// Whether what is left may be worse than promised.
    unpromised: bool,
    disturbed: bool,
    /// The run stops at the first file that cannot be read, and asks no other copy.
    fail_fast: bool,
}

pub fn run(case: &Case) -> Result<(), String> {
    let world = World::new(case);
    let mut files = existing(case, &world);
    for run in 0..=LAST_RUN {
        if run > 0 {
            reached(Reached::SecondRun);
        }
        let outcome = one(case, &world, &files, run)?;
        let said = || format!("run {run}: ");
        let calm = run == LAST_RUN;
        check(&world, &files, &outcome, calm).map_err(|e| said() + &e)?;
        let ended = outcome.result.is_ok() && !outcome.disturbed;
        files = outcome.left;
        if ended {
            reached(Reached::Complete);
            break;
        }
    }
    Ok(())
}

/// Files that are there before the first run.
fn existing(case: &Case, world: &World) -> Files {
    let mut files = Files::new();
    let random = &mut case.random("existing");
    if !case.has(Fault::Existing, 3) {
        return files;
    }
    files.insert("other".to_owned(), b"not of the payload".to_vec());
    for file in &world.files {
        let bytes = match random.below(5) {
            0 => file.bytes.clone(),
            1 => noise(random.next(), file.bytes.len()),
            2 => noise(random.next(), random.below(2000)),
            _ => continue,
        };
        files.insert(file.name.clone(), bytes);
    }
    files
}

fn one(case: &Case, world: &World, files: &Files, run: usize) -> Result<Outcome, String> {
    let random = &mut case.random(&format!("run {run}"));
    let calm = run == LAST_RUN;
    let cut = case.has(Fault::PowerCut, 2);
    let killed = !cut && case.has(Fault::Killed, 3);
    let most = [10, 60, 400][random.below(3)];
    let dies_at = (!calm && (cut || killed)).then(|| random.below(most) as u64 + 1);
    let cancels = !calm && case.has(Fault::Cancelled, 8);
    let cancels_at = cancels.then(|| random.below(60) as u64 + 1);
    let power = Arc::new(Power::new(dies_at, cancels_at));
    let store = SimulatedStore::new(case, run, files, Arc::clone(&power));
    let store = Arc::new(store);
    let mut disks = Vec::new();
    let mut copies: Vec<Arc<dyn Source>> = Vec::new();
    for (n, medium) in world.copies.iter().enumerate() {
        let disk = Disk::new(case, n, run, medium.clone(), Arc::clone(&power));
        let disk = Arc::new(disk);
        disks.push(Arc::clone(&disk));
        copies.push(disk);
    }
    let source: Arc<dyn Source> = match copies.len() {
        1 => copies.remove(0),
        _ => Arc::new(CopiesSource::new(copies).unwrap()),
    };
    let block_bytes = random.pick(&[4096, 8192, 16384]);
    let tuning = Tuning {
        block_bytes,
        reads: 1 + random.below(3),
        held: random.below(4),
        writes: 1 + random.below(3),
        small_max: random.pick(&[0, 100, 1000, 4096]),
        small_writers: 1 + random.below(2),
        hashers: 1 + random.below(2),
        batch: BatchLimits {
            files: 1 + random.below(5),
            bytes: random.pick(&[1, 10_000, 1 << 30]),
            cached_bytes: random.pick(&[1, 5000, 1 << 30]),
            after: random.pick(&[Duration::ZERO, Duration::MAX]),
        },
    };
    let fail_fast = random.one_in(6) && !calm;
    let recovery = (!fail_fast).then_some(Recovery {
        retries: random.below(3) as u32,
        keep_partial: false,
    });
    let mut told = Vec::new();
    let mut kept = Vec::new();
    let mut found = 0;
    let seed = random.next();
    let mut copies_of = |plan: &Plan, index: &Index, sums: &Checksums| {
        let job = CopyJob {
            index,
            plan,
            sums,
            store: Arc::clone(&store) as Arc<dyn Store>,
            queue: Box::new(SimulatedQueue::new(crate::case::Random::new(seed))),
            tuning,
            recovery,
            progress: &*power,
        };
        let copied = job.run(&mut |_, name| {
            if !power.is_dead() {
                told.push(name.to_owned());
            }
        });
        copied.map_err(|(error, _)| error)
    };
    let result = with_place(files, |dest| {
        let retries = recovery.map_or(0, |r| r.retries);
        let payload = Payload::open(source)?
            .recording_faults()
            .with_header_retries(retries);
        let index = Index::scan(&payload, &*power, &mut |problem| match problem.cause {
            Cause::Io(_) if !fail_fast => Ok(()),
            _ => Err(problem.into_error(&**payload.source())),
        })?;
        found = index.files();
        refuse_other_headers(&index, &*power)?;
        let mut sums = world.sums();
        let policy = ExistingPolicy::Replace;
        let plan = Plan::make(
            &index,
            &Selection::All,
            Some(dest),
            &mut sums,
            policy,
            &*power,
        )?;
        let note_kept = |plan: &Plan, kept: &mut Vec<String>| -> LibResult<()> {
            for entry in index.entries()? {
                let entry = entry?;
                if plan.keeps(entry.index) {
                    kept.push(entry.shown_name().into_owned());
                }
            }
            Ok(())
        };
        note_kept(&plan, &mut kept)?;
        let mut copied = Copied::default();
        if plan.write_files > 0 {
            copied = copies_of(&plan, &index, &sums)?;
        }
        if plan.undecided > 0 {
            let unreadable = match fail_fast {
                true => Unreadable::Fails,
                false => Unreadable::Differs,
            };
            let rest = plan.decide(&index, dest, policy, unreadable, &*power)?;
            note_kept(&rest, &mut kept)?;
            if rest.write_files > 0 {
                let more = copies_of(&rest, &index, &sums)?;
                copied.files += more.files;
                copied.failed.append(more.failed);
            }
        }
        Ok(copied)
    });
    power.check()?;
    if let Err(error) = &result {
        let gone = disks.iter().any(|disk| disk.is_gone());
        excuse(error, world, &power, gone, fail_fast)?;
    }
    let dead = power.is_dead();
    if dead {
        reached(Reached::Crash);
    }
    if power.is_cancelled() {
        reached(Reached::Cancel);
    }
    Ok(Outcome {
        unpromised: dead && cut && store.lies(),
        left: store.left(dead && cut),
        disturbed: power.has_failed(),
        fail_fast,
        result,
        told,
        kept,
        found,
    })
}

/// An error needs a reason.
fn excuse(
    error: &Error,
    world: &World,
    power: &Power,
    gone: bool,
    fail_fast: bool,
) -> Result<(), String> {
    reached(Reached::Error);
    if error.code() == "bug" {
        return Err(format!("a bug: {error}"));
    }
    let bad = |medium: &crate::disk::Medium| {
        !medium.bad.is_empty() || medium.bytes.len() < world.plain.len()
    };
    // The first header, a disk of which nothing can be read, or a run that stops at once.
    let first = world.copies.iter().all(bad);
    let flips = fail_fast && world.copies.iter().any(|m| m.bytes != world.plain);
    if power.has_failed() || gone || first || flips {
        return Ok(());
    }
    if fail_fast && world.copies.iter().any(bad) {
        return Ok(());
    }
    // A copy that is cut off within its first header is no copy. The error names it.
    let names_it = ["copies-differ", "io"].contains(&error.code());
    if names_it && world.copies.iter().any(|m| m.bytes.len() < 40) {
        return Ok(());
    }
    Err(format!(
        "an error without a reason: {error} ({})",
        error.code()
    ))
}

fn check(world: &World, before: &Files, outcome: &Outcome, calm: bool) -> Result<(), String> {
    let Outcome {
        result,
        left,
        told,
        kept,
        ..
    } = outcome;
    for (name, bytes) in left {
        let Some(file) = world.files.iter().find(|file| file.name == *name) else {
            if before.get(name) != Some(bytes) {
                return Err(format!("{name} is not of the payload, and has changed"));
            }
            continue;
        };
        let old = before.get(name) == Some(bytes);
        if !old && !world.may_hold(file, bytes) && !outcome.unpromised {
            let len = bytes.len();
            return Err(format!("{name} ({len} bytes) is neither old nor new"));
        }
    }
    for name in before.keys() {
        if !left.contains_key(name) {
            return Err(format!("{name} has disappeared"));
        }
    }
    for (names, word) in [(told, "told"), (kept, "kept")] {
        for name in names {
            let file = world.files.iter().find(|file| file.name == *name);
            let Some(file) = file else {
                return Err(format!("{name} was {word}, and is not of the payload"));
            };
            let holds = left
                .get(name)
                .is_some_and(|bytes| world.may_hold(file, bytes));
            if !holds && !outcome.unpromised {
                return Err(format!(
                    "{name} was {word}, and does not hold what it should"
                ));
            }
        }
    }
    let Ok(copied) = result else {
        return Ok(());
    };
    let failed = copied.failed.count();
    let complete = (told.len() + kept.len()) as u64;
    if complete + failed != outcome.found {
        let found = outcome.found;
        return Err(format!(
            "{complete} complete, {failed} failed, {found} found"
        ));
    }
    if copied.files != told.len() as u64 {
        return Err(format!("{} copied, {} told", copied.files, told.len()));
    }
    if failed > 0 {
        reached(Reached::Failed);
    } else if !world.copies.iter().any(|copy| copy.bad.is_empty()) {
        reached(Reached::Recovered);
    }
    if calm || !(outcome.disturbed || outcome.fail_fast) {
        for file in &world.files[..outcome.found as usize] {
            let done = told.contains(&file.name) || kept.contains(&file.name);
            if !done && world.must_give(file) {
                return Err(format!("{} could be read, and was not imported", file.name));
            }
        }
        let whole = world
            .copies
            .iter()
            .any(|copy| copy.bad.is_empty() && copy.bytes.len() >= world.plain.len());
        if whole && outcome.found != world.files.len() as u64 {
            return Err(format!("only {} headers were read", outcome.found));
        }
    }
    Ok(())
}
