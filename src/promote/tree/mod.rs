//! The operations on a tree of the image.

pub(crate) mod access;
pub(crate) mod bytes;
pub(crate) mod executor;
pub(crate) mod protocol;
