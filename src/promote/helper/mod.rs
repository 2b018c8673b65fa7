//! The only privileged process of a run, and the requests to it.
//!
//! The helper is this same program, started once by sudo, which asks for the password. It
//! receives `rootfs/` as an open directory. This must be the directory that its argument names,
//! so that a sudo rule can restrict it. The helper makes this directory its root and drops the
//! capabilities that it does not need. Then it performs the requests of `tree::protocol`, with
//! sources that are sent as open files. It ends when this process ends.

pub(crate) mod client;
pub(crate) mod server;
mod wire;

#[cfg(feature = "internals")]
pub(crate) use wire::parse_greeting;
