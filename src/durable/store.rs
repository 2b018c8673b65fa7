//! The interface that a copy needs of a destination.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::block::Sink;

/// How large files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteMode {
    /// With O_DIRECT, without the page cache.
    Direct,
    /// Through the page cache, which does not keep the data (RWF_DONTCACHE).
    Uncached,
    /// Through the page cache. Each file is synced and then dropped from the cache.
    Buffered,
}

impl fmt::Display for WriteMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Uncached => "uncached",
            Self::Buffered => "buffered",
        })
    }
}

/// The destination of a copy. A slot number identifies a file until it has a name.
///
/// These calls in this order make the files durable: all writes of a file, `finish`, and
/// `inherit` if it replaces another; then `flush`; only then `publish`; last `flush` again and
/// `flush_names`.
pub trait Store: Send + Sync {
    /// Returns how files from [`Store::create`] are written.
    fn mode(&self) -> WriteMode;

    /// Returns whether writes may have any offset, length and memory address, so that data
    /// does not have to be copied into aligned buffers.
    fn takes_any_alignment(&self) -> bool {
        self.mode() != WriteMode::Direct
    }

    /// Creates a staged file of `size` bytes, to be written block by block. If the store
    /// requires alignment, offsets and lengths of writes are multiples of a page, and the
    /// last write is padded.
    ///
    /// # Errors
    /// The error that the system reports.
    fn create(&self, slot: u64, size: u64) -> io::Result<Arc<dyn Sink>>;

    /// Creates a staged file that contains `bytes`. For small files, which are faster
    /// through the page cache.
    ///
    /// # Errors
    /// The error that the system reports.
    fn put(&self, slot: u64, bytes: &[u8]) -> io::Result<()>;

    /// Opens a staged file for reading and writing through the page cache. If there is none, it
    /// creates one of `size` zeros.
    ///
    /// # Errors
    /// The error that the system reports.
    fn reopen(&self, slot: u64, size: u64) -> io::Result<File>;

    /// Drops a flushed file from [`Store::put`] from the page cache. This is only a hint:
    /// nothing depends on it.
    fn forget(&self, slot: u64);

    /// Removes a staged file.
    ///
    /// # Errors
    /// The error that the system reports.
    fn discard(&self, slot: u64) -> io::Result<()>;

    /// Gives a staged file the owner and mode of the file `name` that it will replace, if
    /// the store keeps them.
    ///
    /// # Errors
    /// The error that the system reports.
    fn inherit(&self, slot: u64, name: &str) -> io::Result<()>;

    /// Flushes everything that is staged and finished so far to stable storage.
    ///
    /// # Errors
    /// The error that the system reports. Then no staged file is known to be complete.
    fn flush(&self) -> io::Result<()>;

    /// Gives a staged file its name. Without `replace`, a name that exists is an error.
    ///
    /// # Errors
    /// The error that the system reports.
    fn publish(&self, slot: u64, name: &str, replace: bool) -> io::Result<()>;

    /// Flushes the names given so far to stable storage, after another [`Store::flush`].
    ///
    /// # Errors
    /// The error that the system reports.
    fn flush_names(&self) -> io::Result<()>;
}
