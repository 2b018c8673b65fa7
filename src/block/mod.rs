//! A source of bytes at offsets, and the machine's block devices.
//!
//! Knows nothing of payloads. A [`Source`] is a regular file or a block device,
//! read with O_DIRECT where it can be; a [`Queue`] keeps several reads and writes
//! going; [`ReadAhead`] reads small things at arbitrary offsets; [`Devices`] lists
//! what the machine has.

mod buffer;
#[cfg(test)]
mod contract;
mod dev;
mod device;
mod devices;
mod engine;
mod file;
mod node;
mod offset;
mod open;
mod queue;
mod read_ahead;
mod source;
mod threads;
mod udev;
#[cfg(target_pointer_width = "64")]
mod uring;
#[cfg(not(target_pointer_width = "64"))]
#[path = "no_uring.rs"]
mod uring;

pub use buffer::{AlignedBuf, BufferPool, PAGE};
pub use dev::refuse_new_in_dev;
pub use device::{Device, DeviceKind};
pub use devices::{Devices, Roots, mount_proc};
pub use engine::{IoEngine, open_queue};
pub use file::{FileSource, is_held, open_exclusive_for_writing};
pub use node::Node;
pub use offset::OffsetSource;
pub use open::SourceOptions;
pub use queue::{Completion, Job, Queue, Sink};
pub use source::{DirectPolicy, ReadMode, Source, read_exact_at, read_to_fault};
pub use threads::ThreadQueue;
// Until promote asks the room itself.
pub use crate::sys::{Room, room};
pub use read_ahead::ReadAhead;
pub use udev::{Properties, properties};
pub use uring::UringQueue;
