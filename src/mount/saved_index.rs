//! Saves a tree in a file, for the next mount of the same image. The headers form a chain, so on
//! a spinning disk with a cold cache each of them costs a seek.
//!
//! The file is trusted as little as an image. It holds no offsets: they are computed from the
//! sizes and must lie within the source. Names are checked as those of an image are. A sample of
//! the headers is compared at once ([`read_index`]), and each of the others when its file is
//! first read ([`Confirmed`]).
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `LBPINDX1` |
//! | 8 | length of the source, in bytes |
//! | 12 | when the source was changed: seconds since 1970, nanoseconds; 0 for a device |
//! | 1, 8 | the dialect (32 or 64), the number of files |
//! | for each file: 1, 8 | length of the name, size of the file, both in bytes |
//! | that length | the name |
//! | 32 | SHA-256 of everything above |
//!
//! Integers are little-endian.

use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use byteorder::{LittleEndian, ReadBytesExt, WriteBytesExt};
use sha2::{Digest, Sha256};

use crate::format::{Dialect, Name};
use crate::payload::Payload;

use super::marks::Marks;
use super::tree::{Node, NotAdded, Tree};

const MAGIC: &[u8; 8] = b"LBPINDX1";

/// The length of what tells whether an index is of the same image, in bytes.
const KEY_BYTES: usize = 29;

/// The number of headers that are compared before an index is used, including the first and the
/// last.
const COMPARED: u64 = 64;

/// The reason why an index is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The file is not an index, and must not be overwritten.
    #[error("not an index of a payload")]
    Foreign,
    /// The index belongs to another image, or to this image before it was changed.
    #[error("the index is stale, or of another image")]
    Other,
    /// The index cannot be read, or ends early.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The files whose headers have been compared with the index and were equal.
#[derive(Debug)]
pub(super) struct Confirmed(Marks);

impl Confirmed {
    /// Returns whether the header of `node` has been compared already.
    pub(super) fn has(&self, node: &Node<'_>) -> bool {
        self.0.has(node)
    }

    /// Returns whether the header of `node` in `payload` matches the tree. Each header is read
    /// only once.
    ///
    /// # Errors
    /// The header cannot be read.
    pub(super) fn confirm(&self, payload: &Payload, node: &Node<'_>) -> io::Result<bool> {
        if self.0.has(node) {
            return Ok(true);
        }
        let is_there = payload.has_header(node.index, node.data_offset, node.name, node.size)?;
        if is_there {
            self.0.add(node);
        }
        Ok(is_there)
    }
}

/// Writes an index of `tree`, which must have been built from the whole of `payload` without a
/// problem.
///
/// # Errors
/// Writing to `out` fails.
pub(super) fn write_index(
    tree: &Tree,
    payload: &Payload,
    changed: SystemTime,
    out: impl Write,
) -> io::Result<()> {
    let mut out = Summed::new(out);
    out.write_all(MAGIC)?;
    out.write_all(&key(payload, changed)?)?;
    for node in tree.from(0) {
        let len = u8::try_from(node.name.len()).map_err(io::Error::other)?;
        out.write_u8(len)?;
        out.write_u64::<LittleEndian>(node.size)?;
        out.write_all(node.name)?;
    }
    let sum = std::mem::take(&mut out.sum).finalize();
    out.inner.write_all(&sum)?;
    out.inner.flush()
}

/// Reads the index of `payload`.
///
/// # Errors
/// The index belongs to another image or is damaged; some of the payload's headers differ from
/// it, or cannot be read.
pub(super) fn read_index(
    payload: &Payload,
    changed: SystemTime,
    from: impl Read,
) -> Result<(Tree, Confirmed), Unfit> {
    let mut from = Summed::new(from);
    let mut magic = [0; MAGIC.len()];
    match from.read_exact(&mut magic) {
        Ok(()) if magic == *MAGIC => {}
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e.into()),
        _ => return Err(Unfit::Foreign),
    }
    let expected = key(payload, changed)?;
    let mut found = vec![0; expected.len()];
    from.read_exact(&mut found)?;
    if found != expected {
        return Err(Unfit::Other);
    }
    let tree = read_files(payload, &mut from)?;
    let sum = std::mem::take(&mut from.sum).finalize();
    let mut written = [0; 32];
    from.inner.read_exact(&mut written)?;
    if *sum != written || from.inner.read(&mut [0])? != 0 {
        return Err(Unfit::Other);
    }
    let confirmed = Confirmed(Marks::none(tree.files()));
    // On a server, each header costs a round trip, and these can be asked for together.
    let head = payload.dialect().entry_header_len();
    for node in sample(&tree) {
        let len = head + node.name.len() as u64;
        payload
            .source()
            .will_read(node.data_offset - len, len as usize);
    }
    for node in sample(&tree) {
        if !confirmed.confirm(payload, &node)? {
            return Err(Unfit::Other);
        }
    }
    Ok((tree, confirmed))
}

