//! The result of writing a payload.

use crate::format::Dialect;
use crate::payload::Sha256Sum;

/// The result of writing a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The dialect, which is the width of the integers.
    pub dialect: Dialect,
    /// The number of entries, including the embedded checksums.
    pub files: u64,
    /// The length of the payload in bytes.
    pub payload_bytes: u64,
    /// The number of bytes written, including padding or a protection trailer.
    pub image_bytes: u64,
    /// Whether everything was read back and compared.
    pub verified: bool,
    /// The redundancy of the protection trailer in percent, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protect: Option<u32>,
    /// The SHA-256 sum of the payload and its padding, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub sha256: Option<Sha256Sum>,
}

fn as_text<S: serde::Serializer>(
    sum: &Option<Sha256Sum>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match sum {
        Some(sum) => serializer.collect_str(sum),
        None => serializer.serialize_none(),
    }
}
