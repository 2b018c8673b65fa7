//! The plan: which file goes where, and which files are there already.

pub(crate) mod attributes;
pub(crate) mod destinations;
pub(crate) mod survey;
pub(crate) mod union;
