//! The n-th read, write, sync or rename fails, completions come back in the worst
//! order, the power goes: old or new, never in between.

#[path = "../support/mod.rs"]
mod support;

mod doubles;
mod order;
mod power;
mod random_sectors;
mod reads;
mod syncs;
mod writes;
