//! The system calls that neither std nor nix wraps safely. This is one of the few files that
//! may use `unsafe`; ARCHITECTURE.md lists them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

mod ioctls {
    // linux/fs.h: BLKGETSIZE64 returns the size in bytes as u64 (the kernel declares size_t,
    // and the number is derived from that), and BLKSSZGET the logical block size.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, libc::size_t);
    nix::ioctl_read_bad!(blksszget, 0x1268, libc::c_int);
    // linux/fs.h: BLKROGET returns whether the device is read-only.
    nix::ioctl_read_bad!(blkroget, 0x125e, libc::c_int);
    // linux/fs.h: BLKRRPART reads the partition table again.
    nix::ioctl_none!(blkrrpart, 0x12, 95);
}

/// Returns the size of a block device in bytes.
///
/// # Errors
/// The error that the system reports: ENOTTY if it is not a block device.
pub fn device_size(file: &File) -> io::Result<u64> {
    let mut size: u64 = 0;
    // SAFETY: the descriptor is open for the length of the call, and BLKGETSIZE64
    // writes eight bytes on every architecture, which is what `size` has room for.
    unsafe { ioctls::blkgetsize64(file.as_raw_fd(), (&raw mut size).cast()) }?;
    Ok(size)
}

/// Returns the logical block size of a block device in bytes, which is the alignment that
/// direct I/O requires.
///
/// # Errors
/// The error that the system reports.
pub fn logical_block_size(file: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: the descriptor is open for the length of the call, and BLKSSZGET
    // writes one int, which `size` is.
    unsafe { ioctls::blksszget(file.as_raw_fd(), &raw mut size) }?;
    u32::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Returns whether a block device is read-only. Also returns false if that is unknown.
pub fn is_read_only(file: &File) -> bool {
    let mut read_only: libc::c_int = 0;
    // SAFETY: the descriptor is open for the length of the call, and BLKROGET
    // writes one int, which `read_only` is.
    let asked = unsafe { ioctls::blkroget(file.as_raw_fd(), &raw mut read_only) };
    asked.is_ok() && read_only != 0
}

/// Lets the kernel read the partition table of a block device again.
///
/// # Errors
/// The error that the system reports: EINVAL if the device cannot have partitions, EBUSY if a
/// partition is in use.
pub fn reread_partitions(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, and BLKRRPART accesses no
    // memory of this process.
    unsafe { ioctls::blkrrpart(file.as_raw_fd()) }?;
    Ok(())
}

/// Returns the alignment that direct I/O on this file requires, as statx(2) reports it with
/// STATX_DIOALIGN (Linux 6.1).
///
/// This is the larger of the alignments of memory and offset, in bytes. `Some(0)` means that
/// the file system does not support direct I/O. `None` means that the kernel or the file
/// system does not report it.
pub fn direct_alignment(file: BorrowedFd<'_>) -> Option<u32> {
    const STATX_DIOALIGN: u32 = 0x2000;
    // SAFETY: statx consists of plain integers, for which all zeros is a valid value.
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

/// Writes once at `offset`, and asks the kernel not to keep the data in the page cache
/// (RWF_DONTCACHE, Linux 6.14).
///
/// # Errors
/// The error that the system reports: EOPNOTSUPP if the kernel or the file system does not
/// support it.
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

/// Reads once at `offset`, but only data that is in the page cache already (RWF_NOWAIT,
/// Linux 4.14). Returns fewer bytes if the cached data ends earlier.
///
/// # Errors
/// The error that the system reports: EAGAIN if the first byte is not in the cache,
/// EOPNOTSUPP if the kernel or the file system does not support it.
pub fn read_cached(file: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    let offset =
        libc::off64_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the descriptor is borrowed, and `iov` points to `buf`, which is borrowed mutably
    // and outlives the call.
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

/// Allocates space for the first `len` bytes of a file, and sets its length to `len` if it is
/// shorter. (nix's fallocate takes a 32-bit length on i686.)
///
/// # Errors
/// The error that the system reports: EOPNOTSUPP if the file system does not support it,
/// ENOSPC if there is not enough space.
pub fn allocate(file: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    let len =
        libc::off64_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the descriptor is borrowed, and the call accesses no memory of this process.
    let rc = unsafe { libc::fallocate64(file.as_raw_fd(), 0, 0, len) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Drops the clean pages of a range from the page cache. `len` 0 means to the end of the
/// file. This is only a hint: nothing depends on it, so there is no error.
pub fn drop_cached(file: BorrowedFd<'_>, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (
        libc::off64_t::try_from(offset),
        libc::off64_t::try_from(len),
    ) else {
        return;
    };
    // SAFETY: the descriptor is borrowed, and the call accesses no memory of this process.
    unsafe { libc::posix_fadvise64(file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED) };
}

/// Returns whether the file system of `file` is memory (tmpfs, ramfs), which accepts direct
/// I/O without any effect. Also returns false if that is unknown.
pub fn is_in_memory(file: BorrowedFd<'_>) -> bool {
    // linux/magic.h
    const TMPFS_MAGIC: u32 = 0x0102_1994;
    const RAMFS_MAGIC: u32 = 0x8584_58f6;
    matches!(magic(file), Some(TMPFS_MAGIC | RAMFS_MAGIC))
}

/// Returns whether the file system of `file` stores a file's size and location with its name
/// (FAT).
///
/// There, Linux writes the new name of a renamed file with size 0 at first, even if the file
/// was synced under its old name. The rest follows when the file itself is written back.
/// Also returns false if that is unknown.
pub fn names_hold_sizes(file: BorrowedFd<'_>) -> bool {
    // linux/magic.h
    const MSDOS_SUPER_MAGIC: u32 = 0x4d44;
    magic(file) == Some(MSDOS_SUPER_MAGIC)
}

/// Returns the file system's magic number, as statfs(2) reports it.
fn magic(file: BorrowedFd<'_>) -> Option<u32> {
    // SAFETY: statfs64 consists of plain integers, for which all zeros is a valid value.
    let mut buf: libc::statfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is borrowed and `buf` is a whole statfs64 to fill.
    if unsafe { libc::fstatfs64(file.as_raw_fd(), &raw mut buf) } != 0 {
        return None;
    }
    // The type's width and sign differ between architectures; the magic has 32 bits.
    Some(buf.f_type as u32)
}

/// Keeps the memory of all threads in one heap. By default glibc gives each thread its own
/// heap, which takes 64 MiB of address space and keeps freed memory. This is for programs
/// whose threads allocate little. Call it before any thread is started.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: this sets a number in the allocator and accesses no memory of this program.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Returns the memory that programs can still get, in bytes, as the kernel estimates it. Without
/// /proc, as in a boot image, this is the memory that is not used for anything.
pub fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo");
    text.ok()
        .and_then(|text| mem_available(&text))
        .unwrap_or_else(|| {
            let info = rustix::system::sysinfo();
            #[allow(clippy::useless_conversion)] // c_ulong has 32 bits on i686
            let free = u64::from(info.freeram).saturating_add(u64::from(info.bufferram));
            free.saturating_mul(info.mem_unit.into())
        })
}

/// Returns `MemAvailable` of /proc/meminfo in bytes.
fn mem_available(text: &str) -> Option<u64> {
    let value = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// The free space on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The number of bytes that an unprivileged user can still write. `u64::MAX` if the file
    /// system does not tell its size (ramfs, some FUSE servers).
    pub free_bytes: u64,
    /// The number of files that can still be created. `None` if the file system has no limit.
    pub free_files: Option<u64>,
    /// The size of an allocation block, in bytes.
    pub block_bytes: u64,
    /// The length of the longest possible name, in bytes.
    pub max_name_len: usize,
}

/// Returns the free space on the file system of `file`. (nix's fstatvfs fails for large file
/// systems on i686.)
///
/// # Errors
/// The error that the system reports.
pub fn room(file: BorrowedFd<'_>) -> io::Result<Room> {
    // SAFETY: statvfs64 consists of plain integers, for which all zeros is a valid value.
    let mut buf: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is borrowed and `buf` is a whole statvfs64 to fill.
    if unsafe { libc::fstatvfs64(file.as_raw_fd(), &raw mut buf) } != 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::useless_conversion)] // c_ulong has 32 bits on i686
    let (block_bytes, max_name_len) = (u64::from(buf.f_frsize).max(1), u64::from(buf.f_namemax));
    Ok(Room {
        free_bytes: match buf.f_blocks {
            0 => u64::MAX,
            _ => buf.f_bavail.saturating_mul(block_bytes),
        },
        free_files: (buf.f_files != 0).then_some(buf.f_favail),
        block_bytes,
        max_name_len: usize::try_from(max_name_len).unwrap_or(usize::MAX),
    })
}

/// The files that were open when this program was started, besides the standard streams.
#[derive(Debug, Default)]
pub struct Inherited(Vec<OwnedFd>);

impl Inherited {
    /// Takes ownership of all open files.
    ///
    /// # Safety
    /// Nothing in this process owns an open file yet: call it once, at the very start of `main`.
    pub unsafe fn take_all() -> Self {
        let owned = open_files().into_iter().map(|fd| {
            // SAFETY: the descriptor is open, and the caller promises that nothing else owns it.
            unsafe { OwnedFd::from_raw_fd(fd) }
        });
        Self(owned.collect())
    }

    /// Removes the file with the descriptor `fd` and returns it, or `None` if there is no such
    /// file.
    pub fn take(&mut self, fd: RawFd) -> Option<File> {
        let position = self.0.iter().position(|file| file.as_raw_fd() == fd)?;
        Some(self.0.swap_remove(position).into())
    }
}

/// Returns the open descriptors above the standard streams; without /proc, only those below 1024.
pub fn open_files() -> Vec<RawFd> {
    let numbers = std::fs::read_dir("/proc/self/fd").map(|list| {
        let names = list.flatten().map(|entry| entry.file_name());
        names.filter_map(|n| n.to_str()?.parse().ok()).collect()
    });
    let mut numbers: Vec<RawFd> = numbers.unwrap_or_else(|_| (0..1024).collect());
    // One of them belonged to the directory listing and is closed by now.
    // SAFETY: fcntl(F_GETFD) only queries a number and does not touch memory.
    numbers.retain(|fd| *fd > 2 && unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0);
    numbers
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn available_memory_is_what_the_kernel_estimates() {
        let text =
            "MemTotal:  24000000 kB\nMemFree: 5 kB\nMemAvailable:   16384 kB\nBuffers: 1 kB\n";
        assert_eq!(mem_available(text), Some(16 << 20));
        // Linux before 3.14 does not tell it.
        assert_eq!(mem_available("MemTotal: 24 kB\nMemFree: 5 kB\n"), None);
        assert!(available_memory() > 1 << 20);
    }

    #[test]
    fn a_file_system_that_does_not_tell_its_size_is_not_full() {
        let proc = File::open("/proc").unwrap();
        assert_eq!(room(proc.as_fd()).unwrap().free_bytes, u64::MAX);
        let root = File::open("/").unwrap();
        assert_ne!(room(root.as_fd()).unwrap().free_bytes, u64::MAX);
    }

    #[test]
    fn a_file_system_is_recognized_by_its_magic_number() {
        let proc = File::open("/proc").unwrap();
        // linux/magic.h: PROC_SUPER_MAGIC
        assert_eq!(magic(proc.as_fd()), Some(0x9fa0));
        assert!(!is_in_memory(proc.as_fd()) && !names_hold_sizes(proc.as_fd()));
    }
}
