//! What each run did, kept in the image.

pub(crate) mod history;
pub(crate) mod journal;
pub(crate) mod stamps;
