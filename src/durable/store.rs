//! What a copy needs of a destination.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::block::Sink;

/// How large files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteMode {
    /// O_DIRECT, past the page cache.
    Direct,
    /// Through the page cache, which keeps nothing (RWF_DONTCACHE).
    Uncached,
    /// Through the page cache; each file is synced and dropped from it.
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

/// Where a copy puts its files. A file is known by its slot until it has a name.
///
/// The order that makes the promise: all writes of a file, `finish`, `inherit` where it
/// replaces another; `flush`; only then `publish`; at last `flush_names`.
pub trait Store: Send + Sync {
    /// How files made with [`Store::create`] are written.
    fn mode(&self) -> WriteMode;

    /// Whether writes may be of any offset, length and memory, so that blocks need
    /// not be shifted into place.
    fn takes_any_alignment(&self) -> bool {
        self.mode() != WriteMode::Direct
    }

    /// Makes a staged file of `size` bytes, to be written block by block. Where the
    /// store demands alignment, offsets and lengths of writes are multiples of a
    /// page, the last one padded.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, slot: u64, size: u64) -> io::Result<Arc<dyn Sink>>;

    /// Makes a staged file that holds `bytes`: for small ones, which are faster
    /// through the page cache.
    ///
    /// # Errors
    /// What the system says.
    fn put(&self, slot: u64, bytes: &[u8]) -> io::Result<()>;

    /// Drops what the page cache holds of a file made with [`Store::put`] that has
    /// been flushed. Advice: nothing depends on it.
    fn forget(&self, slot: u64);

    /// Removes a staged file.
    ///
    /// # Errors
    /// What the system says.
    fn discard(&self, slot: u64) -> io::Result<()>;

    /// Gives a staged file the owner and mode of the file `name` that it will replace,
    /// if the store keeps them.
    ///
    /// # Errors
    /// What the system says.
    fn inherit(&self, slot: u64, name: &str) -> io::Result<()>;

    /// Brings everything staged and finished so far onto stable storage.
    ///
    /// # Errors
    /// What the system says: then nothing is known of any file that was staged.
    fn flush(&self) -> io::Result<()>;

    /// Gives a staged file its name. Without `replace` a name that exists is an
    /// error.
    ///
    /// # Errors
    /// What the system says.
    fn publish(&self, slot: u64, name: &str, replace: bool) -> io::Result<()>;

    /// Brings the names given so far onto stable storage.
    ///
    /// # Errors
    /// What the system says.
    fn flush_names(&self) -> io::Result<()>;
}
