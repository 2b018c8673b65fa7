//! The reasons for which the filesystem refuses a request, and their errno values.

use std::io;

/// The reason for which a request is refused.
#[derive(Debug)]
pub enum Refusal {
    /// There is no node with that name or number.
    NotThere,
    /// A file was used as a directory.
    NotADirectory,
    /// A directory was used as a file.
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
    /// The caller was interrupted by a signal.
    Interrupted,
    /// The server does as much as it can already, or the work takes too long for now.
    TryAgain,
    /// The mount is being removed.
    Stopped,
    /// There is not enough memory.
    Exhausted(io::Error),
}

/// Returns the errno for a refusal. This is the only place that chooses one.
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
        // The same errno for every error of the disk (EIO, ENXIO, ENODEV, EREMOTEIO, ...). The
        // attribute `problem` has the details.
        Refusal::Unreadable => libc::EIO,
        Refusal::Interrupted => libc::EINTR,
        Refusal::TryAgain => libc::EAGAIN,
        Refusal::Stopped => libc::ECANCELED,
        Refusal::Exhausted(e) => e.raw_os_error().unwrap_or(libc::ENOMEM),
    }
}
