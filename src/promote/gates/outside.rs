//! The gate against artifacts that do not come from the workspace, such as `/etc/shadow` in a
//! manifest that somebody else wrote.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Result, printable};
use crate::promote::inputs::manifest::Manifest;
use crate::promote::refused::refused;

/// Refuses an artifact whose `src` is outside of all `roots`, as it is written or after all
/// symlinks are followed. A `src` that does not exist is left to the check that opens it.
pub(crate) fn check(manifest: &Manifest, roots: &[PathBuf]) -> Result<()> {
    let real: Vec<PathBuf> = roots.iter().filter_map(|r| r.canonicalize().ok()).collect();
    let is_in = |path: &Path, roots: &[PathBuf]| roots.iter().any(|root| path.starts_with(root));
    // Most artifacts of a build are in a few directories.
    let mut dirs: HashMap<&Path, Option<PathBuf>> = HashMap::new();
    for artifact in &manifest.artifacts {
        let src = artifact.src.as_path();
        let (Some(dir), Some(name)) = (src.parent(), src.file_name()) else {
            continue;
        };
        let dir = dirs.entry(dir).or_insert_with(|| dir.canonicalize().ok());
        let Some(mut resolved) = dir.as_ref().map(|dir| dir.join(name)) else {
            continue;
        };
        match resolved.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => match resolved.canonicalize() {
                Ok(target) => resolved = target,
                Err(_) => continue,
            },
            Ok(_) => {}
            Err(_) => continue,
        }
        let written = is_in(src, roots) || is_in(src, &real);
        if written && is_in(&resolved, &real) {
            continue;
        }
        let message = match written {
            true => format!(
                "leads out of the workspace, to {}",
                printable(&resolved.to_string_lossy())
            ),
            false => "is outside of the workspace and of its sources".to_owned(),
        };
        let error = refused(message, src, "build again in the workspace");
        return Err(error.with_code("outside-workspace").note(format!(
            "an artifact of `{}`",
            printable(&manifest.path.to_string_lossy())
        )));
    }
    Ok(())
}
