//! Files that appear under their names complete and synced, or not at all.
//!
//! [`Directory`] is a destination, held by a file descriptor and a lock. [`Store`] is the
//! interface that a copy needs: files are staged in it, flushed together, and then get their
//! names. [`Staging`] is the real store, and tests replace it with one that fails.
//! [`AtomicFile`] makes the same promise for a single file, and [`Tree`] for files at any
//! depth of a tree whose symlinks must not lead into the host.

mod access;
mod atomic_file;
mod attributes;
mod directory;
mod lookup;
#[cfg(feature = "net")]
mod partial;
mod resolve;
mod staged;
mod staging;
mod staging_dir;
mod stat_key;
mod store;
mod tmpfile;
mod tree;
mod tree_read;

pub use atomic_file::AtomicFile;
pub use attributes::Attributes;
pub use directory::{Directory, settle};
pub use lookup::Lookup;
#[cfg(feature = "net")]
pub use partial::Partial;
pub use resolve::{Bounds, Last};
pub use staging::Staging;
pub use staging_dir::STAGING_NAME;
pub use stat_key::StatKey;
pub use store::{Store, WriteMode};
pub use tree::Tree;
