//! Reads an initramfs from its beginning to its end, without unpacking it to disk.
//!
//! An initramfs is a row of segments with zero bytes between them. A segment is a cpio archive,
//! or a compressed stream of cpio archives. Often the first segment is an uncompressed archive
//! with files that the kernel needs early.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use super::compression::{Compression, Limited};
use super::cpio::{Archive, Entry};

/// The size in bytes of the largest initramfs that is read, decompressed. It must fit the memory
/// of the device.
const MAX_UNPACKED: u64 = 4 << 30;

/// The most entries of an initramfs that are read.
const MAX_ENTRIES: u64 = 1_000_000;

/// The number of bytes that are read at a time.
const PIECE: usize = 64 * 1024;

/// Gets each entry, and a reader of its data.
pub(crate) type Visit<'a> = dyn FnMut(&Entry, &mut dyn Read) -> io::Result<()> + 'a;

/// Calls `visit` for each entry of all archives, in order. A later entry replaces an earlier one
/// of the same name when the kernel unpacks the initramfs.
///
/// # Errors
/// InvalidData or UnexpectedEof if it is damaged, Unsupported if it is compressed in another
/// format or is too large, and the errors of `source` and of `visit`.
pub(crate) fn walk(source: impl Read, visit: &mut Visit<'_>) -> io::Result<()> {
    let mut source = BufReader::with_capacity(PIECE, source);
    let mut left = MAX_ENTRIES;
    while let Some(start) = skip_zeros(&mut source)? {
        let segment = Cursor::new(&start[..]).chain(&mut source);
        match Compression::detect(&start) {
            Some(compression) => {
                let unpacked = Limited::new(compression.decode(segment)?, MAX_UNPACKED);
                let mut unpacked = BufReader::with_capacity(PIECE, unpacked);
                while let Some(start) = skip_zeros(&mut unpacked)? {
                    let archive = Cursor::new(&start[..]).chain(&mut unpacked);
                    walk_archive(archive, visit, &mut left)?;
                }
            }
            None if start.starts_with(b"0707") => walk_archive(segment, visit, &mut left)?,
            None => return Err(unknown(&start)),
        }
    }
    match left {
        MAX_ENTRIES => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
        _ => Ok(()),
    }
}

fn walk_archive(source: impl Read, visit: &mut Visit<'_>, left: &mut u64) -> io::Result<()> {
    let mut archive = Archive::new(source);
    while let Some(entry) = archive.next()? {
        *left = left.checked_sub(1).ok_or_else(|| {
            let kind = io::ErrorKind::Unsupported;
            io::Error::new(kind, "it has more than 1,000,000 entries")
        })?;
        visit(&entry, &mut archive)?;
    }
    Ok(())
}

/// Skips zero bytes, and returns up to six bytes that follow. `None` means that there are none.
fn skip_zeros(source: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    loop {
        let bytes = match source.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let (is_end, is_start) = (bytes.is_empty(), zeros < bytes.len());
        source.consume(zeros);
        if is_end {
            return Ok(None);
        }
        if is_start {
            let mut start = Vec::new();
            source.by_ref().take(6).read_to_end(&mut start)?;
            return Ok(Some(start));
        }
    }
}

fn unknown(start: &[u8]) -> io::Error {
    let format = match start {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x89, b'L', b'Z', b'O', ..] => "lzo",
        [0x5d, 0, 0, ..] => "lzma",
        _ => {
            let message = "it has bytes that are neither a cpio archive nor compressed";
            return io::Error::new(io::ErrorKind::InvalidData, message);
        }
    };
    let message = format!("it is compressed with {format}, which lbpayload does not read");
    io::Error::new(io::ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promote::coherence::samples::{archive, compress};

    fn names(bytes: &[u8]) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        walk(bytes, &mut |entry, data| {
            let mut text = String::from_utf8_lossy(&entry.name).into_owned();
            text.push('=');
            data.read_to_string(&mut text)?;
            names.push(text);
            Ok(())
        })?;
        Ok(names)
    }

    #[test]
    fn segments_of_every_kind_are_read_in_order() {
        let early = archive(&[("early", b"1")]);
        let main = archive(&[("main", b"2"), ("more", b"")]);
        let padding = vec![0; 700];
        for (program, args) in [("gzip", "-n"), ("zstd", "-q"), ("xz", "-0")] {
            let packed = compress(program, &[args], &[&main[..], &padding, &early].concat());
            let bytes = [&early[..], &padding, &packed, &packed, &padding].concat();
            let packed = ["main=2", "more=", "early=1"];
            let wanted = [&["early=1"][..], &packed, &packed].concat();
            assert_eq!(names(&bytes).unwrap(), wanted, "{program}");
        }
    }

    #[test]
    fn an_initramfs_that_is_cut_off_anywhere_is_an_error() {
        let early = archive(&[("early", b"1")]);
        let packed = compress("gzip", &["-n"], &archive(&[("a", b"23")]));
        let bytes = [&early[..], &packed].concat();
        assert!(names(&bytes).is_ok());
        for end in 0..bytes.len() {
            // What is left is a whole archive.
            let whole = end == early.len();
            assert_eq!(names(&bytes[..end]).is_ok(), whole, "{end}");
        }
    }

    #[test]
    fn a_flipped_bit_neither_panics_nor_hangs() {
        let bytes = [
            archive(&[("early", b"1")]),
            compress("zstd", &["-q"], &archive(&[("a", b"23")])),
        ]
        .concat();
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            let _ = names(&bytes);
        }
    }

    #[test]
    fn bytes_behind_an_archive_in_a_compressed_stream_are_damage() {
        let bytes = [&archive(&[("a", b"1")])[..], b"rest"].concat();
        let error = names(&compress("gzip", &["-n"], &bytes)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let bytes = [&archive(&[("a", b"1")])[..], &[b'x'; 200]].concat();
        let error = names(&compress("gzip", &["-n"], &bytes)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn other_formats_are_named_and_other_bytes_are_damage() {
        for (bytes, kind, what) in [
            (
                &b"\x02\x21\x4c\x18xxxx"[..],
                io::ErrorKind::Unsupported,
                "lz4",
            ),
            (b"old initrd", io::ErrorKind::InvalidData, "neither"),
            (b"07", io::ErrorKind::InvalidData, "neither"),
            (b"", io::ErrorKind::InvalidData, "empty"),
            (b"\0\0\0", io::ErrorKind::InvalidData, "empty"),
        ] {
            let error = names(bytes).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
