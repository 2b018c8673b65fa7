//! The last checks, and the writing.

pub(crate) mod checks;
mod compare;
pub(crate) mod initramfs;
mod kept;
mod lock;
pub(crate) mod run;
pub(crate) mod writer;
