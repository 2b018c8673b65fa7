//! The modules of one kernel in `rootfs/`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::compression::split_suffix;
use super::module::Modinfo;
use super::staged_image::open_place;
use crate::durable::{Last, Tree};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::promote::parallel::try_map;

/// The directory of all modules, below `rootfs/`.
pub(super) const MODULES: &str = "lib/modules";

/// A module in the tree.
#[derive(Debug)]
pub(super) struct Module {
    /// The path below the directory of the release.
    pub(super) path: PathBuf,
    /// What it says about itself.
    pub(super) info: io::Result<Modinfo>,
}

/// All modules of a release.
#[derive(Debug)]
pub(super) struct ModuleTree {
    /// The directory of the release as it is named, below `rootfs/`.
    pub(super) dir: PathBuf,
    /// The same directory without symlinks.
    pub(super) place: PathBuf,
    /// The modules, sorted by path.
    pub(super) modules: Vec<Module>,
    /// The directories that could not be read, below the directory of the release.
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
}

impl ModuleTree {
    /// Reads all modules of `release`. The inner error says why the directory cannot be read.
    ///
    /// # Errors
    /// The user asks to stop.
    pub(super) fn read(
        rootfs: &Tree,
        release: &str,
        progress: &dyn Progress,
    ) -> Result<io::Result<Self>> {
        let dir = Path::new(MODULES).join(release);
        let place = match rootfs.resolve(&dir, Last::Follow) {
            Ok(place) => place,
            Err(e) => return Ok(Err(e)),
        };
        let mut unreadable = Vec::new();
        let found = match find(rootfs, &place, &mut unreadable) {
            Ok(found) => found,
            Err(e) => return Ok(Err(e)),
        };
        let infos = try_map(&found, |(_, place)| {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            Ok(read(rootfs, place))
        })?;
        let modules = found.into_iter().zip(infos);
        Ok(Ok(Self {
            dir,
            place,
            modules: modules
                .map(|((path, _), info)| Module { path, info })
                .collect(),
            unreadable,
        }))
    }
}

/// Returns whether this is the file name of a module, perhaps compressed.
pub(super) fn is_module(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name);
    let (plain, _) = split_suffix(&name);
    plain.ends_with(".ko")
}

/// Finds the modules below `top`: the path below `top` and the place of each. Like depmod, it
/// leaves out `build` and `source`, which lead to the sources of the kernel.
fn find(
    rootfs: &Tree,
    top: &Path,
    unreadable: &mut Vec<(PathBuf, io::Error)>,
) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let entries = match rootfs.entries(&top.join(&dir)) {
            Ok(entries) => entries,
            Err(e) if dir.as_os_str().is_empty() => return Err(e),
            Err(e) => {
                unreadable.push((dir, e));
                continue;
            }
        };
        for (name, kind) in entries {
            let path = dir.join(&name);
            match kind {
                FileType::Directory if !is_source(&name) => dirs.push(path),
                FileType::RegularFile if is_module(name.as_bytes()) => {
                    let place = top.join(&path);
                    found.push((path, place));
                }
                FileType::Symlink if is_module(name.as_bytes()) => {
                    // If it leads nowhere, reading the place says so.
                    let place = top.join(&path);
                    let place = rootfs.resolve(&place, Last::Follow).unwrap_or(place);
                    found.push((path, place));
                }
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_source(name: &OsString) -> bool {
    name == "build" || name == "source"
}

fn read(rootfs: &Tree, place: &Path) -> io::Result<Modinfo> {
    let file = open_place(rootfs, place)?;
    let name = place.to_string_lossy();
    let mut info = Modinfo::read(&name, &file)?;
    // A driver can have thousands of aliases.
    info.fields
        .retain(|(key, _)| matches!(&**key, "vermagic" | "depends"));
    Ok(info)
}
