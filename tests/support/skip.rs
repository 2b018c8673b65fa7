//! The one place where a test is skipped.

use std::io::Write;

/// What a machine lacks that a test needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// Root, loop devices, /dev/fuse, or a program that scripts/setup installs.
    Setup,
    /// What nobody can install: a part of the kernel, a certain disk.
    Machine,
}

/// Says, past the test harness's capture, that a test or a part of it did not run.
///
/// # Panics
/// With `LBPAYLOAD_NO_SKIPS=1`, which says that this machine has what [`Lacks::Setup`]
/// names: there such a skip hides a test that could have run.
#[track_caller]
pub fn skip(lacks: Lacks, reason: &str) {
    let forbidden = std::env::var_os("LBPAYLOAD_NO_SKIPS").is_some_and(|value| value == "1");
    assert!(
        lacks == Lacks::Machine || !forbidden,
        "a skip, and LBPAYLOAD_NO_SKIPS=1 is set: {reason}"
    );
    // An error to write it is no failure of the test.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}
