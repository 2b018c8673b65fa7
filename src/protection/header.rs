//! The header of a trailer as bytes. Nothing in it is believed before it has been checked.

use byteorder::{ByteOrder, LittleEndian};

use super::geometry::{BLOCK, Geometry, Shape, Stripes};

/// The first bytes of each copy of the header.
pub const MAGIC: [u8; 8] = *b"LBPROTC1";
const VERSION: u32 = 1;
/// The flag of a trailer whose writer has not finished.
const INCOMPLETE: u32 = 1;
/// Where the hash of the header starts.
const HASH_AT: usize = BLOCK as usize - 32;

/// The header of a trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(super) geometry: Geometry,
    /// The BLAKE3 hash of the payload.
    pub root: [u8; 32],
    /// The BLAKE3 hash of the copy of the headers.
    pub(super) headers_hash: [u8; 32],
    /// The length of the file before the trailer was added, or 0.
    pub former_len: u64,
    /// Whether the writer of the trailer has not finished.
    pub incomplete: bool,
}

/// Why bytes are no header that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The magic is missing.
    #[error("there is no protection trailer")]
    NoMagic,
    /// The hash is wrong.
    #[error("its header is damaged")]
    Damaged,
    /// The version is not known.
    #[error("its version is {0}, expected {VERSION}")]
    Version(u32),
    /// A flag is not known.
    #[error("its flags are {0:#x}, which this version does not know")]
    Flags(u32),
    /// The numbers do not fit together.
    #[error("its header is invalid: the numbers do not fit together")]
    Numbers,
}

impl Header {
    /// Returns the layout of the trailer.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Returns the header as the bytes of one block.
    pub fn encode(&self) -> [u8; BLOCK as usize] {
        let g = &self.geometry;
        let mut out = [0; BLOCK as usize];
        out[..8].copy_from_slice(&MAGIC);
        put32(&mut out, 8, VERSION);
        put32(&mut out, 12, u32::from(self.incomplete) * INCOMPLETE);
        put64(&mut out, 16, g.shape.payload_len);
        out[24..56].copy_from_slice(&self.root);
        put64(&mut out, 56, g.shape.region_blocks);
        put32(&mut out, 64, g.shape.full.stripes);
        put32(&mut out, 68, g.shape.full.recovery);
        put32(&mut out, 72, g.shape.last.stripes);
        put32(&mut out, 76, g.shape.last.recovery);
        put32(&mut out, 80, g.shape.percent);
        put64(&mut out, 88, g.shape.headers_len);
        out[96..128].copy_from_slice(&self.headers_hash);
        for (n, value) in places(g).into_iter().enumerate() {
            put64(&mut out, 128 + 8 * n, value);
        }
        put64(&mut out, 192, self.former_len);
        let hash = blake3::hash(&out[..HASH_AT]);
        out[HASH_AT..].copy_from_slice(hash.as_bytes());
        out
    }

    /// Parses the bytes of one block.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderFault> {
        if bytes.len() < BLOCK as usize || bytes[..8] != MAGIC {
            return Err(HeaderFault::NoMagic);
        }
        let bytes = &bytes[..BLOCK as usize];
        if blake3::hash(&bytes[..HASH_AT]).as_bytes()[..] != bytes[HASH_AT..] {
            return Err(HeaderFault::Damaged);
        }
        let version = get32(bytes, 8);
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        let flags = get32(bytes, 12);
        if flags & !INCOMPLETE != 0 {
            return Err(HeaderFault::Flags(flags));
        }
        let stripes = |at| Stripes {
            stripes: get32(bytes, at),
            recovery: get32(bytes, at + 4),
        };
        let geometry = Geometry::of(Shape {
            payload_len: get64(bytes, 16),
            headers_len: get64(bytes, 88),
            percent: get32(bytes, 80),
            region_blocks: get64(bytes, 56),
            full: stripes(64),
            last: stripes(72),
        })
        .ok_or(HeaderFault::Numbers)?;
        let given = (0..8).map(|n| get64(bytes, 128 + 8 * n));
        if !given.eq(places(&geometry)) {
            return Err(HeaderFault::Numbers);
        }
        Ok(Self {
            geometry,
            root: hash_at(bytes, 24),
            headers_hash: hash_at(bytes, 96),
            former_len: get64(bytes, 192),
            incomplete: flags & INCOMPLETE != 0,
        })
    }
}

/// The places and lengths of the parts, in the order of the header.
fn places(g: &Geometry) -> [u64; 8] {
    [
        g.meta[0],
        g.meta_len,
        g.tree_len,
        g.hashes_len,
        g.recovery_at,
        g.recovery_len,
        g.meta[1],
        g.header2,
    ]
}

fn put32(out: &mut [u8], at: usize, value: u32) {
    LittleEndian::write_u32(&mut out[at..at + 4], value);
}

fn put64(out: &mut [u8], at: usize, value: u64) {
    LittleEndian::write_u64(&mut out[at..at + 8], value);
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    LittleEndian::read_u32(&bytes[at..at + 4])
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    LittleEndian::read_u64(&bytes[at..at + 8])
}

fn hash_at(bytes: &[u8], at: usize) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes[at..at + 32]);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            geometry: Geometry::plan(5_000_000, 99, 5).unwrap(),
            root: [7; 32],
            headers_hash: [9; 32],
            former_len: 5_000_001,
            incomplete: false,
        }
    }

    /// Sets bytes, and makes the hash right again, as an attacker would.
    fn forged(at: usize, bytes: &[u8]) -> Result<Header, HeaderFault> {
        let mut block = header().encode();
        block[at..at + bytes.len()].copy_from_slice(bytes);
        let hash = blake3::hash(&block[..HASH_AT]);
        block[HASH_AT..].copy_from_slice(hash.as_bytes());
        Header::parse(&block)
    }

    #[test]
    fn a_header_is_read_back_as_written() {
        let mut header = header();
        assert_eq!(Header::parse(&header.encode()), Ok(header.clone()));
        header.incomplete = true;
        assert_eq!(Header::parse(&header.encode()), Ok(header));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = header().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit {
                0..64 => HeaderFault::NoMagic,
                _ => HeaderFault::Damaged,
            };
            assert_eq!(Header::parse(&bad), Err(expected), "bit {bit}");
        }
        assert_eq!(Header::parse(&good[..4095]), Err(HeaderFault::NoMagic));
    }

    #[test]
    fn a_forged_header_is_refused_unless_everything_is_where_it_was() {
        let layout = |header: Header| {
            let geometry = header.geometry;
            (
                geometry.second_copy(),
                geometry.second_header(),
                geometry.end(),
            )
        };
        assert_eq!(forged(8, &[2]), Err(HeaderFault::Version(2)));
        assert_eq!(forged(12, &[4]), Err(HeaderFault::Flags(4)));
        let mut refused = 0;
        for at in (16..24)
            .chain(56..64)
            .chain(72..84)
            .chain(88..96)
            .chain(128..192)
        {
            for value in [0xff, 0x7f, 3] {
                match forged(at, &[value]) {
                    Err(fault) => {
                        assert_eq!(fault, HeaderFault::Numbers, "{at} {value}");
                        refused += 1;
                    }
                    Ok(header) => {
                        assert_eq!(layout(header), layout(self::header()), "{at} {value}")
                    }
                }
            }
        }
        assert!(refused > 250, "{refused}");
        // Zeros that a later version may use do not matter.
        assert!(forged(200, &[1]).is_ok());
    }
}
