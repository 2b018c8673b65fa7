//! Decides which file comes from which source next. Pure: it is told the time, and what
//! happened.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A host that serves more than this at once is asked for less.
const PER_HOST: usize = 2;
/// After so many failures in a row, a host comes last.
const IN_A_ROW: usize = 3;
/// A source that breaks off after it sent something is tried so often.
const TRIES: usize = 5;
/// A source that asks to wait longer is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A file and the source to get it from, both by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) file: usize,
    pub(super) source: usize,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Start(Task),
    /// All hosts are busy. Something changes when a task ends, or at this time.
    Wait(Option<Instant>),
    /// No file waits, and no task is under way.
    Done,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Complete,
    /// The source does not have the file, or a wrong one.
    Refused,
    /// Some bytes came and are kept. The source may have the rest later.
    BrokenOff,
    /// The source asks to come back after this time.
    Later(Duration),
}

#[derive(Debug, Default)]
struct Host {
    active: usize,
    in_a_row: usize,
    last: bool,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Source {
    host: String,
    tries: usize,
    dead: bool,
}

/// The state of all files that are not there yet.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    files: Vec<Vec<Source>>,
    waiting: VecDeque<usize>,
    hosts: HashMap<String, Host>,
    active: usize,
}

impl Schedule {
    /// Creates a schedule of files, each given by the hosts of its sources, in the order in
    /// which they are tried.
    pub(super) fn new(files: impl IntoIterator<Item = Vec<String>>) -> Self {
        let mut schedule = Self::default();
        for (number, hosts) in files.into_iter().enumerate() {
            for host in &hosts {
                schedule.hosts.entry(host.clone()).or_default();
            }
            let source = |host| Source {
                host,
                tries: 0,
                dead: false,
            };
            schedule.files.push(hosts.into_iter().map(source).collect());
            schedule.waiting.push_back(number);
        }
        schedule
    }

    /// Starts the next task that is possible.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let mut at = 0;
        while at < self.waiting.len() {
            let file = self.waiting[at];
            match self.choose(file, now) {
                Choice::Source(source) => {
                    let _ = self.waiting.remove(at);
                    let Source { host, tries, .. } = &mut self.files[file][source];
                    *tries += 1;
                    self.hosts.entry(host.clone()).or_default().active += 1;
                    self.active += 1;
                    return Next::Start(Task { file, source });
                }
                Choice::Busy => at += 1,
                Choice::None => drop(self.waiting.remove(at)),
            }
        }
        if self.waiting.is_empty() && self.active == 0 {
            return Next::Done;
        }
        let times = self.hosts.values().filter_map(|host| host.not_before);
        Next::Wait(times.filter(|at| *at > now).min())
    }

    /// Takes note of the end of a task.
    pub(super) fn ended(&mut self, task: Task, how: Ended, now: Instant) {
        self.active -= 1;
        let source = &mut self.files[task.file][task.source];
        let host = self.hosts.entry(source.host.clone()).or_default();
        host.active -= 1;
        if how == Ended::Complete {
            host.in_a_row = 0;
            return;
        }
        host.in_a_row += 1;
        host.last |= host.in_a_row >= IN_A_ROW;
        match how {
            Ended::BrokenOff => source.dead = source.tries >= TRIES,
            Ended::Later(wait) if wait <= LONGEST_WAIT && source.tries < 3 => {
                host.not_before = Some(now + wait);
            }
            _ => source.dead = true,
        }
        // It goes first, so that what is begun is ended.
        self.waiting.push_front(task.file);
    }

    fn choose(&self, file: usize, now: Instant) -> Choice {
        let sources = &self.files[file];
        let alive = || sources.iter().enumerate().filter(|(_, s)| !s.dead);
        // A host that comes last is for files that no other host may have.
        let last = alive().all(|(_, source)| self.hosts[&source.host].last);
        let free = alive().filter(|(_, source)| {
            let host = &self.hosts[&source.host];
            host.last == last
                && host.active < PER_HOST
                && host.not_before.is_none_or(|time| time <= now)
        });
        match free.min_by_key(|(number, source)| (source.tries, *number)) {
            Some((number, _)) => Choice::Source(number),
            None if alive().next().is_some() => Choice::Busy,
            None => Choice::None,
        }
    }
}

enum Choice {
    Source(usize),
    Busy,
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(files: &[&[&str]]) -> Schedule {
        let own = |hosts: &&[&str]| hosts.iter().map(|h| (*h).to_owned()).collect();
        Schedule::new(files.iter().map(own))
    }

