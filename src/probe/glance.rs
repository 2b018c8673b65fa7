//! A short look at a device, for udev: it runs for every device that appears, and must be quick.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::block::{DirectPolicy, FileSource};
use crate::error::Result;
use crate::format::{Dialect, Fault};
use crate::payload::{Cause, Payload, Sha256Sum};

/// The number of headers that are read at most.
const HEADERS: usize = 16;

/// What the first headers of a payload tell.
#[derive(Debug, PartialEq, Eq)]
pub struct Glance {
    /// The dialect, which is the width of the integers.
    pub dialect: Dialect,
    /// The number of files.
    pub files: u64,
    /// 16 hexadecimal digits that depend on the number of files and on the names and sizes of the
    /// first ones. Copies of a payload have the same.
    pub id: String,
}

/// Reads the first headers of the payload at `path`. Returns `None` if there is none.
///
/// # Errors
/// The device cannot be read, or the first headers are broken.
pub fn glance(path: &Path) -> Result<Option<Glance>> {
    let source = Arc::new(FileSource::open(path, DirectPolicy::Auto)?);
    let payload = match Payload::try_open(source.clone()) {
        Ok(payload) => payload,
        Err(problem) => {
            return match problem.cause {
                Cause::Fault(Fault::WrongMagic { .. }) => Ok(None),
                _ => Err(problem.into_error(&*source)),
            };
        }
    };
    let mut hasher = Sha256::new();
    hasher.update(payload.dialect().to_string());
    hasher.update(payload.claimed_files().to_le_bytes());
    for entry in payload.walk()?.take(HEADERS) {
        let entry = entry.map_err(|problem| problem.into_error(&*source))?;
        hasher.update((entry.raw_name.len() as u64).to_le_bytes());
        hasher.update(&entry.raw_name);
        hasher.update(entry.size.to_le_bytes());
    }
    let mut id = Sha256Sum::from_hasher(hasher).to_string();
    id.truncate(16);
    Ok(Some(Glance {
        dialect: payload.dialect(),
        files: payload.claimed_files(),
        id,
    }))
}
