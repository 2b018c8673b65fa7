//! Checks whether an image fits together: one kernel, modules that are built for it, initramfs
//! that contain the same modules, and a `modules.dep` that knows them.
//!
//! Everything is read in place, by this process, without root and without unpacking to disk. The
//! readers of archives and modules are pure and accept hostile input.

mod compression;
mod cpio;
mod initrd;
mod initrd_check;
mod kernel_image;
mod module;
mod module_tree;
mod modules_dep;
mod report;
#[cfg(test)]
mod samples;
mod staged_image;
mod verify;

#[cfg(feature = "internals")]
pub(crate) use initrd::walk as walk_initramfs;
#[cfg(feature = "internals")]
pub(crate) use kernel_image::release_of as read_kernel;
pub(crate) use module::Modinfo;
pub use report::{Check, CheckState, CoherenceReport, Problem};
pub use verify::verify;
