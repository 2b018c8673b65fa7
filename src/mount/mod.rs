//! Mounts a payload as a read-only directory of files, through FUSE.
//!
//! There are three layers. The [`Tree`] knows names and offsets and does no I/O. The
//! [`Filesystem`] looks up, lists and reads, independently of the kernel. A thin adapter
//! translates fuser's calls. Around them, the session mounts, serves and unmounts, optionally in
//! a process of its own.

mod activity;
mod attributes;
mod caller;
mod daemonize;
mod errno;
mod faults;
mod filesystem;
mod fuse_adapter;
mod lock;
mod marks;
mod mount_point;
mod mount_table;
mod read_pool;
mod reading;
mod remount;
mod saved_index;
mod session;
mod settings;
mod signed;
mod sums;
mod tree;
mod tree_builder;
mod unmount;

#[cfg(feature = "internals")]
pub use attributes::{PID, attribute, attribute_names};
pub use daemonize::{in_background, in_foreground};
#[cfg(feature = "internals")]
pub use errno::Refusal;
pub use filesystem::Filesystem;
#[cfg(feature = "internals")]
pub use filesystem::{Answer, NodeKind, Row};
pub use mount_point::{IfBusy, MountPoint};
pub use remount::remount;
pub use saved_index::{Unfit, indexed_extent};
pub use session::{Server, Stopper};
pub use settings::{Access, Settings};
#[cfg(feature = "internals")]
pub use tree::{Node, ROOT, Tree};
pub use tree_builder::Strictness;
pub use unmount::unmount;
