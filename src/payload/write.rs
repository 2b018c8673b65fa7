//! Writes a payload as a stream of bytes.

use std::io::{self, Write};

use crate::error::{Error, Kind, Result};
use crate::format::{Dialect, Name};

/// Writes a payload: the header, then each entry's header and its data. It panics if the
/// caller does not write what the headers promise.
pub struct PayloadWriter<W> {
    out: W,
    dialect: Dialect,
    entries_left: u64,
    data_left: u64,
    written: u64,
}

impl<W: Write> PayloadWriter<W> {
    /// Writes the header of a payload of `files` files.
    ///
    /// # Errors
    /// The count does not fit the dialect, or writing to `out` fails.
    pub fn new(mut out: W, dialect: Dialect, files: u64) -> Result<Self> {
        let mut header = Vec::new();
        dialect
            .put_header(files, &mut header)
            .map_err(|e| Error::new(Kind::Refused, format!("too many files: {e}")))?;
        out.write_all(&header).map_err(write_failed)?;
        let written = header.len() as u64;
        Ok(Self {
            out,
            dialect,
            entries_left: files,
            data_left: 0,
            written,
        })
    }

    /// Starts the next entry.
    ///
    /// # Errors
    /// The size does not fit the dialect, or writing to `out` fails.
    pub fn entry(&mut self, name: &Name, size: u64) -> Result<()> {
        assert!(
            self.data_left == 0 && self.entries_left > 0,
            "the caller broke its promise"
        );
        let mut header = Vec::new();
        self.dialect
            .put_entry(name, size, &mut header)
            .map_err(|e| Error::new(Kind::Refused, format!("`{name}` is too large: {e}")))?;
        self.out.write_all(&header).map_err(write_failed)?;
        self.entries_left -= 1;
        self.data_left = size;
        self.written += header.len() as u64;
        Ok(())
    }

    /// Writes data of the current entry.
    ///
    /// # Errors
    /// Writing to `out` fails.
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(
            bytes.len() as u64 <= self.data_left,
            "the caller broke its promise"
        );
        self.out.write_all(bytes).map_err(write_failed)?;
        self.data_left -= bytes.len() as u64;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Returns the number of bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Ends the payload. If it is shorter than `padded` bytes, zeros are added up to that
    /// length.
    ///
    /// # Errors
    /// Writing to `out` fails.
    pub fn finish(mut self, padded: u64) -> Result<W> {
        assert!(
            self.data_left == 0 && self.entries_left == 0,
            "the caller broke its promise"
        );
        let zeros = padded.saturating_sub(self.written);
        io::copy(&mut io::Read::take(io::repeat(0), zeros), &mut self.out).map_err(write_failed)?;
        self.out.flush().map_err(write_failed)?;
        Ok(self.out)
    }
}

fn write_failed(e: io::Error) -> Error {
    Error::io("write", e)
}
