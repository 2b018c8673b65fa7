//! The gates: checks that refuse a promote before anything is planned.

pub(crate) mod collision;
pub(crate) mod freshness;
pub(crate) mod kernel;
pub(crate) mod outside;
