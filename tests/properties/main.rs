//! Laws that hold for every payload, and for every damage to one.

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod names;
mod round_trip;