    fn start(schedule: &mut Schedule, now: Instant) -> (usize, usize) {
        match schedule.next(now) {
            Next::Start(Task { file, source }) => (file, source),
            other => panic!("{other:?}"),
        }
    }

    fn task((file, source): (usize, usize)) -> Task {
        Task { file, source }
    }

    #[test]
    fn a_file_whose_host_is_full_takes_its_next_source_or_waits() {
        let now = Instant::now();
        let mut s = schedule(&[&["m", "a"], &["m", "b"], &["m", "c"], &["m"]]);
        assert_eq!(start(&mut s, now), (0, 0));
        assert_eq!(start(&mut s, now), (1, 0));
        assert_eq!(start(&mut s, now), (2, 1));
        assert_eq!(s.next(now), Next::Wait(None));
        s.ended(task((0, 0)), Ended::Complete, now);
        assert_eq!(start(&mut s, now), (3, 0));
        for done in [(1, 0), (2, 1), (3, 0)] {
            s.ended(task(done), Ended::Complete, now);
        }
        assert_eq!(s.next(now), Next::Done);
    }

    #[test]
    fn a_file_that_no_source_has_is_lost_and_ends_nothing() {
        let now = Instant::now();
        let mut s = schedule(&[&["m", "a"], &[], &["m"]]);
        for source in [0, 1] {
            assert_eq!(start(&mut s, now), (0, source));
            s.ended(task((0, source)), Ended::Refused, now);
        }
        assert_eq!(start(&mut s, now), (2, 0));
        s.ended(task((2, 0)), Ended::Complete, now);
        assert_eq!(s.next(now), Next::Done);
    }

    #[test]
    fn a_host_with_three_failures_in_a_row_comes_last() {
        let now = Instant::now();
        let files: Vec<&[&str]> = vec![&["m", "n"]; 6];
        let mut s = schedule(&files);
        for file in 0..3 {
            assert_eq!(start(&mut s, now), (file, 0));
            s.ended(task((file, 0)), Ended::Refused, now);
            assert_eq!(start(&mut s, now), (file, 1));
            s.ended(task((file, 1)), Ended::Complete, now);
        }
        assert_eq!(start(&mut s, now), (3, 1));
        assert_eq!(start(&mut s, now), (4, 1));
        // It is not asked only because the other one is full.
        assert_eq!(s.next(now), Next::Wait(None));
        s.ended(task((3, 1)), Ended::Refused, now);
        assert_eq!(start(&mut s, now), (3, 0), "the last chance of this file");
    }

    #[test]
    fn two_failures_and_a_success_do_not_move_a_host() {
        let now = Instant::now();
        let files: Vec<&[&str]> = vec![&["m", "n"]; 9];
        let mut s = schedule(&files);
        for round in 0..3 {
            for how in [Ended::Refused, Ended::Refused, Ended::Complete] {
                let first = start(&mut s, now);
                assert_eq!(first.1, 0, "round {round}");
                s.ended(task(first), how, now);
                if how == Ended::Refused {
                    let second = start(&mut s, now);
                    s.ended(task(second), Ended::Complete, now);
                }
            }
        }
    }

    #[test]
    fn a_source_that_breaks_off_is_tried_again_after_the_others() {
        let now = Instant::now();
        let mut s = schedule(&[&["m", "n"]]);
        assert_eq!(start(&mut s, now), (0, 0));
        s.ended(task((0, 0)), Ended::BrokenOff, now);
        assert_eq!(start(&mut s, now), (0, 1));
        s.ended(task((0, 1)), Ended::Refused, now);
        for _ in 1..TRIES {
            assert_eq!(start(&mut s, now), (0, 0));
            s.ended(task((0, 0)), Ended::BrokenOff, now);
        }
        assert_eq!(s.next(now), Next::Done);
    }

    #[test]
    fn a_source_that_asks_to_wait_is_asked_again_then_unless_that_is_too_long() {
        let now = Instant::now();
        let wait = Duration::from_secs(7);
        let mut s = schedule(&[&["m"], &["n"]]);
        let first = start(&mut s, now);
        let second = start(&mut s, now);
        s.ended(task(first), Ended::Later(wait), now);
        s.ended(task(second), Ended::Later(LONGEST_WAIT * 2), now);
        assert_eq!(s.next(now), Next::Wait(Some(now + wait)));
        assert_eq!(start(&mut s, now + wait), (0, 0));
        s.ended(task((0, 0)), Ended::Complete, now);
        assert_eq!(s.next(now + LONGEST_WAIT * 9), Next::Done);
    }
}
