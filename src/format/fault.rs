//! What can be wrong with an image, each with its own message.

use super::dialect::Dialect;
use super::name::{MAX_WALKABLE_NAME_LEN, NameFault};

/// A fault in an image. The caller adds the entry and the offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The first eight bytes are others.
    #[error("not a payload: expected the magic \"LBPAYLD1\", found \"{}\"", .found.escape_ascii())]
    WrongMagic {
        /// What stands there, eight bytes at most.
        found: Vec<u8>,
    },
    /// The image ends inside a header or a name.
    #[error("the {what} is cut off: expected {expected} bytes, found {found}")]
    CutOff {
        /// Which header.
        what: &'static str,
        /// Bytes that it takes.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// More files than the bytes left could hold.
    #[error(
        "the header counts {count} files ({dialect}), and the {left} bytes that follow hold {possible} at most"
    )]
    CountTooLarge {
        /// What the header says.
        count: u64,
        /// As which dialect it was read.
        dialect: Dialect,
        /// Bytes behind the header.
        left: u64,
        /// The largest count that could be true.
        possible: u64,
    },
    /// A name length of 0, or above what any importer takes.
    #[error("the name length is {found}, expected 1 to {MAX_WALKABLE_NAME_LEN}")]
    NameLength {
        /// What the entry header says.
        found: u64,
    },
    /// A name that this project does not accept.
    #[error("{0}")]
    Name(#[from] NameFault),
    /// A name that an earlier entry has already.
    #[error("the name stands twice, first at entry {first}")]
    Repeated {
        /// The index of the first entry of that name.
        first: u64,
    },
    /// The data runs past the end of the image or device.
    #[error(
        "the data runs past the end: {size} bytes from offset {data_offset} end at {}, the source ends at {source_len}",
        .data_offset.saturating_add(*.size)
    )]
    DataPastEnd {
        /// The size that the entry header claims.
        size: u64,
        /// Where the data starts.
        data_offset: u64,
        /// Where the source ends.
        source_len: u64,
    },
    /// Sizes that do not fit 64 bits when added.
    #[error("the sizes overflow 64 bits: {size} bytes from offset {data_offset}")]
    Overflow {
        /// The size that the entry header claims.
        size: u64,
        /// Where the data starts.
        data_offset: u64,
    },
}

impl Fault {
    /// A word for reports that programs read; never renamed.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::WrongMagic { .. } => "wrong-magic",
            Self::CutOff { .. } => "cut-off",
            Self::CountTooLarge { .. } => "count-too-large",
            Self::NameLength { .. } => "name-length",
            Self::Name(NameFault::NotUtf8(_)) => "name-not-utf8",
            Self::Name(_) => "name-refused",
            Self::Repeated { .. } => "name-repeated",
            Self::DataPastEnd { .. } => "data-past-end",
            Self::Overflow { .. } => "size-overflow",
        }
    }

    /// Whether what follows can still be walked: a bad name is in the way of
    /// nothing but itself.
    pub fn is_about_the_name(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Repeated { .. })
    }
}
