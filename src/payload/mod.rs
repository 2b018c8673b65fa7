//! Payloads: their entries, data and checksums.

mod bits;
mod checksums;
mod copy_reader;
mod digest;
mod entry_stream;
mod headers;
mod index;
mod live_bootstrap;
mod packed;
mod problem;
mod read;
mod read_around;
mod same_headers;
mod signature;
mod walk;
mod write;

pub use checksums::{Checksums, EMBEDDED_SUMS_MAX_BYTES};
pub use digest::Sha256Sum;
pub use headers::Headers;
pub use index::{Entries, Index};
pub use problem::{Cause, Problem, Problems};
pub use read::{EntryReader, embedded_checksums};
pub use signature::{SIGNATURE_MAX_BYTES, TrustedKeys, signed_checksums, signed_checksums_of};
pub use walk::{Entry, Payload, Walker};
pub use write::PayloadWriter;

#[cfg(feature = "internals")]
pub use internals::*;
#[cfg(not(feature = "internals"))]
pub(crate) use internals::*;

/// Items that the program and its tests use, and users of the library do not need.
mod internals {
    pub use super::bits::Bits;
    pub use super::checksums::sum_line;
    pub use super::copy_reader::CopyReader;
    pub use super::digest::{Hashed, Lanes};
    pub use super::entry_stream::{EntryStream, OnFault, Piece, Reread};
    #[cfg(feature = "net")]
    pub use super::live_bootstrap::bootstrap_files;
    pub use super::live_bootstrap::bootstrap_sources;
    #[cfg(feature = "internals")]
    pub use super::live_bootstrap::{BootstrapFile, BootstrapSources, bootstrap_texts};
    pub use super::read::embedded_entry;
    pub use super::read_around::read_around;
    pub use super::same_headers::refuse_other_headers;
}
