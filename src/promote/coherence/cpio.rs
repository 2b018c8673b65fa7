//! Reads a cpio archive of the "newc" format, as an initramfs contains it.
//!
//! The format is described in the kernel's documentation, "initramfs buffer format". Names and
//! data are padded to 4 bytes. An entry with the name `TRAILER!!!` ends the archive.

use std::io::{self, Read};

/// The length of a header in bytes: the magic and 13 numbers of 8 hexadecimal digits.
const HEADER: usize = 110;

/// The length of the longest name with its zero byte, the kernel's PATH_MAX.
const MAX_NAME: u32 = 4096;

const TRAILER: &[u8] = b"TRAILER!!!";

/// A file, directory, symlink or device in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    mode: u32,
    links: u32,
    pub(super) size: u32,
}

impl Entry {
    /// Returns whether it is a regular file.
    pub(super) fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Returns whether its data belongs to another entry, because both are the same file.
    pub(super) fn is_hard_link(&self) -> bool {
        self.is_file() && self.links > 1 && self.size == 0
    }
}

/// An archive that is read from its start. As a reader, it returns the data of the entry that
/// [`Archive::next`] returned last.
#[derive(Debug)]
pub(super) struct Archive<R> {
    source: R,
    /// The position in bytes.
    at: u64,
    /// The data of the current entry that has not been read.
    left: u32,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            at: 0,
            left: 0,
        }
    }

    /// Skips the rest of the current entry, and returns the next one. `None` means that the
    /// archive has ended.
    ///
    /// # Errors
    /// InvalidData or UnexpectedEof if the archive is damaged, and the errors of the source.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        io::copy(self, &mut io::sink())?;
        self.align()?;
        let start = self.at;
        let mut header = [0; HEADER];
        self.fill(&mut header)?;
        if !matches!(&header[..6], b"070701" | b"070702") {
            return Err(damaged("there is no cpio header", start));
        }
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(header[6..].chunks_exact(8)) {
            *field = hexadecimal(digits)
                .ok_or_else(|| damaged("a cpio header has a wrong digit", start))?;
        }
        let [_, mode, _, _, links, _, size, .., name_size, _] = fields;
        if !(1..=MAX_NAME).contains(&name_size) {
            return Err(damaged("a name in the cpio archive is too long", start));
        }
        let mut name = vec![0; name_size as usize];
        self.fill(&mut name)?;
        if name.pop() != Some(0) || name.contains(&0) {
            return Err(damaged("a name in the cpio archive does not end", start));
        }
        self.align()?;
        if name == TRAILER {
            return Ok(None);
        }
        self.left = size;
        Ok(Some(Entry {
            name,
            mode,
            links,
            size,
        }))
    }

    fn align(&mut self) -> io::Result<()> {
        let padding = (4 - self.at % 4) % 4;
        self.fill(&mut [0; 4][..padding as usize])
    }

    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.source.read_exact(buf).map_err(cut_off)?;
        self.at += buf.len() as u64;
        Ok(())
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf.len().min(self.left as usize);
        if most == 0 {
            return Ok(0);
        }
        let n = self.source.read(&mut buf[..most])?;
        if n == 0 {
            return Err(cut_off(io::ErrorKind::UnexpectedEof.into()));
        }
        self.at += n as u64;
        self.left -= u32::try_from(n).unwrap_or(self.left);
        Ok(n)
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    digits
        .iter()
        .try_fold(0, |number, byte| Some(number << 4 | digit(byte)?))
}

fn damaged(what: &str, at: u64) -> io::Error {
    let message = format!("{what} at byte {at} of the archive");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn cut_off(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::UnexpectedEof => io::Error::new(kind, "it is cut off"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promote::coherence::samples::{add, archive};

    fn read(bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut archive = Archive::new(bytes);
        let mut files = Vec::new();
        while let Some(entry) = archive.next()? {
            let mut data = Vec::new();
            archive.read_to_end(&mut data)?;
            assert_eq!(data.len(), entry.size as usize);
            files.push((String::from_utf8_lossy(&entry.name).into_owned(), data));
        }
        Ok(files)
    }

    const FILES: [(&str, &[u8]); 3] = [("a", b""), ("lib/b", b"12345"), ("cde", b"1234")];

    #[test]
    fn entries_are_returned_in_order_with_their_data() {
        let files = read(&archive(&FILES)).unwrap();
        let wanted = FILES.map(|(name, data)| (name.to_owned(), data.to_vec()));
        assert_eq!(files, wanted);
        let bytes = archive(&FILES);
        let mut archive = Archive::new(&bytes[..]);
        // Data that is not read is skipped.
        assert_eq!(archive.next().unwrap().unwrap().name, b"a");
        assert_eq!(archive.next().unwrap().unwrap().name, b"lib/b");
        assert_eq!(archive.next().unwrap().unwrap().name, b"cde");
        assert_eq!(archive.next().unwrap(), None);
    }

    #[test]
    fn an_archive_that_is_cut_off_anywhere_is_an_error() {
        let bytes = archive(&FILES);
        for end in 0..bytes.len() {
            let error = read(&bytes[..end]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
    }

    #[test]
    fn a_flipped_bit_neither_panics_nor_allocates_what_it_claims() {
        let bytes = archive(&FILES);
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            let _ = read(&bytes);
        }
    }

    #[test]
    fn sizes_names_and_digits_that_cannot_be_are_refused() {
        let bytes = archive(&[("abc", b"12345")]);
        let with = |at: usize, digits: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + digits.len()].copy_from_slice(digits);
            read(&bytes).unwrap_err().to_string()
        };
        assert_eq!(
            with(0, b"070707"),
            "there is no cpio header at byte 0 of the archive"
        );
        assert!(with(54, b"ffffffff").contains("cut off"));
        assert!(with(54, b"0000000g").contains("digit"));
        assert!(with(94, b"ffffffff").contains("too long"));
        assert!(with(94, b"00000000").contains("too long"));
        assert!(with(94, b"00000003").contains("does not end"));
        assert!(with(111, b"\0").contains("does not end"));
    }

    #[test]
    fn hard_links_are_recognized() {
        let mut bytes = Vec::new();
        add(&mut bytes, "a", 0o100_644, 2, b"");
        add(&mut bytes, "d", 0o040_755, 2, b"");
        let mut archive = Archive::new(&bytes[..]);
        assert!(archive.next().unwrap().unwrap().is_hard_link());
        assert!(!archive.next().unwrap().unwrap().is_hard_link());
    }
}
