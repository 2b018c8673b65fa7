//! The only place where a test is skipped.

use std::io::Write;

/// What a test needs and the machine lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// Root, loop devices, /dev/fuse, or a program that scripts/setup installs.
    Setup,
    /// Something that cannot be installed: a kernel feature, a certain disk.
    Machine,
}

/// Prints, past the test harness's capture, that a test or a part of it was skipped.
///
/// # Panics
/// With `LBPAYLOAD_NO_SKIPS=1`, which means that this machine has everything that
/// [`Lacks::Setup`] names. A skip for one of these would hide a test that could have
/// run.
#[track_caller]
pub fn skip(lacks: Lacks, reason: &str) {
    let forbidden = std::env::var_os("LBPAYLOAD_NO_SKIPS").is_some_and(|value| value == "1");
    assert!(
        lacks == Lacks::Machine || !forbidden,
        "test would be skipped, but LBPAYLOAD_NO_SKIPS=1 is set: {reason}"
    );
    // A failed write of this message does not fail the test.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}
