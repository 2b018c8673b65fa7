//! Why the filesystem refuses a request, and the one place that turns it into an errno.

use std::io;

/// Why a request is refused.
#[derive(Debug)]
pub enum Refusal {
    /// Nothing has that name or number.
    NotThere,
    /// A file was used as a directory.
    NotADirectory,
    /// The directory was used as a file.
    ADirectory,
    /// The node has no such attribute.
    NoAttribute,
    /// The value is longer than the caller's buffer.
    NoRoom,
    /// The request would change something.
    ReadOnly,
    /// The call is not implemented; the kernel need not send it again.
    NotKnown,
    /// There is no such ioctl.
    NoControl,
    /// The source cannot be read, or ends early.
    Unreadable,
    /// No memory for it.
    Exhausted(io::Error),
}

/// The errno of a refusal: the only place where one is chosen.
pub(super) fn errno(refusal: &Refusal) -> i32 {
    match refusal {
        Refusal::NotThere => libc::ENOENT,
        Refusal::NotADirectory => libc::ENOTDIR,
        Refusal::ADirectory => libc::EISDIR,
        Refusal::NoAttribute => libc::ENODATA,
        Refusal::NoRoom => libc::ERANGE,
        Refusal::ReadOnly => libc::EROFS,
        Refusal::NotKnown => libc::ENOSYS,
        Refusal::NoControl => libc::ENOTTY,
        // The same for each error of the disk (EIO, ENXIO, ENODEV, EREMOTEIO, ...). The
        // attribute `problem` has the details.
        Refusal::Unreadable => libc::EIO,
        Refusal::Exhausted(e) => e.raw_os_error().unwrap_or(libc::ENOMEM),
    }
}
