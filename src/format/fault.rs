//! The faults that an image can have, each with its own message.

use super::dialect::Dialect;
use super::name::{MAX_WALKABLE_NAME_LEN, NameFault};

/// A fault in an image. The caller adds the entry and the offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The first eight bytes are not the magic.
    #[error("not a payload: it starts with \"{}\", expected \"LBPAYLD1\"", .found.escape_ascii())]
    WrongMagic {
        /// The bytes found instead, at most eight.
        found: Vec<u8>,
    },
    /// The image ends inside a header or a name.
    #[error("the {what} is cut off: expected {expected} bytes, found {found}")]
    CutOff {
        /// The header or name that is cut off.
        what: &'static str,
        /// The number of bytes expected.
        expected: u64,
        /// The number of bytes found.
        found: u64,
    },
    /// The header counts more files than the remaining bytes could hold.
    #[error(
        "the header claims {count} files ({dialect}), at most {possible} fit in the {left} bytes after it"
    )]
    CountTooLarge {
        /// The count in the header.
        count: u64,
        /// The dialect that the header was read as.
        dialect: Dialect,
        /// The number of bytes after the header.
        left: u64,
        /// The largest possible count.
        possible: u64,
    },
    /// The length of a name is 0, or greater than any importer accepts.
    #[error("the name length is {found}, expected 1 to {MAX_WALKABLE_NAME_LEN}")]
    NameLength {
        /// The length in the entry header.
        found: u64,
    },
    /// A name that this project does not accept.
    #[error("{0}")]
    Name(#[from] NameFault),
    /// An earlier entry has the same name.
    #[error("entry {first} has the same name")]
    Repeated {
        /// The index of the first entry of that name.
        first: u64,
    },
    /// The data extends past the end of the image or device.
    #[error(
        "{size} bytes of data from offset {data_offset} on would end at {}, the image ends at {source_len}",
        .data_offset.saturating_add(*.size)
    )]
    DataPastEnd {
        /// The size that the entry header claims.
        size: u64,
        /// The offset of the data.
        data_offset: u64,
        /// The length of the source.
        source_len: u64,
    },
    /// The sizes exceed 64 bits when added.
    #[error("the size overflows 64 bits: {size} bytes at offset {data_offset}")]
    Overflow {
        /// The size that the entry header claims.
        size: u64,
        /// The offset of the data.
        data_offset: u64,
    },
}

impl Fault {
    /// Returns a short word for reports that programs read. These words never change.
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

    /// Returns whether the entries after this one can still be read. A bad name affects only
    /// its own entry.
    pub fn is_about_the_name(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Repeated { .. })
    }
}
