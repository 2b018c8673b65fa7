//! Properties that hold for every payload and for every damaged payload.

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod names;
mod protection;
mod round_trip;
