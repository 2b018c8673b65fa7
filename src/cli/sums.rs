//! The checksums that are named on the command line.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::payload::{Checksums, bootstrap_sources};

/// Reads every `--checksums FILE`, and the checksums in the sources of `--live-bootstrap DIR`.
pub(super) fn read(files: &[PathBuf], bootstrap: Option<&Path>) -> Result<Checksums> {
    let mut sums = Checksums::new();
    for file in files {
        sums.add_file(file)?;
    }
    if let Some(dir) = bootstrap {
        let sources = bootstrap_sources(dir)?;
        sums.add(sources.sums(), &dir.join("steps").join("manifest"))?;
    }
    Ok(sums)
}
