//! The inputs of a promote. They are only read, never written.

pub(crate) mod content;
pub(crate) mod deviations;
pub(crate) mod git;
pub(crate) mod invoker;
pub(crate) mod manifest;
pub(crate) mod objects;
pub(crate) mod overlay;
pub(crate) mod overlooked;
pub(crate) mod workspace;
pub(crate) mod yaml;
