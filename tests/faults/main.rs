//! The n-th read, write, sync or rename fails, completions arrive in the worst order,
//! the power is cut: every file is old or new, never a mix.

#[path = "../support/mod.rs"]
mod support;

mod bad_sectors;
mod doubles;
mod order;
mod power;
mod protection;
mod protection_killed;
mod random_sectors;
mod reads;
mod syncs;
mod writes;
