//! The record in the image of what each run did.

pub(crate) mod history;
pub(crate) mod journal;
pub(crate) mod overlaid;
pub(crate) mod sidecar;
pub(crate) mod stamps;
