//! The gate against artifacts that do not come from the workspace, such as `/etc/shadow` in a
//! manifest that somebody else wrote.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Result, printable};
use crate::promote::inputs::manifest::Manifest;
use crate::promote::refused::refused;

/// Refuses an artifact whose `src` is outside of all `roots`, as it is written or after all
/// symlinks are followed. A `src` that does not exist is left to the check that opens it.
pub(crate) fn check(manifest: &Manifest, roots: &[PathBuf]) -> Result<()> {
    let real: Vec<PathBuf> = roots.iter().filter_map(|r| r.canonicalize().ok()).collect();
    let is_in = |path: &Path, roots: &[PathBuf]| roots.iter().any(|root| path.starts_with(root));
    let is_written_in = |path: &Path| is_in(path, roots) || is_in(path, &real);
    // Most artifacts of a build are in a few directories, so each is resolved once.
    let mut dirs: HashMap<&OsStr, Option<(PathBuf, bool)>> = HashMap::new();
    for artifact in &manifest.artifacts {
        let src = artifact.src.as_path();
        let (Some(dir), Some(name)) = (src.parent(), src.file_name()) else {
            continue;
        };
        let dir = dirs.entry(dir.as_os_str()).or_insert_with(|| {
            let resolved = dir.canonicalize().ok()?;
            let is_inside = is_written_in(dir) && is_in(&resolved, &real);
            Some((resolved, is_inside))
        });
        let Some((dir, is_inside)) = dir else {
            continue;
        };
        let resolved = match src.symlink_metadata() {
            Ok(meta) if !meta.is_symlink() && *is_inside => continue,
            Ok(meta) if !meta.is_symlink() => dir.join(name),
            Ok(_) => match src.canonicalize() {
                Ok(target) => target,
                Err(_) => continue,
            },
            Err(_) => continue,
        };
        let written = is_written_in(src);
        if written && is_in(&resolved, &real) {
            continue;
        }
        let message = match written {
            true => format!(
                "leads out of the workspace, to {}",
                printable(&resolved.to_string_lossy())
            ),
            false => "outside of the workspace and its sources".to_owned(),
        };
        let error = refused(message, src, "build again in the workspace");
        return Err(error.with_code("outside-workspace").note(format!(
            "an artifact of `{}`",
            printable(&manifest.path.to_string_lossy())
        )));
    }
    Ok(())
}
