//! The program on real block devices: loop devices of 512 and 4096 byte sectors,
//! partitions, file systems. Needs root, and says aloud when it skips for that.

#[path = "../support/mod.rs"]
mod support;

mod disks;
mod view;

mod cache;
mod fails;
mod full;
mod import;
mod nodes;
mod once;
mod pack;
mod power;
mod probe;
mod reference;
mod tail;

use std::sync::{Mutex, MutexGuard};

/// A probe of the whole machine sees every test's devices, so one test runs at a
/// time. A test that failed is in nobody's way.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
