//! Progress for people and programs, on standard error.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::progress::{Progress, Silent};

use super::args::ProgressForm;
use super::output::{human_bytes, to_stderr};
use super::signals;

/// The minimum time between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// Returns the requested progress. The default is a bar on a terminal, and nothing elsewhere.
pub(super) fn shown(form: Option<ProgressForm>) -> Box<dyn Progress> {
    match form {
        Some(ProgressForm::Plain) => Box::new(Lines::new(false)),
        Some(ProgressForm::Json) => Box::new(Lines::new(true)),
        None if std::io::stderr().is_terminal() => Box::new(Bar::default()),
        None | Some(ProgressForm::None) => Box::new(Quiet),
    }
}

/// Shows nothing, but still reacts to Ctrl-C.
struct Quiet;

impl Progress for Quiet {
    fn begin(&self, phase: &str, total_bytes: u64) {
        Silent.begin(phase, total_bytes);
    }
    fn advance(&self, _bytes: u64) {}
    fn file_done(&self, _name: &str) {}
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        signals::asked()
    }
}

/// A bar with bytes, rate and time left, and below it a line for each started file.
#[derive(Default)]
struct Bar(Mutex<Bars>);

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    main: Option<ProgressBar>,
    files: HashMap<String, ProgressBar>,
}

impl Bar {
    fn with(&self, act: impl FnOnce(&mut Bars)) {
        if let Ok(mut bars) = self.0.lock() {
            act(&mut bars);
        }
    }

    fn with_main(&self, act: impl FnOnce(&ProgressBar)) {
        self.with(|bars| {
            if let Some(bar) = &bars.main {
                act(bar);
            }
        });
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Bar {
    fn begin(&self, phase: &str, total_bytes: u64) {
        let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        let bar = ProgressBar::new(total_bytes)
            .with_style(style(template))
            .with_prefix(phase.to_owned());
        self.with(|bars| bars.main = Some(bars.all.add(bar)));
    }

    fn extend(&self, bytes: u64) {
        self.with_main(|bar| bar.inc_length(bytes));
    }

    fn advance(&self, bytes: u64) {
        self.with_main(|bar| bar.inc(bytes));
    }

    fn file_started(&self, name: &str, bytes: Option<u64>) {
        let (bar, template) = match bytes {
            Some(bytes) => (
                ProgressBar::new(bytes),
                "  {bytes}/{total_bytes} {wide_msg}",
            ),
            None => (ProgressBar::no_length(), "  {bytes} {wide_msg}"),
        };
        let bar = bar
            .with_style(style(template))
            .with_message(name.to_owned());
        self.with(|bars| drop(bars.files.insert(name.to_owned(), bars.all.add(bar))));
    }

    fn file_advanced(&self, name: &str, bytes: u64) {
        self.with(|bars| {
            if let Some(bar) = bars.files.get(name) {
                bar.inc(bytes);
            }
        });
    }

    fn file_stopped(&self, name: &str) {
        self.with(|bars| {
            if let Some(bar) = bars.files.remove(name) {
                bar.finish_and_clear();
                bars.all.remove(&bar);
            }
        });
    }

    fn skip(&self, bytes: u64) {
        self.with_main(|bar| bar.dec_length(bytes));
    }

    fn file_done(&self, _name: &str) {}

    fn end(&self) {
        self.with_main(ProgressBar::finish_and_clear);
    }

    fn cancelled(&self) -> bool {
        signals::asked()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lines at intervals.
struct Lines {
    json: bool,
    state: Mutex<State>,
}

struct State {
    phase: String,
    total: u64,
    done: u64,
    files: u64,
    started: Instant,
    said: Instant,
}

impl Lines {
    fn new(json: bool) -> Self {
        let now = Instant::now();
        let state = State {
            phase: String::new(),
            total: 0,
            done: 0,
            files: 0,
            started: now,
            said: now,
        };
        Self {
            json,
            state: Mutex::new(state),
        }
    }

    fn update(&self, change: impl FnOnce(&mut State), always: bool) {
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        change(&mut state);
        if !always && state.said.elapsed() < EVERY {
            return;
        }
        state.said = Instant::now();
        to_stderr(&self.line(&state));
    }

    fn line(&self, state: &State) -> String {
        let seconds = state.started.elapsed().as_secs_f64();
        if self.json {
            let line = serde_json::json!({
                "phase": state.phase,
                "bytes": state.done,
                "total_bytes": state.total,
                "files": state.files,
                "seconds": (seconds * 1000.0).round() / 1000.0,
            });
            return format!("{line}\n");
        }
        let percent = (state.done * 100).checked_div(state.total).unwrap_or(100);
        let rate = if seconds > 0.0 {
            state.done as f64 / seconds
        } else {
            0.0
        };
        format!(
            "{}: {percent} % ({} of {}, {}/s)\n",
            state.phase,
            human_bytes(state.done),
            human_bytes(state.total),
            human_bytes(rate as u64),
        )
    }
}

impl Progress for Lines {
    fn begin(&self, phase: &str, total_bytes: u64) {
        self.update(
            |state| {
                state.phase = phase.to_owned();
                (state.total, state.done, state.files) = (total_bytes, 0, 0);
                state.started = Instant::now();
            },
            true,
        );
    }

    fn extend(&self, bytes: u64) {
        self.update(|state| state.total += bytes, false);
    }

    fn advance(&self, bytes: u64) {
        self.update(|state| state.done += bytes, false);
    }

    fn skip(&self, bytes: u64) {
        self.update(
            |state| state.total = state.total.saturating_sub(bytes),
            false,
        );
    }

    fn file_done(&self, _name: &str) {
        self.update(|state| state.files += 1, false);
    }

    fn end(&self) {
        self.update(|_| (), true);
    }

    fn cancelled(&self) -> bool {
        signals::asked()
    }
}
