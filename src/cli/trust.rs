//! The public keys of those who may sign a payload.

use clap::Args;

use crate::error::{Error, Kind, Result};
use crate::payload::TrustedKeys;

/// The keys if none is named on the command line, separated by colons.
const VARIABLE: &str = "LBPAYLOAD_TRUST";

/// The options about signatures. All commands that give out what a payload holds have them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub(super) struct TrustArgs {
    /// Refuse a payload that is not signed by this public key of minisign: a file, or the key
    /// itself (can be repeated; default: LBPAYLOAD_TRUST, separated by colons)
    #[arg(long, value_name = "PUBLICKEY")]
    pub trust: Vec<String>,
}

impl TrustArgs {
    /// Returns the keys. There are none if nobody asked for a signature.
    ///
    /// # Errors
    /// A key cannot be read, or the variable is not UTF-8.
    pub(super) fn keys(&self) -> Result<TrustedKeys> {
        let mut keys = TrustedKeys::default();
        for key in &self.trust {
            keys.add(key)?;
        }
        if !keys.is_empty() {
            return Ok(keys);
        }
        let Some(variable) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
            return Ok(keys);
        };
        let text = variable.to_str().ok_or_else(|| {
            Error::new(Kind::Usage, format!("the variable {VARIABLE} is not UTF-8"))
        })?;
        for key in text.split(':').filter(|key| !key.is_empty()) {
            keys.add(key)?;
        }
        if keys.is_empty() {
            let message = format!("the variable {VARIABLE} names no key");
            return Err(Error::new(Kind::Usage, message).advice("unset it, or name a key"));
        }
        Ok(keys)
    }
}
