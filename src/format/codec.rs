//! Converts headers to bytes and back, in both dialects.

use byteorder::{ByteOrder, LittleEndian, WriteBytesExt};

use super::dialect::Dialect;
use super::fault::Fault;
use super::name::{MAX_WALKABLE_NAME_LEN, Name};

/// The first eight bytes of every payload.
pub const MAGIC: &[u8; 8] = b"LBPAYLD1";

/// The length of the longer header, in bytes. This many bytes tell the dialects apart.
pub const MAX_HEADER_LEN: usize = 16;

/// A number that is too large for the u32 dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} does not fit the u32 dialect (at most 4294967295)")]
pub struct DoesNotFit(pub u64);

/// The contents of a payload's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The dialect, which is the width of the integers.
    pub dialect: Dialect,
    /// The number of entries that follow.
    pub files: u64,
}

/// The contents of an entry's header, not checked yet except for the length of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// The length in bytes of the name that follows.
    pub name_len: u64,
    /// The number of bytes of data after the name.
    pub size: u64,
}

impl Dialect {
    /// Returns the number of bytes before the first entry.
    pub fn header_len(self) -> u64 {
        match self {
            Self::U32 => 12,
            Self::U64 => 16,
        }
    }

    /// Returns the number of bytes of an entry before its name.
    pub fn entry_header_len(self) -> u64 {
        match self {
            Self::U32 => 8,
            Self::U64 => 16,
        }
    }

    /// Appends the payload's header.
    ///
    /// # Errors
    /// The count does not fit the dialect.
    pub fn put_header(self, files: u64, out: &mut Vec<u8>) -> Result<(), DoesNotFit> {
        out.extend_from_slice(MAGIC);
        self.put_int(files, out)
    }

    /// Appends an entry's header and name. The data must follow.
    ///
    /// # Errors
    /// The size does not fit the dialect.
    pub fn put_entry(self, name: &Name, size: u64, out: &mut Vec<u8>) -> Result<(), DoesNotFit> {
        self.put_int(name.as_str().len() as u64, out)?;
        self.put_int(size, out)?;
        out.extend_from_slice(name.as_str().as_bytes());
        Ok(())
    }

    fn put_int(self, value: u64, out: &mut Vec<u8>) -> Result<(), DoesNotFit> {
        match self {
            Self::U32 => {
                let narrow = u32::try_from(value).map_err(|_| DoesNotFit(value))?;
                out.write_u32::<LittleEndian>(narrow)
            }
            Self::U64 => out.write_u64::<LittleEndian>(value),
        }
        .unwrap_or_else(|_| unreachable!("a vector takes every byte"));
        Ok(())
    }

    /// Parses an entry's header and checks the length of the name.
    ///
    /// # Errors
    /// `bytes` is too short, or no importer accepts the length of the name.
    pub fn entry_header(self, bytes: &[u8]) -> Result<EntryHeader, Fault> {
        let expected = self.entry_header_len();
        if (bytes.len() as u64) < expected {
            return Err(Fault::CutOff {
                what: "entry header",
                expected,
                found: bytes.len() as u64,
            });
        }
        let (name_len, size) = match self {
            Self::U32 => (
                u64::from(LittleEndian::read_u32(bytes)),
                u64::from(LittleEndian::read_u32(&bytes[4..])),
            ),
            Self::U64 => (
                LittleEndian::read_u64(bytes),
                LittleEndian::read_u64(&bytes[8..]),
            ),
        };
        if name_len == 0 || name_len > MAX_WALKABLE_NAME_LEN {
            return Err(Fault::NameLength { found: name_len });
        }
        Ok(EntryHeader { name_len, size })
    }
}

impl Header {
    /// Parses a payload's header from the first bytes of a source of `source_len` bytes.
    /// `bytes` must hold [`MAX_HEADER_LEN`] bytes, unless the source is shorter.
    ///
    /// # Errors
    /// The magic is different, the header is cut off, or the count is impossible.
    pub fn parse(bytes: &[u8], source_len: u64) -> Result<Self, Fault> {
        let header = Self::parse_whatever_its_count(bytes)?;
        header.check_count(source_len)?;
        Ok(header)
    }

    /// Does the same as [`Header::parse`], but accepts any count. A source that was cut off
    /// holds fewer files than its header claims.
    ///
    /// Bytes 12 to 16 are the upper half of the count in a u64 image. In a u32 image they are
    /// the length of the first name, which is never 0. If only the lower half of the count is
    /// 0, it is a u64 count that is too large: read as a u32 payload without files, a damaged
    /// image would seem intact.
    ///
    /// # Errors
    /// The magic is different, or the header is cut off.
    pub fn parse_whatever_its_count(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() < MAGIC.len() || &bytes[..MAGIC.len()] != MAGIC {
            let found = bytes[..bytes.len().min(MAGIC.len())].to_vec();
            return Err(Fault::WrongMagic { found });
        }
        let cut_off = |expected: u64| Fault::CutOff {
            what: "payload header",
            expected,
            found: bytes.len() as u64,
        };
        if bytes.len() < 12 {
            return Err(cut_off(12));
        }
        let narrow = u64::from(LittleEndian::read_u32(&bytes[8..]));
        if bytes.len() < MAX_HEADER_LEN {
            // Too short for a u64 header, but long enough for a u32 header with nothing
            // after it.
            if narrow != 0 {
                return Err(cut_off(16));
            }
            return Ok(Self {
                dialect: Dialect::U32,
                files: 0,
            });
        }
        if narrow != 0 && bytes[12..16] != [0; 4] {
            return Ok(Self {
                dialect: Dialect::U32,
                files: narrow,
            });
        }
        Ok(Self {
            dialect: Dialect::U64,
            files: LittleEndian::read_u64(&bytes[8..]),
        })
    }

