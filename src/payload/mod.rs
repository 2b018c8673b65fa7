//! A payload on a source: its entries, their bytes, their checksums.

mod checksums;
mod digest;
mod entry_stream;
mod index;
mod live_bootstrap;
mod problem;
mod read;
mod walk;
mod write;

pub use checksums::{Checksums, EMBEDDED_SUMS_MAX_BYTES, sum_line};
pub use digest::{Hashed, Lanes, Sha256Sum};
pub use entry_stream::{EntryStream, Piece, Reread};
pub use index::{Entries, Index};
pub use live_bootstrap::{BootstrapSources, bootstrap_sources};
pub use problem::{Cause, Problem, Problems};
pub use read::{embedded_checksums, embedded_entry, read_entry};
pub use walk::{Entry, Payload, Walker};
pub use write::PayloadWriter;
