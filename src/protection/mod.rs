//! The protection trailer: hashes and redundancy behind a payload, with which damage is found and
//! healed. FORMAT.md describes it to the last field.
//!
//! [`find()`] looks for the trailer of a payload. A [`ProtectedSource`] reads a payload, checks each
//! byte before it is given out, and heals what is damaged. A [`TrailerWriter`] writes a trailer.

mod check;
mod code;
mod file_target;
mod find;
mod first_pass;
mod geometry;
mod header;
mod heal;
mod metadata;
mod source;
mod spare;
mod stripe;
mod tree;
mod write;

pub use check::TrailerDamage;
pub use file_target::{FileTarget, erase_headers, header_places};
pub use find::{Trailer, Walked, find, header_at, last_block, search};
pub use geometry::{BLOCK, GROUP, Geometry};
pub use header::{Header, HeaderFault, MAGIC};
pub use heal::{EachGroup, Found, Healer};
pub use source::{ProtectedSource, Report};
pub use write::{DEFAULT_MEMORY, Target, TrailerWriter};
