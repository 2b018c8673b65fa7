//! A payload as a directory: the answers without a kernel, and real mounts. Those
//! need root and /dev/fuse, and say aloud when they skip for that.

#[path = "../support/mod.rs"]
mod support;

/// Skips the rest of a test, visibly, where nothing can be mounted.
macro_rules! needs_fuse {
    () => {
        if $crate::place::cannot_mount() {
            return;
        }
    };
}

mod bare;
mod place;

mod answers;
mod attributes;
mod command;
mod dead;
mod devices;
mod ends;
mod faulty;
mod gone;
mod helper;
mod index;
mod lenient;
mod life;
mod look;
mod many;
mod reading;
mod refuses;
mod user;
