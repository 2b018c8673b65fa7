//! Stops cleanly on Ctrl-C: the job is told to stop and cleans up, and then the program ends by
//! the same signal, as its caller expects. A second signal ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};

static ASKED: std::sync::OnceLock<Arc<AtomicUsize>> = std::sync::OnceLock::new();

/// Starts to listen for signals. From then on, [`asked`] returns whether one has arrived.
pub(super) fn listen() -> Result<()> {
    let number = Arc::clone(ASKED.get_or_init(|| Arc::new(AtomicUsize::new(0))));
    let twice = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let register = || {
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&twice))?;
            flag::register(signal, Arc::clone(&twice))?;
            flag::register_usize(signal, Arc::clone(&number), signal as usize)
        };
        register().map_err(|e| Error::io("listen for signals", e))?;
    }
    Ok(())
}

/// Calls `stop` from another thread when a signal asks the program to stop. A second signal ends
/// the program.
pub(super) fn forward(stop: impl Fn() + Send + 'static) -> Result<()> {
    let failed = |e| Error::io("listen for signals", e);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let listen = move || {
        for (n, signal) in signals.forever().enumerate() {
            if n == 0 {
                stop();
            } else {
                // This fails only for signals that do not exist.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listen)
        .map(drop)
        .map_err(failed)
}

/// Returns whether a signal has asked the program to stop.
pub(super) fn asked() -> bool {
    signal() != 0
}

fn signal() -> usize {
    ASKED
        .get()
        .map_or(0, |number| number.load(Ordering::Relaxed))
}

/// Ends the program by the signal that asked it to stop, if there was one, so that a shell or a
/// script sees the reason.
pub(super) fn die_as_asked() {
    if let Ok(signal @ 1..) = i32::try_from(signal()) {
        // This fails only for signals that do not exist.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
}
