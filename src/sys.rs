//! The system calls that neither std nor nix wraps safely. One of the few files
//! that may hold `unsafe`; ARCHITECTURE.md lists them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

mod ioctls {
    // linux/fs.h: the size in bytes as u64 (the kernel's declaration says
    // size_t, and the number is made from it), and the logical block size.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, libc::size_t);
    nix::ioctl_read_bad!(blksszget, 0x1268, libc::c_int);
    // Whether the device is read-only.
    nix::ioctl_read_bad!(blkroget, 0x125e, libc::c_int);
}

/// The size of a block device in bytes.
///
/// # Errors
/// What the system says: ENOTTY for what is no block device.
pub fn device_size(file: &File) -> io::Result<u64> {
    let mut size: u64 = 0;
    // SAFETY: the descriptor is open for the length of the call, and BLKGETSIZE64
    // writes eight bytes on every architecture, which is what `size` has room for.
    unsafe { ioctls::blkgetsize64(file.as_raw_fd(), (&raw mut size).cast()) }?;
    Ok(size)
}

/// The logical block size of a block device in bytes: what direct I/O must be a
/// multiple of.
///
/// # Errors
/// What the system says.
pub fn logical_block_size(file: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: the descriptor is open for the length of the call, and BLKSSZGET
    // writes one int, which `size` is.
    unsafe { ioctls::blksszget(file.as_raw_fd(), &raw mut size) }?;
    u32::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Whether a block device refuses writes. False where it cannot be asked.
pub fn is_read_only(file: &File) -> bool {
    let mut read_only: libc::c_int = 0;
    // SAFETY: the descriptor is open for the length of the call, and BLKROGET
    // writes one int, which `read_only` is.
    let asked = unsafe { ioctls::blkroget(file.as_raw_fd(), &raw mut read_only) };
    asked.is_ok() && read_only != 0
}

/// What direct I/O on this file must be aligned to, as statx(2) says with
/// STATX_DIOALIGN (Linux 6.1).
///
/// Returns the larger of the alignments of memory and offset in bytes; `Some(0)`
/// where the file system says that it has no direct I/O; `None` where the kernel
/// or the file system does not say.
pub fn direct_alignment(file: BorrowedFd<'_>) -> Option<u32> {
    const STATX_DIOALIGN: u32 = 0x2000;
    // SAFETY: statx is plain integers, for which all zeros is a value.
    let mut buf: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is borrowed, the path is an empty C string with
    // AT_EMPTY_PATH, and `buf` is a whole statx for the kernel to fill.
    let rc = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            STATX_DIOALIGN,
            &raw mut buf,
        )
    };
    if rc != 0 || buf.stx_mask & STATX_DIOALIGN == 0 {
        return None;
    }
    Some(buf.stx_dio_mem_align.max(buf.stx_dio_offset_align))
}

