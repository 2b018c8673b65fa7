//! Decompresses gzip, xz and zstd streams with bounded memory.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// The memory limit for the dictionary of an xz stream, in KiB. `xz -9` needs 64 MiB.
const XZ_MEMORY: u32 = 66 * 1024;

/// A zstd frame without content.
const EMPTY_FRAME: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0, 0, 1, 0, 0];

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// The formats that modules are compressed with, by the end of the file name.
    pub(super) const SUFFIXES: [(&'static str, Self); 3] =
        [(".gz", Self::Gzip), (".xz", Self::Xz), (".zst", Self::Zstd)];

    /// Returns the format of a stream that starts with `bytes`.
    pub(super) fn detect(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Returns a reader of the decompressed stream. It ends with the stream, and checks the
    /// stream's checksum at the end. The position of `source` is then behind the stream.
    pub(super) fn decode<'a>(self, source: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(GzDecoder::new(source)),
            Self::Xz => Box::new(XzReader::new_mem_limit(source, false, XZ_MEMORY)),
            Self::Zstd => Box::new(Zstd::new(source)?),
        })
    }
}

/// Returns a name without the suffix of a compressed file, and the compression.
pub(super) fn split_suffix(name: &str) -> (&str, Option<Compression>) {
    let of = |(suffix, compression)| Some((name.strip_suffix(suffix)?, Some(compression)));
    let found = Compression::SUFFIXES.into_iter().find_map(of);
    found.unwrap_or((name, None))
}

/// A reader of one zstd frame. `StreamingDecoder` does not compare the checksum.
struct Zstd<R: Read>(StreamingDecoder<R, FrameDecoder>);

impl<R: Read> Zstd<R> {
    fn new(source: R) -> io::Result<Self> {
        let mut decoder = FrameDecoder::new();
        // The decoder limits the window (to 100 MiB) only from the second frame on.
        decoder.init(&EMPTY_FRAME[..]).map_err(damaged)?;
        let decoder = StreamingDecoder::new_with_decoder(source, decoder).map_err(damaged)?;
        Ok(Self(decoder))
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        let (wanted, found) = (
            self.0.decoder.get_checksum_from_data(),
            self.0.decoder.get_calculated_checksum(),
        );
        if n == 0 && !buf.is_empty() && wanted.is_some() && wanted != found {
            return Err(damaged("the checksum of the zstd frame is wrong"));
        }
        Ok(n)
    }
}

fn damaged(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A reader that fails when more than a limit was read.
pub(super) struct Limited<R> {
    source: R,
    left: u64,
}

impl<R: Read> Limited<R> {
    pub(super) fn new(source: R, limit: u64) -> Self {
        Self {
            source,
            left: limit,
        }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            let kind = io::ErrorKind::Unsupported;
            io::Error::new(kind, "it is larger than lbpayload reads")
        })?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promote::coherence::samples::compress;

    fn all() -> [(Compression, &'static str, &'static [&'static str]); 3] {
        [
            (Compression::Gzip, "gzip", &["-n"]),
            // As the kernel's build compresses modules.
            (
                Compression::Xz,
                "xz",
                &["--check=crc32", "--lzma2=dict=64KiB"],
            ),
            (Compression::Zstd, "zstd", &["-q"]),
        ]
    }

    fn read(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let decoder = compression.decode(bytes)?;
        Limited::new(decoder, 1 << 20).read_to_end(&mut out)?;
        Ok(out)
    }

    fn text() -> Vec<u8> {
        (0..3000_u32)
            .flat_map(|n| format!("{}", n * n).into_bytes())
            .collect()
    }

    #[test]
    fn every_format_is_detected_and_read_and_what_follows_is_left() {
        for (compression, program, args) in all() {
            let packed = compress(program, args, &text());
            assert_eq!(Compression::detect(&packed), Some(compression));
            assert_eq!(read(compression, &packed).unwrap(), text());
            let more = [&packed[..], b"next"].concat();
            let mut source = &more[..];
            let mut out = Vec::new();
            let mut decoder = compression.decode(&mut source).unwrap();
            decoder.read_to_end(&mut out).unwrap();
            drop(decoder);
            assert_eq!((out, source), (text(), &b"next"[..]), "{program}");
        }
        assert_eq!(Compression::detect(b"0707"), None);
        assert_eq!(split_suffix("a.ko.xz"), ("a.ko", Some(Compression::Xz)));
        assert_eq!(split_suffix("a.ko"), ("a.ko", None));
    }

    #[test]
    fn a_stream_that_is_cut_off_anywhere_is_an_error() {
        for (compression, program, args) in all() {
            let packed = compress(program, args, &text()[..600]);
            for end in 0..packed.len() {
                let read = read(compression, &packed[..end]);
                assert!(read.is_err(), "{program} cut off at {end}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_never_gives_other_bytes() {
        for (compression, program, args) in all() {
            let packed = compress(program, args, &text()[..600]);
            for at in 0..packed.len() * 8 {
                let mut bytes = packed.clone();
                bytes[at / 8] ^= 1 << (at % 8);
                if let Ok(out) = read(compression, &bytes) {
                    // Some bits have no meaning, such as the file system in gzip's header. The
                    // flag for a checksum in zstd's header only removes the check.
                    assert_eq!(out, text()[..600], "{program}, bit {at}");
                }
            }
        }
    }

    #[test]
    fn a_claimed_window_or_dictionary_is_not_allocated() {
        // A window of 3.75 TiB, and a frame of one segment with 2^56 bytes.
        for header in [
            &[0x28, 0xb5, 0x2f, 0xfd, 0, 0xff][..],
            &[0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 1],
        ] {
            // A block that repeats one byte 128 KiB long.
            let block = [2, 0, 0x10, 0];
            let bytes = [header, &block.repeat(10_000)].concat();
            assert!(Compression::Zstd.decode(&bytes[..]).is_err());
        }
        let bomb = compress("gzip", &["-n"], &vec![0; 2 << 20]);
        let error = read(Compression::Gzip, &bomb).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
