//! A payload as a read-only directory of files, through FUSE.
//!
//! Three layers: the [`Tree`] knows names and places and is pure; the [`Answers`]
//! are the filesystem without a kernel; a thin adapter puts them into fuser's types.
//! Around them the session mounts, serves and ends.

mod activity;
mod adapter;
mod answers;
mod attributes;
mod daemonize;
mod end;
mod errno;
mod point;
mod saved_index;
mod scan;
mod session;
mod settings;
mod tree;

pub use answers::{Answer, Answers, Row, What};
pub use attributes::{PID, attribute, attribute_names};
pub use daemonize::{Inherited, in_background, in_foreground};
pub use end::unmount;
pub use errno::Refusal;
pub use point::{MountPoint, Users};
pub use saved_index::Unfit;
pub use scan::Strictness;
pub use session::{Server, Stopper};
pub use settings::{Access, Settings};
pub use tree::{Node, ROOT, Tree};