/// Returns the length of the payload that an index is of, and the length of all headers and names
/// in it, in bytes. Nothing of the index is compared with the payload. `None` if it is no index.
pub fn indexed_extent(mut from: impl Read) -> Option<(u64, u64)> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)
        .ok()
        .filter(|()| magic == *MAGIC)?;
    let mut key = [0; KEY_BYTES - 9];
    from.read_exact(&mut key).ok()?;
    let dialect = match from.read_u8().ok()? {
        32 => Dialect::U32,
        64 => Dialect::U64,
        _ => return None,
    };
    let files = from.read_u64::<LittleEndian>().ok()?;
    let (mut end, mut headers) = (dialect.header_len(), dialect.header_len());
    // If the count is too high, the loop ends with the file.
    for _ in 0..files {
        let name_len = from.read_u8().ok()?;
        let size = from.read_u64::<LittleEndian>().ok()?;
        from.read_exact(&mut [0; u8::MAX as usize][..name_len.into()])
            .ok()?;
        let header = dialect.entry_header_len() + u64::from(name_len);
        headers = headers.checked_add(header)?;
        end = end.checked_add(header)?.checked_add(size)?;
    }
    Some((end, headers))
}

fn read_files(payload: &Payload, from: &mut impl Read) -> Result<Tree, Unfit> {
    let mut tree = Tree::default();
    let source_len = payload.source().len();
    let head = payload.dialect().entry_header_len();
    let mut at = payload.dialect().header_len();
    // If the count is too high, the loop ends with the file, since each entry takes bytes of it.
    for _ in 0..payload.claimed_files() {
        let mut name = [0; u8::MAX as usize];
        let name = &mut name[..from.read_u8()?.into()];
        let size = from.read_u64::<LittleEndian>()?;
        from.read_exact(name)?;
        let data_offset = at + head + name.len() as u64;
        let end = data_offset.checked_add(size).ok_or(Unfit::Other)?;
        let fits = end <= source_len && tree.files() < Tree::MAX_FILES;
        if !fits || Name::new(name).is_err() {
            return Err(Unfit::Other);
        }
        match tree.push(name, data_offset, size) {
            Ok(()) => {}
            Err(NotAdded::Taken(_)) => return Err(Unfit::Other),
            Err(NotAdded::NoMemory) => {
                return Err(io::Error::from(io::ErrorKind::OutOfMemory).into());
            }
        }
        at = end;
    }
    tree.settle();
    Ok(tree)
}

/// Returns a sample of files from all parts of the tree, including the first and the last.
fn sample(tree: &Tree) -> impl Iterator<Item = Node<'_>> {
    let files = tree.files();
    let step = files.div_ceil(COMPARED).max(1);
    let places = (0..files).step_by(step as usize);
    places
        .chain(files.checked_sub(1))
        .filter_map(|n| tree.at(n))
}

fn key(payload: &Payload, changed: SystemTime) -> io::Result<Vec<u8>> {
    let since = changed.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or(Duration::ZERO);
    let mut key = Vec::new();
    key.write_u64::<LittleEndian>(payload.source().len())?;
    key.write_u64::<LittleEndian>(since.as_secs())?;
    key.write_u32::<LittleEndian>(since.subsec_nanos())?;
    key.write_u8(match payload.dialect() {
        Dialect::U32 => 32,
        Dialect::U64 => 64,
    })?;
    key.write_u64::<LittleEndian>(payload.claimed_files())?;
    Ok(key)
}

/// A reader or writer that computes the SHA-256 sum of all bytes that pass through it.
struct Summed<T> {
    inner: T,
    sum: Sha256,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        let sum = Sha256::new();
        Self { inner, sum }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }
}
