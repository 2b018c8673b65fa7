//! A payload as a directory: the filesystem without a kernel, and real mounts. Mounts
//! need root and /dev/fuse. Without them the tests are skipped with a message.

#[path = "../support/mod.rs"]
mod support;

/// Skips the rest of a test with a message where nothing can be mounted.
macro_rules! needs_fuse {
    () => {
        if $crate::fixture::cannot_mount() {
            return;
        }
    };
}

mod fixture;
mod memory_filesystem;

mod attributes;
mod command;
mod devices;
mod documents;
mod faulty_source;
mod file_handles;
mod filesystem;
mod fstab;
mod hostile;
mod interrupted_sums;
mod killed_servers;
mod lenient;
mod logs;
mod lost_image;
mod many_mounts_and_files;
mod mount_and_unmount;
mod mount_helper;
mod options;
mod ordinary_user;
mod read_only;
mod reading;
mod sandbox;
mod saved_index;
mod signals_and_timeout;
mod signed;
mod slow_source;
mod stat_and_listing;
mod stuck_and_shared;
