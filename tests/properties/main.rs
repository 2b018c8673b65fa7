//! Properties that hold for every payload and for every damaged payload.

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod heal_memory;
mod many_seeds;
mod names;
mod protected;
mod protection;
mod round_trip;
