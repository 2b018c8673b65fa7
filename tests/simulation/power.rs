//! The moment at which everything ends: the power is cut, or the program is killed.

use std::cell::RefCell;
use std::io;
use std::sync::Mutex;

use lbpayload::progress::Progress;

use crate::case::Random;

/// Counts the calls that reach the outside, and ends the world at one of them.
#[derive(Default)]
pub struct Power {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: u64,
    dies_at: Option<u64>,
    dead: bool,
    injected: u64,
    asked: u64,
    cancels_at: Option<u64>,
    /// The first broken rule.
    broken: Option<String>,
}

impl Power {
    pub fn new(dies_at: Option<u64>, cancels_at: Option<u64>) -> Self {
        Self {
            state: Mutex::new(State {
                dies_at,
                cancels_at,
                ..State::default()
            }),
        }
    }

    /// Counts a call. Returns whether this is the one at which everything ends.
    ///
    /// # Errors
    /// Everything has ended.
    pub fn call(&self) -> io::Result<bool> {
        let mut state = self.state.lock().unwrap();
        if state.dead {
            return Err(io::Error::other("after the end"));
        }
        state.calls += 1;
        state.dead = Some(state.calls) == state.dies_at;
        Ok(state.dead)
    }

    pub fn is_dead(&self) -> bool {
        self.state.lock().unwrap().dead
    }

    /// Returns an error of the system, and notes that one was returned.
    pub fn fault(&self, errno: i32) -> io::Error {
        self.state.lock().unwrap().injected += 1;
        io::Error::from_raw_os_error(errno)
    }

    /// Returns whether an error was returned that the code could not avoid.
    pub fn has_failed(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.injected > 0 || state.dead || self.was_cancelled(&state)
    }

    fn was_cancelled(&self, state: &State) -> bool {
        state.cancels_at.is_some_and(|at| state.asked >= at)
    }

    pub fn is_cancelled(&self) -> bool {
        let state = self.state.lock().unwrap();
        self.was_cancelled(&state)
    }

    /// Notes a broken rule.
    pub fn broken(&self, rule: impl FnOnce() -> String) {
        self.state.lock().unwrap().broken.get_or_insert_with(rule);
    }

    /// # Errors
    /// The first broken rule.
    pub fn check(&self) -> Result<(), String> {
        match self.state.lock().unwrap().broken.take() {
            Some(rule) => Err(rule),
            None => Ok(()),
        }
    }
}

impl Progress for Power {
    fn begin(&self, _phase: &str, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn file_done(&self, _name: &str) {}
    fn end(&self) {}

    fn cancelled(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.asked += 1;
        self.was_cancelled(&state)
    }
}

thread_local! {
    static SEEN: RefCell<[u64; 8]> = const { RefCell::new([0; 8]) };
}

/// What the runs of this thread reached, to see that they reach anything.
#[derive(Debug, Clone, Copy)]
pub enum Reached {
    Crash,
    SecondRun,
    Cancel,
    Error,
    Failed,
    Recovered,
    Healed,
    Complete,
}

pub fn reached(what: Reached) {
    SEEN.with_borrow_mut(|seen| seen[what as usize] += 1);
}

pub fn all_reached() -> [u64; 8] {
    SEEN.with_borrow(|seen| *seen)
}

/// Returns what a disk holds of a write that was cut: each sector is old or new.
pub fn torn(old: &[u8], new: &[u8], random: &mut Random) -> Vec<u8> {
    let len = if random.one_in(2) {
        old.len()
    } else {
        new.len()
    };
    let mut bytes = vec![0; len];
    for (n, sector) in bytes.chunks_mut(512).enumerate() {
        let from = match random.below(5) {
            0 | 1 => old,
            2 | 3 => new,
            _ => &[],
        };
        let at = (n * 512).min(from.len());
        let part = &from[at..(at + sector.len()).min(from.len())];
        sector[..part.len()].copy_from_slice(part);
    }
    bytes
}
