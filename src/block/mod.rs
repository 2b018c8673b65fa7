//! Sources of bytes at offsets: regular files and block devices.
//!
//! [`SourceOptions::open`] opens a source, with O_DIRECT if that works, and everything
//! else reads through the trait [`Source`]. This module does not know about payloads.

mod buffer;
#[cfg(test)]
mod contract;
mod copies;
mod dev;
mod device;
mod devices;
mod engine;
mod failure_recorder;
mod fault_map;
mod fault_recorder;
mod file;
mod file_type;
mod node;
mod offset;
mod open;
mod prefetch;
mod queue;
mod ranges;
mod read_ahead;
mod source;
mod threads;
mod udev;
#[cfg(target_pointer_width = "64")]
mod uring;
#[cfg(not(target_pointer_width = "64"))]
#[path = "no_uring.rs"]
mod uring;

pub use buffer::{AlignedBuf, PAGE};
pub use copies::CopiesSource;
pub use engine::IoEngine;
pub use fault_map::FaultMap;
pub use fault_recorder::FaultRecorder;
pub use file::FileSource;
pub use offset::OffsetSource;
pub use open::SourceOptions;
pub use ranges::Ranges;
pub use source::{DirectPolicy, ReadMode, Source, read_exact_at};

#[cfg(feature = "internals")]
pub use internals::*;
#[cfg(not(feature = "internals"))]
pub(crate) use internals::*;

/// The queue for reads and writes, the read-ahead, and the list of block devices: items that
/// the program and its tests use, and users of the library do not need.
mod internals {
    pub use super::buffer::BufferPool;
    pub use super::dev::refuse_new_in_dev;
    pub use super::device::{Device, DeviceKind};
    pub use super::devices::{Devices, Roots, mount_proc};
    pub use super::engine::open_queue;
    pub use super::failure_recorder::FailureRecorder;
    pub use super::file::{is_held, open_exclusive_for_writing};
    pub use super::file_type::file_type_name;
    pub use super::node::Node;
    #[cfg(any(test, feature = "internals"))]
    pub use super::queue::Job;
    pub use super::queue::{Completion, Queue, Sink};
    pub use super::read_ahead::ReadAhead;
    pub use super::source::read_to_fault;
    pub use super::threads::ThreadQueue;
    pub use super::udev::{Properties, properties};
    #[cfg(any(test, feature = "internals"))]
    pub use super::uring::UringQueue;
    // Temporary, until promote uses `crate::sys::room` directly.
    pub use crate::sys::{Room, room};
}
