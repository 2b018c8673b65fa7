//! Reads the data of one entry.

use std::io::{self, BufRead, Read};
use std::ops::Range;

use crate::block::{AlignedBuf, Source, read_exact_at, read_to_fault};
use crate::error::{Error, Kind, Result};
use crate::format::EMBEDDED_SUMS;

use super::checksums::{Checksums, EMBEDDED_SUMS_MAX_BYTES};
use super::index::Index;
use super::problem::Cause;
use super::walk::{Entry, Payload};

/// The size of one read in bytes.
const BLOCK: usize = 1 << 20;

/// Reads the data of one entry, in order.
///
/// As a [`BufRead`], it fails with an [`io::Error`] that holds an [`Error`].
pub struct EntryReader<'a> {
    source: &'a dyn Source,
    entry: &'a Entry,
    buf: AlignedBuf,
    /// The bytes in `buf` that have been read and not been returned yet.
    ready: Range<usize>,
    /// Where the next read starts, in bytes from the start of the source.
    at: u64,
}

impl<'a> EntryReader<'a> {
    /// Creates a reader that starts at the first byte of `entry`.
    ///
    /// # Errors
    /// There is no memory for its buffer of at most 1 MiB.
    pub fn new(payload: &'a Payload, entry: &'a Entry) -> Result<Self> {
        let source = &**payload.source();
        let alignment = source.alignment() as u64;
        let want = (entry.size + 2 * alignment).min(BLOCK as u64) as usize;
        let buf = AlignedBuf::new(want)
            .map_err(|e| Error::io("get memory to read", e).with_path(source.path()))?;
        Ok(Self {
            source,
            entry,
            buf,
            ready: 0..0,
            at: entry.data_offset,
        })
    }

    /// Returns the next bytes, or `None` at the end.
    ///
    /// # Errors
    /// The source cannot be read at this offset.
    pub fn next_block(&mut self) -> Result<Option<&[u8]>> {
        self.fill()?;
        let block = std::mem::take(&mut self.ready);
        Ok((!block.is_empty()).then(|| &self.buf[block]))
    }

    fn fill(&mut self) -> Result<()> {
        let end = self.entry.end();
        if !self.ready.is_empty() || self.at == end {
            return Ok(());
        }
        let alignment = self.source.alignment() as u64;
        let start = self.at - self.at % alignment;
        let len = (end - start)
            .next_multiple_of(alignment)
            .min(self.buf.len() as u64) as usize;
        let problem = |at, cause| self.entry.problem(at, cause).into_error(self.source);
        let n = match read_exact_at(self.source, &mut self.buf[..len], start) {
            Ok(n) => n,
            // Return the bytes before the bad sector first. The next call then starts at
            // the bad sector and fails.
            Err(_) => match read_to_fault(self.source, &mut self.buf[..len], len, start) {
                (n, Some(e)) if start + n as u64 <= self.at => {
                    return Err(problem(self.at, Cause::Io(e)));
                }
                (n, _) => n,
            },
        };
        let upto = (start + n as u64).min(end);
        if upto <= self.at {
            return Err(problem(upto, Cause::Shrunk));
        }
        self.ready = (self.at - start) as usize..(upto - start) as usize;
        self.at = upto;
        Ok(())
    }
}

impl BufRead for EntryReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.fill().map_err(io::Error::other)?;
        Ok(&self.buf[self.ready.clone()])
    }

    fn consume(&mut self, amount: usize) {
        self.ready.start = (self.ready.start + amount).min(self.ready.end);
    }
}

impl Read for EntryReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

/// Adds the checksums of the embedded `SHA256SUMS` to `sums`, if the payload has one.
///
/// # Errors
/// The embedded file is larger than [`EMBEDDED_SUMS_MAX_BYTES`], cannot be read, is not in
/// sha256sum's format, or contradicts `sums`.
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
                "{} bytes of embedded checksums, at most {EMBEDDED_SUMS_MAX_BYTES} are read",
                entry.size
            ),
        )
        .with_path(origin)
        .with_offset(payload.source().start() + entry.data_offset)
        .advice("get or pack the image again"));
    }
    let added = sums.add_lines(EntryReader::new(payload, entry)?, &origin);
    added.map_err(|e| match e.kind() {
        Kind::Syntax | Kind::Checksum => e
            .with_path(payload.source().path())
            .with_entry(entry.index, Some(EMBEDDED_SUMS)),
        _ => e,
    })
}

/// Returns the entry that holds the embedded checksums, if there is one.
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::block::ReadMode;

    /// A source of zeros, in sectors of 512 bytes. One sector is bad.
    struct OneBadSector(u64);

    impl Source for OneBadSector {
        fn path(&self) -> &Path {
            Path::new("disk")
        }
        fn len(&self) -> u64 {
            1 << 16
        }
        fn alignment(&self) -> usize {
            512
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let bad = self.0 * 512..(self.0 + 1) * 512;
            if offset < bad.end && offset + buf.len() as u64 > bad.start {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            buf.fill(0);
            if offset == 0 {
                buf[..16].copy_from_slice(b"LBPAYLD1\x01\0\0\0\0\0\0\0");
            }
            Ok(buf.len())
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Direct
        }
    }

    #[test]
    fn a_reader_returns_the_bytes_before_a_bad_sector_and_reports_its_offset() {
        for (data_offset, sector, before) in
            [(600, 1, 0), (1024, 2, 0), (600, 2, 424), (600, 5, 1960)]
        {
            let payload = Payload::open(Arc::new(OneBadSector(sector))).unwrap();
            let entry = Entry {
                index: 0,
                raw_name: b"file".to_vec(),
                header_offset: data_offset - 20,
                data_offset,
                size: 5000,
            };
            let mut reader = EntryReader::new(&payload, &entry).unwrap();
            let mut seen = 0;
            let error = loop {
                match reader.next_block() {
                    Ok(bytes) => seen += bytes.unwrap().len() as u64,
                    Err(error) => break error,
                }
            };
            assert_eq!(seen, before, "{data_offset} {sector}");
            assert_eq!(error.kind(), crate::Kind::Io);
            assert_eq!(error.offset(), Some(data_offset + before));
        }
    }
}
