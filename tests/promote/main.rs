//! `lbpayload promote` on a generated workspace with a realistic structure, as root
//! and as a user with sudo. Needs root, git, sudo and setcap. Without them the tests
//! are skipped with a message.

#[path = "../support/mod.rs"]
mod support;

mod helper;
mod snapshot;
mod user;
mod workspace;

mod bad_input;
mod copying;
mod diff;
mod directory_defaults;
mod documented;
mod evaluation;
mod failures;
mod faults;
mod freshness;
mod git;
mod helper_killed;
mod images;
mod initramfs_tool;
mod journal;
mod overlay_symlinks;
mod privilege;
mod prune;
mod real_kernel;
mod refusals;
mod repacked;
mod reports;
mod rollback;
mod root_and_owner;
mod situations;
mod tolerance;
mod tricks;
mod unchanged;
mod unwritable;
mod verify;