    /// Checks whether a source of `source_len` bytes could hold that many files.
    ///
    /// # Errors
    /// [`Fault::CountTooLarge`] if it could not.
    pub fn check_count(&self, source_len: u64) -> Result<(), Fault> {
        let left = source_len.saturating_sub(self.dialect.header_len());
        let possible = left / (self.dialect.entry_header_len() + 1);
        if self.files > possible {
            return Err(Fault::CountTooLarge {
                count: self.files,
                dialect: self.dialect,
                left,
                possible,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(dialect: Dialect, files: &[(&str, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        dialect.put_header(files.len() as u64, &mut out).unwrap();
        for (name, size) in files {
            let name = Name::new(name.as_bytes()).unwrap();
            dialect.put_entry(&name, *size, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn the_layout_is_the_one_of_the_specification() {
        assert_eq!(
            bytes(Dialect::U64, &[("ab", 3)]),
            b"LBPAYLD1\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0ab"
        );
        assert_eq!(
            bytes(Dialect::U32, &[("ab", 3)]),
            b"LBPAYLD1\x01\0\0\0\x02\0\0\0\x03\0\0\0ab"
        );
    }

    #[test]
    fn both_dialects_are_told_apart() {
        for dialect in [Dialect::U32, Dialect::U64] {
            let image = bytes(dialect, &[("name", 1), ("other", 2)]);
            let header = Header::parse(&image, image.len() as u64).unwrap();
            assert_eq!(header, Header { dialect, files: 2 });
            let at = dialect.header_len() as usize;
            let entry = dialect.entry_header(&image[at..]).unwrap();
            assert_eq!(
                entry,
                EntryHeader {
                    name_len: 4,
                    size: 1
                }
            );
        }
    }

    #[test]
    fn a_payload_without_entries_is_read_in_both_dialects() {
        let narrow = bytes(Dialect::U32, &[]);
        assert_eq!(Header::parse(&narrow, 12).unwrap().files, 0);
        let on_a_disk = [&narrow[..], &[0; 4]].concat();
        assert_eq!(Header::parse(&on_a_disk, 512).unwrap().files, 0);
        let wide = bytes(Dialect::U64, &[]);
        assert_eq!(Header::parse(&wide, 16).unwrap().files, 0);
    }

    #[test]
    fn a_count_whose_lower_half_is_zero_is_a_u64_count_that_is_too_large() {
        for upper in [1_u32, 4, 0x0100_0000, u32::MAX] {
            let mut image = bytes(Dialect::U64, &[("name", 0)]);
            image[8..12].fill(0);
            image[12..16].copy_from_slice(&upper.to_le_bytes());
            let fault = Header::parse(&image, image.len() as u64).unwrap_err();
            assert_eq!(fault.slug(), "count-too-large", "{upper}");
            let header = Header::parse_whatever_its_count(&image).unwrap();
            let (dialect, files) = (Dialect::U64, u64::from(upper) << 32);
            assert_eq!(header, Header { dialect, files });
        }
    }

    #[test]
    fn a_count_that_the_bytes_left_cannot_hold_is_refused() {
        let mut image = Vec::new();
        Dialect::U64.put_header(3, &mut image).unwrap();
        assert!(Header::parse(&image, 16 + 3 * 17).is_ok());
        assert_eq!(
            Header::parse(&image, 16 + 3 * 17 - 1),
            Err(Fault::CountTooLarge {
                count: 3,
                dialect: Dialect::U64,
                left: 50,
                possible: 2
            })
        );
    }

    #[test]
    fn numbers_that_do_not_fit_the_u32_dialect_are_refused() {
        let name = Name::new(b"big").unwrap();
        let size = u64::from(u32::MAX) + 1;
        let mut out = Vec::new();
        assert_eq!(
            Dialect::U32.put_entry(&name, size, &mut out),
            Err(DoesNotFit(size))
        );
        assert!(Dialect::U64.put_entry(&name, size, &mut out).is_ok());
    }

    #[test]
    fn short_headers_are_reported_as_cut_off() {
        let image = bytes(Dialect::U64, &[("ab", 3)]);
        for len in 0..16 {
            let fault = Header::parse(&image[..len], len as u64).unwrap_err();
            let slug = if len < 8 { "wrong-magic" } else { "cut-off" };
            assert_eq!(fault.slug(), slug, "{len} bytes");
        }
        for len in 0..16 {
            let fault = Dialect::U64.entry_header(&image[16..16 + len]).unwrap_err();
            assert_eq!(fault.slug(), "cut-off");
        }
    }
}
