//! The map while the payload is verified.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::progress::Progress;
use crate::protection::{BLOCK, ProtectedSource};

use super::super::signals;
use super::map::Map;
use super::text;

/// The time between two drawings.
const EVERY: Duration = Duration::from_millis(100);

/// Draws the map again and again on a terminal. What has been read is bright.
pub(super) struct Live {
    width: usize,
    protection: Option<Arc<ProtectedSource>>,
    state: Mutex<State>,
}

struct State {
    map: Map,
    done: u64,
    total: u64,
    drawn: Instant,
}

impl Live {
    pub(super) fn new(map: Map, width: usize, protection: Option<Arc<ProtectedSource>>) -> Self {
        let state = State {
            map,
            done: 0,
            total: 0,
            drawn: Instant::now(),
        };
        let live = Self {
            width,
            protection,
            state: Mutex::new(state),
        };
        live.update(|state| live.draw(state));
        live
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        if let Ok(mut state) = self.state.lock() {
            change(&mut state);
        }
    }

    /// Draws the map, and moves the cursor back to its start.
    fn draw(&self, state: &mut State) {
        if let Some(protection) = &self.protection {
            for blocks in protection.report().found.damaged.iter() {
                let bytes = blocks.start * BLOCK..blocks.end.saturating_mul(BLOCK);
                state.map.damage(&bytes);
            }
        }
        let cells = state.map.cells().len() as u128;
        let checked = cells * u128::from(state.done) / u128::from(state.total.max(1));
        let rows = text::rows(&state.map, self.width, true, checked as usize);
        let up = rows.matches('\n').count();
        // The map at the end reports it if standard output does not work.
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "{rows}\x1b[{up}A");
        let _ = out.flush();
        state.drawn = Instant::now();
    }
}

impl Progress for Live {
    fn begin(&self, _phase: &str, total_bytes: u64) {
        self.update(|state| (state.done, state.total) = (0, total_bytes));
    }

    fn advance(&self, bytes: u64) {
        self.update(|state| {
            state.done = state.done.saturating_add(bytes).min(state.total);
            if state.drawn.elapsed() >= EVERY {
                self.draw(state);
            }
        });
    }

    fn file_done(&self, _name: &str) {}

    fn end(&self) {
        self.update(|state| self.draw(state));
    }

    fn cancelled(&self) -> bool {
        signals::asked()
    }
}

impl Drop for Live {
    /// Erases the map from the terminal, so that the last one takes its place.
    fn drop(&mut self) {
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "\x1b[J");
        let _ = out.flush();
    }
}
