//! Files that appear complete, synced and under their name, or not at all.
//!
//! [`Directory`] is a destination, held by a descriptor and a lock. [`Store`] is
//! what a copy needs of one: files are staged in it, flushed together, and then
//! get their names; [`Staging`] is the real one, and tests put a failing one in
//! its place. [`NewFile`] is the same promise for a single file, and [`Tree`] for files
//! at any depth of a tree whose symlinks are not the host's.

mod attributes;
mod directory;
mod look;
mod may;
mod nameless;
mod newfile;
mod staged;
mod staging;
mod stamp;
mod store;
mod tree;
mod walk;

pub use attributes::Attributes;
pub use directory::{Directory, Existing, Found, settle};
pub use look::Seen;
pub use newfile::NewFile;
pub use staging::{STAGING_NAME, Staging};
pub use stamp::Stamp;
pub use store::{Store, WriteMode};
pub use tree::Tree;
pub use walk::{Bounds, Last};
