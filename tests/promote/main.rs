//! `lbpayload promote` on a made-up workspace of realistic shape, as root and as a
//! user with sudo. Needs root, git, sudo and setcap, and says aloud when it skips.

#[path = "../support/mod.rs"]
mod support;

mod user;
mod workspace;

mod back;
mod bad;
mod copies;
mod faults;
mod fixed;
mod freshness;
mod git;
mod helper;
mod inherited;
mod journal;
mod links;
mod privilege;
mod refresh;
mod refusals;
mod shared;
