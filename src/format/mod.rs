//! The LBPAYLD1 format as bytes: the magic, the two dialects, headers and names.
//!
//! All functions are pure functions on slices. Nothing here does I/O, and no allocation
//! depends on a number in an image. FORMAT.md describes the format.

mod codec;
mod dialect;
mod fault;
mod name;

pub use codec::{DoesNotFit, EntryHeader, Header, MAGIC, MAX_HEADER_LEN};
pub use dialect::Dialect;
pub use fault::Fault;
pub use name::{MAX_NAME_LEN, MAX_WALKABLE_NAME_LEN, Name, NameFault};

/// The name of the entry that `pack --embed-checksums` adds. It holds the SHA-256 sums of all
/// other entries in the format of sha256sum(1).
pub const EMBEDDED_SUMS: &str = "SHA256SUMS";

/// The name of the entry that holds the signature of the embedded checksums, made by minisign.
pub const EMBEDDED_SIGNATURE: &str = "SHA256SUMS.minisig";

/// The maximum number of files that the reference importer accepts.
pub const REFERENCE_MAX_FILES: u64 = 200_000;
