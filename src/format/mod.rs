//! LBPAYLD1 as bytes: the magic, the two dialects, headers and names.
//!
//! Pure functions on slices. Nothing here does I/O, and nothing allocates in
//! proportion to a number that an image claims. FORMAT.md is the prose.

mod codec;
mod dialect;
mod fault;
mod name;

pub use codec::{DoesNotFit, EntryHeader, Header, MAGIC, MAX_HEADER_LEN};
pub use dialect::Dialect;
pub use fault::Fault;
pub use name::{MAX_NAME_LEN, MAX_WALKABLE_NAME_LEN, Name, NameFault};

/// The entry that `pack --embed-checksums` adds: the others' SHA-256 sums, in
/// the format of sha256sum(1).
pub const EMBEDDED_SUMS: &str = "SHA256SUMS";

/// The reference importer gives up above this number of files.
pub const REFERENCE_MAX_FILES: u64 = 200_000;
