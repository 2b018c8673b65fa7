//! Opens the source of every command that reads a payload.

use std::path::Path;
use std::sync::Arc;

use clap::Args;

use crate::block::{Source, SourceOptions};
use crate::error::Result;

use super::values::whole_bytes;

/// The options that say how a source is read. All commands that read a payload have them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub(super) struct SourceArgs {
    /// Where the payload starts in SRC, in bytes (K, M and G are powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = whole_bytes)]
    pub offset: Option<u64>,
}

impl SourceArgs {
    /// Opens `path`. `options` say what else the command needs. Nothing else in `cli` opens the
    /// source of a payload, except for `payload-import`, which has no such options.
    ///
    /// # Errors
    /// The same as for [`SourceOptions::open`].
    pub(super) fn open(&self, path: &Path, options: SourceOptions) -> Result<Arc<dyn Source>> {
        let options = SourceOptions {
            offset: self.offset.unwrap_or(0),
            ..options
        };
        options.open(path)
    }
}
