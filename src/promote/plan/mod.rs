//! What goes where, and what of it is there already.

pub(crate) mod destinations;
pub(crate) mod survey;
pub(crate) mod union;
