//! The program on real block devices: loop devices of 512 and 4096 byte sectors,
//! partitions, file systems. Needs root, and says aloud when it skips for that.

#[path = "../support/mod.rs"]
mod support;

mod disks;
mod failing_device;
mod full_destination;
mod import;
mod mount_namespace;
mod pack;
mod page_cache;
mod partial_last_sector;
mod partitions_and_nodes;
mod power_cut;
mod probe;
mod reference;
mod same_payload_twice;

use std::sync::{Mutex, MutexGuard};

/// A probe of the whole machine sees every test's devices, so one test runs at a
/// time. A test that failed is in nobody's way.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
