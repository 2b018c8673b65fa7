//! What signs the embedded checksums.

use std::fmt;

use crate::error::{Error, Result};

/// Signs the text of the checksums.
type Sign = Box<dyn Fn(&[u8]) -> Result<Vec<u8>> + Send + Sync>;

/// Makes the signature of the embedded checksums. The payload's headers are written before the
/// checksums are known, so the length of the signature is fixed beforehand.
pub struct Signer {
    len: u64,
    sign: Sign,
}

impl Signer {
    /// Creates a signer. `sign` gets the text of the checksums and returns a signature of `len`
    /// bytes in the format of minisign.
    pub fn new(len: u64, sign: impl Fn(&[u8]) -> Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self {
            len,
            sign: Box::new(sign),
        }
    }

    /// Returns the length of the signature in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Signs the text of the checksums.
    pub(super) fn sign(&self, sums: &[u8]) -> Result<Vec<u8>> {
        let signature = (self.sign)(sums)?;
        if signature.len() as u64 != self.len {
            return Err(Error::bug("the signature has another length than planned"));
        }
        Ok(signature)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("len", &self.len).finish()
    }
}
