//! As many random damages as `scripts/damage-protection` is told, which continues where it stopped.

use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::protection::{layout_of, trial};

fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// How far a run is: the number of damages done, and of failures beyond the promise and within it.
fn load(state: &PathBuf) -> Option<(u64, [u64; 2])> {
    let text = std::fs::read_to_string(state).ok()?;
    let mut numbers = text.split_whitespace().map_while(|n| n.parse().ok());
    let mut next = || numbers.next();
    Some((next()?, [next()?, next()?]))
}

fn save(state: &PathBuf, done: u64, failures: [u64; 2]) {
    let new = state.with_extension("new");
    std::fs::write(&new, format!("{done} {} {}\n", failures[0], failures[1])).unwrap();
    std::fs::rename(new, state).unwrap();
}

fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Damage `n` has the seed `n / 2` and is within the promise if `n` is even.
#[test]
#[ignore = "scripts/damage-protection runs it"]
fn damage_of_many_seeds() {
    // After each, the state is saved.
    const STEP: u64 = 100;
    let first: u64 = setting("LBPAYLOAD_SEED").unwrap_or(0);
    let count: u64 = setting("LBPAYLOAD_DAMAGES").unwrap_or(200);
    let state: Option<PathBuf> = setting("LBPAYLOAD_STATE");
    let (mut done, before) = state.as_ref().and_then(load).unwrap_or_default();
    let failures = before.map(AtomicU64::new);
    let so_far = || [0, 1].map(|kind: usize| failures[kind].load(Ordering::Relaxed));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = (Instant::now(), done);
    while done < count {
        let end = (done + STEP).min(count);
        let next = AtomicU64::new(done);
        let work = || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= end {
                    return;
                }
                let (seed, within) = (first + n / 2, n % 2 == 0);
                let layout = layout_of(seed);
                let tried = std::panic::catch_unwind(|| trial(seed, within, layout));
                let failure = match tried {
                    Ok(Ok(())) => continue,
                    Ok(Err(e)) => e,
                    Err(_) => "a panic".into(),
                };
                failures[usize::from(within)].fetch_add(1, Ordering::Relaxed);
                let place = if within { "within" } else { "beyond" };
                say(format_args!(
                    "seed {seed}, {place} the promise, {layout:?}: {failure}"
                ));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        done = end;
        if let Some(state) = &state {
            save(state, done, so_far());
        }
        if done % 1000 != 0 {
            continue;
        }
        let rate = (done - started.1) as f64 / started.0.elapsed().as_secs_f64();
        let failures: u64 = so_far().iter().sum();
        say(format_args!(
            "{done} of {count}, {failures} failures, {rate:.0} a second"
        ));
    }
    let [beyond, within] = so_far();
    let (trials, others) = (count.div_ceil(2), count / 2);
    say(format_args!(
        "within the promise: {trials} trials, {within} failures"
    ));
    say(format_args!(
        "beyond the promise: {others} trials, {beyond} failures"
    ));
    assert_eq!(beyond + within, 0);
}
