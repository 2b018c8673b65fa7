//! The last checks, and then the writing.

pub(crate) mod checks;
pub(crate) mod initramfs;
pub(crate) mod run;
pub(crate) mod writer;
