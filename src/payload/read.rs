//! The bytes of one entry.

use std::io::{self, BufReader, Read};

use crate::block::{AlignedBuf, Source, read_exact_at, read_to_fault};
use crate::error::{Error, Kind, Result};
use crate::format::EMBEDDED_SUMS;

use super::checksums::{Checksums, EMBEDDED_SUMS_MAX_BYTES};
use super::index::Index;
use super::problem::Cause;
use super::walk::{Entry, Payload};

/// Bytes of one read.
const BLOCK: usize = 1 << 20;

/// Hands the data of `entry` to `take`, block by block in order.
///
/// # Errors
/// What `take` returns, or that the source cannot be read.
pub fn read_entry(
    payload: &Payload,
    entry: &Entry,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut reader = EntryReader::new(payload, entry)?;
    while let Some(bytes) = reader.next_block()? {
        take(bytes)?;
    }
    Ok(())
}

struct EntryReader<'a> {
    source: &'a dyn Source,
    entry: &'a Entry,
    buf: AlignedBuf,
    at: u64,
}

impl<'a> EntryReader<'a> {
    fn new(payload: &'a Payload, entry: &'a Entry) -> Result<Self> {
        let source = &**payload.source();
        let alignment = source.alignment() as u64;
        let want = (entry.size + 2 * alignment).min(BLOCK as u64) as usize;
        let buf = AlignedBuf::new(want)
            .map_err(|e| Error::io("getting memory to read", e).path(source.path()))?;
        Ok(Self {
            source,
            entry,
            buf,
            at: entry.data_offset,
        })
    }

    fn next_block(&mut self) -> Result<Option<&[u8]>> {
        let end = self.entry.end();
        if self.at == end {
            return Ok(None);
        }
        let alignment = self.source.alignment() as u64;
        let start = self.at - self.at % alignment;
        let len = (end - start)
            .next_multiple_of(alignment)
            .min(self.buf.len() as u64) as usize;
        let at = self.at;
        let n = match read_exact_at(self.source, &mut self.buf[..len], start) {
            Ok(n) => n,
            // What lies before the bad sector is given out first; then it is met
            // again, at the start of the next block.
            Err(_) => match read_to_fault(self.source, &mut self.buf[..len], len, start) {
                (n, Some(e)) if start + n as u64 <= at => {
                    return Err(self.entry.problem(at, Cause::Io(e)).into_error(self.source));
                }
                (n, _) => n,
            },
        };
        let upto = (start + n as u64).min(end);
        if upto <= at {
            return Err(self
                .entry
                .problem(upto, Cause::Shrunk)
                .into_error(self.source));
        }
        self.at = upto;
        Ok(Some(
            &self.buf[(at - start) as usize..(upto - start) as usize],
        ))
    }
}

/// The reader as std's trait, for line-wise parsing.
struct AsRead<'a> {
    reader: EntryReader<'a>,
    left: Vec<u8>,
    used: usize,
    failed: Option<Error>,
}

impl Read for AsRead<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.used == self.left.len() {
            self.used = 0;
            self.left.clear();
            match self.reader.next_block() {
                Ok(Some(bytes)) => self.left.extend_from_slice(bytes),
                Ok(None) => return Ok(0),
                Err(e) => {
                    self.failed = Some(e);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        let n = buf.len().min(self.left.len() - self.used);
        buf[..n].copy_from_slice(&self.left[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}

/// Adds to `sums` those of the embedded `SHA256SUMS`, where the payload has one.
///
/// # Errors
/// It is larger than [`EMBEDDED_SUMS_MAX_BYTES`], cannot be read, is not
/// sha256sum's format, or contradicts what `sums` holds.
pub fn embedded_checksums(index: &Index, sums: &mut Checksums) -> Result<()> {
    match embedded_entry(index)? {
        Some(entry) => add_embedded(index.payload(), &entry, sums),
        None => Ok(()),
    }
}

fn add_embedded(payload: &Payload, entry: &Entry, sums: &mut Checksums) -> Result<()> {
    let origin = format!(
        "{}, entry {} {EMBEDDED_SUMS}",
        payload.source().path().display(),
        entry.index
    );
    if entry.size > EMBEDDED_SUMS_MAX_BYTES {
        return Err(Error::new(
            Kind::Format,
            format!(
                "{} bytes of embedded checksums, and at most {EMBEDDED_SUMS_MAX_BYTES} are read",
                entry.size
            ),
        )
        .path(origin)
        .at(entry.data_offset)
        .advice("pack writes none so large: the image is damaged, or hostile"));
    }
    let reader = EntryReader::new(payload, entry)?;
    let mut text = BufReader::new(AsRead {
        reader,
        left: Vec::new(),
        used: 0,
        failed: None,
    });
    let added = sums.add_lines(&mut text, &origin);
    match text.into_inner().failed {
        Some(error) => Err(error),
        None => added,
    }
}

/// The entry that holds the embedded checksums, if there is one.
///
/// # Errors
/// The headers cannot be read again.
pub fn embedded_entry(index: &Index) -> Result<Option<Entry>> {
    for entry in index.entries()? {
        let entry = entry?;
        if entry.is_embedded_sums() {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}