/// Writes once at `offset`, and asks the kernel to keep nothing of it in the page
/// cache (RWF_DONTCACHE, Linux 6.14).
///
/// # Errors
/// What the system says: EOPNOTSUPP where kernel or file system cannot.
pub fn write_uncached(file: BorrowedFd<'_>, buf: &[u8], offset: u64) -> io::Result<usize> {
    const RWF_DONTCACHE: libc::c_int = 0x80;
    let iov = libc::iovec {
        iov_base: buf.as_ptr().cast_mut().cast(),
        iov_len: buf.len(),
    };
    let offset =
        libc::off64_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the descriptor is borrowed, `iov` points to `buf`, which outlives
    // the call, and a write only reads from it.
    let n =
        unsafe { libc::pwritev64v2(file.as_raw_fd(), &raw const iov, 1, offset, RWF_DONTCACHE) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Reads once at `offset` what lies in the page cache already (RWF_NOWAIT, Linux
/// 4.14); returns fewer bytes where the cached ones end.
///
/// # Errors
/// What the system says: EAGAIN where the first byte is not there, EOPNOTSUPP where
/// kernel or file system cannot tell.
pub fn read_cached(file: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    let offset =
        libc::off64_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the descriptor is borrowed, and `iov` points to `buf`, which is ours
    // alone and outlives the call.
    let n = unsafe {
        libc::preadv64v2(
            file.as_raw_fd(),
            &raw const iov,
            1,
            offset,
            libc::RWF_NOWAIT,
        )
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Allocates room for the first `len` bytes of a file and makes it that long.
/// (nix's fallocate takes a 32-bit length on i686.)
///
/// # Errors
/// What the system says: EOPNOTSUPP where the file system cannot, ENOSPC where
/// there is no room.
pub fn allocate(file: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    let len =
        libc::off64_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the descriptor is borrowed and the call touches no memory of ours.
    let rc = unsafe { libc::fallocate64(file.as_raw_fd(), 0, 0, len) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Drops what the page cache holds of a range, where it is clean. `len` 0 means to
/// the end. Advice: nothing depends on it, so it has no error.
pub fn drop_cached(file: BorrowedFd<'_>, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (
        libc::off64_t::try_from(offset),
        libc::off64_t::try_from(len),
    ) else {
        return;
    };
    // SAFETY: the descriptor is borrowed and the call touches no memory of ours.
    unsafe { libc::posix_fadvise64(file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED) };
}

/// Whether the file system of `file` is memory (tmpfs, ramfs), where direct I/O is
/// accepted and means nothing. False where it cannot be asked.
pub fn is_in_memory(file: BorrowedFd<'_>) -> bool {
    // linux/magic.h
    const TMPFS_MAGIC: u32 = 0x0102_1994;
    const RAMFS_MAGIC: u32 = 0x8584_58f6;
    matches!(magic(file), Some(TMPFS_MAGIC | RAMFS_MAGIC))
}

/// Whether the file system of `file` keeps a file's size and place with its name
/// (FAT). Linux writes a renamed file's new name with size 0 at first, whatever was
/// synced under the old one; the rest follows when the file itself is written back.
/// False where it cannot be asked.
pub fn names_hold_sizes(file: BorrowedFd<'_>) -> bool {
    // linux/magic.h
    const MSDOS_SUPER_MAGIC: u32 = 0x4d44;
    magic(file) == Some(MSDOS_SUPER_MAGIC)
}

/// The file system's magic number, as statfs(2) has it.
fn magic(file: BorrowedFd<'_>) -> Option<u32> {
    // SAFETY: statfs64 is plain integers, for which all zeros is a value.
    let mut buf: libc::statfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is borrowed and `buf` is a whole statfs64 to fill.
    if unsafe { libc::fstatfs64(file.as_raw_fd(), &raw mut buf) } != 0 {
        return None;
    }
    // The type's width and sign differ between architectures; the magic has 32 bits.
    Some(buf.f_type as u32)
}

/// Keeps all threads' memory in one heap: glibc gives each thread one of its own,
/// which takes 64 MiB of addresses and keeps what is freed. For programs whose threads
/// allocate little; to be called before there are any.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator's, and touches no memory of ours.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that an unprivileged user can still write.
    pub free_bytes: u64,
    /// Files that can still be made; `None` where the file system has no such limit.
    pub free_files: Option<u64>,
    /// The size of an allocation, in bytes.
    pub block_bytes: u64,
    /// The longest name, in bytes.
    pub max_name_len: usize,
}

/// How much room the file system of `file` has. (nix's fstatvfs cannot say it of
/// large file systems on i686.)
///
/// # Errors
/// What the system says.
pub fn room(file: BorrowedFd<'_>) -> io::Result<Room> {
    // SAFETY: statvfs64 is plain integers, for which all zeros is a value.
    let mut buf: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is borrowed and `buf` is a whole statvfs64 to fill.
    if unsafe { libc::fstatvfs64(file.as_raw_fd(), &raw mut buf) } != 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::useless_conversion)] // c_ulong has 32 bits on i686
    let (block_bytes, max_name_len) = (u64::from(buf.f_frsize).max(1), u64::from(buf.f_namemax));
    Ok(Room {
        free_bytes: buf.f_bavail.saturating_mul(block_bytes),
        free_files: (buf.f_files != 0).then_some(buf.f_favail),
        block_bytes,
        max_name_len: usize::try_from(max_name_len).unwrap_or(usize::MAX),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_system_is_known_by_its_magic_number() {
        let proc = File::open("/proc").unwrap();
        // linux/magic.h: PROC_SUPER_MAGIC
        assert_eq!(magic(proc.as_fd()), Some(0x9fa0));
        assert!(!is_in_memory(proc.as_fd()) && !names_hold_sizes(proc.as_fd()));
    }
}
