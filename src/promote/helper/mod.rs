//! The one process with privilege of a run, and how it is asked.
//!
//! It is this same program, started once by sudo, whose own prompt asks for the
//! password. It is handed `rootfs/` as an open directory, which must be the one that its
//! argument names, so that a rule of sudo can say which; makes that its root, drops
//! the capabilities that it does not need, and then does what [`Executor`] offers, with
//! sources that come as open files. It ends when this process does.

pub(crate) mod client;
pub(crate) mod server;
mod wire;
