//! The two dialects, which differ in the width of the integers.

use std::fmt;
use std::str::FromStr;

/// The width of the three integers. Both dialects have the same magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// 32 bits, as in early images.
    U32,
    /// 64 bits, as in current images.
    #[default]
    U64,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U32 => "u32",
            Self::U64 => "u64",
        })
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "u32" => Ok(Self::U32),
            "u64" => Ok(Self::U64),
            _ => Err("expected u64 or u32".into()),
        }
    }
}
