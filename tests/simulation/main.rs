//! The real import, verify, pack, protect and repair on simulated disks, directories and queues.
//! Everything that happens in a run follows from one number. A model beside it says what may be
//! there afterwards.
//!
//! `scripts/simulate` runs many of them.

// What scripts/simulate prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "../support/mod.rs"]
mod support;

mod case;
mod directory;
mod disk;
mod found;
mod import;
mod pack;
mod power;
mod protect;
mod queue;
mod verify;
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use case::{Case, Kind};

/// Runs a case. Returns the broken rule.
fn run(case: &Case) -> Result<(), String> {
    let run = || match case.kind {
        Kind::Import => import::run(case),
        Kind::Verify => verify::run(case),
        Kind::Pack => pack::run(case),
        Kind::Protect => protect::protect(case),
        Kind::Repair => protect::repair(case),
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// Returns the simplest case that still fails.
fn shrink(case: Case) -> Case {
    let simpler = case.simpler().into_iter().find(|case| run(case).is_err());
    simpler.map_or(case, shrink)
}

/// Runs seeds from `first` on until the time is over. Returns how many there were, the failures,
/// and what the runs reached.
fn simulate(first: u64, most: u64, time: Duration, jobs: usize) -> (u64, Vec<String>, [u64; 8]) {
    let (next, ran) = (AtomicU64::new(first), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let reached = Mutex::new([0; 8]);
    let until = Instant::now() + time;
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while Instant::now() < until && ran.load(Ordering::Relaxed) < most {
                    let case = Case::new(next.fetch_add(1, Ordering::Relaxed));
                    if let Err(rule) = run(&case) {
                        let small = shrink(case);
                        let small_rule = run(&small).err().unwrap_or(rule);
                        let line = format!("case {small}: {small_rule}");
                        eprintln!("{line}");
                        failures.lock().unwrap().push(line);
                    }
                    ran.fetch_add(1, Ordering::Relaxed);
                }
                let own = power::all_reached();
                let mut all = reached.lock().unwrap();
                all.iter_mut().zip(own).for_each(|(all, own)| *all += own);
            });
        }
    });
    let reached = *reached.lock().unwrap();
    (ran.into_inner(), failures.into_inner().unwrap(), reached)
}

#[test]
fn no_seed_breaks_a_promise() {
    let (ran, failures, reached) = simulate(0, 4000, Duration::from_secs(30), 2);
    assert!(failures.is_empty(), "{failures:#?}");
    // The number depends on the machine, but even a slow one reaches everything.
    assert!(ran > 300, "only {ran} runs");
    assert!(
        reached.iter().all(|n| *n > 0),
        "not all was reached: {reached:?}"
    );
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in 0..40 {
        let case = Case::new(seed);
        let before = power::all_reached();
        let first = run(&case);
        let between = power::all_reached();
        assert_eq!(run(&case), first, "{case}");
        let after = power::all_reached();
        for n in 0..before.len() {
            assert_eq!(between[n] - before[n], after[n] - between[n], "{case}");
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    text.parse().unwrap_or(default)
}

/// `scripts/simulate` runs this.
#[test]
#[ignore = "scripts/simulate runs it"]
fn many_seeds() {
    if let Ok(case) = std::env::var("LBPAYLOAD_CASE") {
        let case: Case = case.parse().unwrap();
        let result = run(&case);
        println!(
            "case {case}: {}",
            result.as_ref().err().map_or("fine", |e| e)
        );
        assert!(result.is_ok());
        return;
    }
    let time = Duration::from_secs(number("LBPAYLOAD_SECONDS", 60));
    let jobs = number("LBPAYLOAD_JOBS", 1) as usize;
    let first = number("LBPAYLOAD_SEED", 0);
    let (ran, failures, reached) = simulate(first, u64::MAX, time, jobs);
    let kinds: BTreeSet<_> = failures.iter().collect();
    kinds.iter().for_each(|line| println!("{line}"));
    let [
        crash,
        second,
        cancel,
        error,
        failed,
        recovered,
        healed,
        complete,
    ] = reached;
    println!(
        "reached: {crash} crashes, {second} runs after another, {cancel} cancelled, {error} errors, \
         {failed} with files that failed, {recovered} recovered, {healed} healed, {complete} complete"
    );
    println!("next seed {}", first + ran);
    println!("{ran} runs, {} failures", failures.len());
    assert!(failures.is_empty());
}
