//! The process that waits for an answer. fuser does not pass FUSE_INTERRUPT on, and the kernel
//! lets even a killed process wait until it has an answer. So the server looks itself whether
//! the caller has a signal to handle.

use std::fs;

/// The thread that sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller(u32);

/// What is known of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallerState {
    /// It waits.
    Waiting,
    /// It waits, and has a signal to handle.
    Interrupted,
    /// It is being killed.
    Killed,
    /// It is in another PID namespace, or /proc does not show it.
    Unseen,
}

impl Caller {
    /// Creates a caller from the thread ID of a request. It is 0 for a caller of another PID
    /// namespace.
    pub(super) fn new(thread: u32) -> Self {
        Self(thread)
    }

    pub(super) fn state(self) -> CallerState {
        if self.0 == 0 || !proc_is_ours() {
            return CallerState::Unseen;
        }
        match fs::read_to_string(format!("/proc/{}/status", self.0)) {
            Ok(status) if is_killed(&status) => CallerState::Killed,
            Ok(status) if has_signal(&status) => CallerState::Interrupted,
            Ok(_) => CallerState::Waiting,
            Err(_) => CallerState::Unseen,
        }
    }
}

/// Returns whether /proc shows the processes by the numbers of this PID namespace.
fn proc_is_ours() -> bool {
    let own = fs::read_link("/proc/self").ok();
    own.and_then(|own| own.to_str()?.parse().ok()) == Some(std::process::id())
}

/// Returns whether a thread has a signal that is neither blocked nor ignored, by its
/// /proc/TID/status.
fn has_signal(status: &str) -> bool {
    let mask = |field: &str| mask(status, field);
    let pending = mask("SigPnd:") | mask("ShdPnd:");
    pending & !mask("SigBlk:") & !mask("SigIgn:") != 0
}

/// Returns whether a thread ends as soon as it leaves the kernel. A signal that ends the process
/// becomes a SIGKILL of each of its threads at once.
fn is_killed(status: &str) -> bool {
    (mask(status, "SigPnd:") | mask(status, "ShdPnd:")) & (1 << (libc::SIGKILL - 1)) != 0
}

/// Returns a set of signals of /proc/TID/status.
fn mask(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.map_or(0, |value| {
        u64::from_str_radix(value.trim(), 16).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_counts_unless_it_is_blocked_or_ignored() {
        let status = |own, shared, blocked, ignored| {
            format!(
                "Name:\tx\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n"
            )
        };
        assert!(!has_signal(&status(0, 0, 0, 0)));
        assert!(has_signal(&status(0x100, 0, 0, 0)));
        assert!(has_signal(&status(0, 2, 0x100, 0x200)));
        assert!(!has_signal(&status(2, 4, 2, 4)));
        assert!(!has_signal(""));
        assert!(is_killed(&status(0x100, 0, 0, 0)) && is_killed(&status(0, 0x100, 0, 0)));
        assert!(!is_killed(&status(0xff, 0x200, 0, 0)) && !is_killed(""));
    }

    #[test]
    fn this_thread_waits_and_an_unknown_one_is_unseen() {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!(Caller::new(own as u32).state(), CallerState::Waiting);
        assert_eq!(Caller::new(0).state(), CallerState::Unseen);
        assert_eq!(Caller::new(u32::MAX).state(), CallerState::Unseen);
    }
}
