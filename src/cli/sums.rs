//! The checksums that a command line names.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::payload::{Checksums, bootstrap_sources};

/// Reads every `--checksums FILE`, and the sources of `--live-bootstrap DIR`.
pub(super) fn read(files: &[PathBuf], bootstrap: Option<&Path>) -> Result<Checksums> {
    let mut sums = Checksums::new();
    for file in files {
        sums.add_file(file)?;
    }
    if let Some(dir) = bootstrap {
        let sources = bootstrap_sources(dir)?;
        for (name, sum) in &sources.files {
            sums.add(name.as_str(), *sum)
                .map_err(|e| e.path(dir.join("steps").join("manifest")))?;
        }
        sums.settle().map_err(|name| {
            Error::new(
                Kind::Checksum,
                format!(
                    "--checksums and the sources of {} disagree on {name}",
                    dir.display()
                ),
            )
        })?;
    }
    Ok(sums)
}
