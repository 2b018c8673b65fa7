//! The program on real block devices: loop devices with sectors of 512 and 4096
//! bytes, partitions, file systems. Needs root. Without root the tests are skipped
//! with a message.

#[path = "../support/mod.rs"]
mod support;

mod bad_disk;
mod crash_states;
mod disks;
mod failing_device;
mod full_destination;
mod import;
mod mount_namespace;
mod pack;
mod pack_read_back;
mod pack_signatures;
mod page_cache;
mod partial_last_sector;
mod partitions_and_nodes;
mod power_cut;
mod probe;
mod protection;
mod protection_killed;
mod reference;
mod same_payload_twice;

use std::sync::{Mutex, MutexGuard};

/// A probe of the whole machine sees the devices of every test, so only one test runs
/// at a time. A failed test does not block the next one.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
