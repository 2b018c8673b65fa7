//! Opens the source of every command that reads a payload.

use std::path::Path;
use std::sync::Arc;

use clap::Args;

use crate::block::{CopiesSource, Source, SourceOptions};
use crate::error::{Error, Kind, Result};

use super::values::whole_bytes;

/// The options that say how a source is read. All commands that read a payload have them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub(super) struct SourceArgs {
    /// Where the payload starts in SRC, in bytes (K, M and G are powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = whole_bytes)]
    pub offset: Option<u64>,
}

impl SourceArgs {
    /// Opens the source at `paths`. Several paths are copies of one payload. `options` say what
    /// else the command needs. Nothing else in `cli` opens the source of a payload, except for
    /// `payload-import`, which has no such options.
    ///
    /// # Errors
    /// The same as for [`SourceOptions::open`]; a device is named twice.
    pub(super) fn open<P: AsRef<Path>>(
        &self,
        paths: &[P],
        options: SourceOptions,
    ) -> Result<Arc<dyn Source>> {
        let options = SourceOptions {
            offset: self.offset.unwrap_or(0),
            ..options
        };
        if let [path] = paths {
            return options.open(path.as_ref());
        }
        let mut copies: Vec<Arc<dyn Source>> = Vec::new();
        for path in paths.iter().map(AsRef::as_ref) {
            let copy = options.open(path)?;
            let meta = std::fs::metadata(path).map_err(|e| Error::io("open", e).with_path(path))?;
            if let Some(other) = copies.iter().find(|other| other.is_file(&meta)) {
                let other = other.path().display();
                let message = format!("`{}` and `{other}` are the same device", path.display());
                return Err(
                    Error::new(Kind::Usage, message).advice("name each copy of the payload once")
                );
            }
            copies.push(copy);
        }
        match CopiesSource::new(copies) {
            Some(copies) => Ok(Arc::new(copies)),
            None => Err(Error::new(Kind::Usage, "no image or device is named")),
        }
    }
}
