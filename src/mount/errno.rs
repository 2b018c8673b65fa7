//! What the filesystem refuses, and the one place that says it in errno's words.

use std::io;

/// Why there is no answer.
#[derive(Debug)]
pub enum Refusal {
    /// Nothing has that name or number.
    NotThere,
    /// A directory was meant, and it is a file.
    NotADirectory,
    /// A file was meant, and it is the directory.
    ADirectory,
    /// It has no such attribute.
    NoAttribute,
    /// The answer is longer than the room for it.
    NoRoom,
    /// Somebody wants to change something.
    ReadOnly,
    /// We know no such call; the kernel need not ask again.
    NotKnown,
    /// A file has no such control (ioctl).
    NoControl,
    /// The source cannot be read, or ends early.
    Unreadable,
    /// No thread or no memory for it.
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
        // Whatever the disk says (EIO, ENXIO, ENODEV, EREMOTEIO, ...): to who reads
        // the file it is one thing. The attribute `problem` has the rest.
        Refusal::Unreadable => libc::EIO,
        Refusal::Exhausted(e) => e.raw_os_error().unwrap_or(libc::ENOMEM),
    }
}
