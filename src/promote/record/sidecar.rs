//! This program's folder in an image: `Linux_for_Tegra/.lbpayload/`.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown,
};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::durable::AtomicFile;
use crate::error::{Error, Result};
use crate::promote::path::SIDECAR;
use crate::promote::refused::refused;

/// The number of promotes whose backups are kept.
pub(crate) const KEPT: u64 = 10;

/// This program's folder in an image.
#[derive(Debug, Clone)]
pub(crate) struct Sidecar {
    root: PathBuf,
}

impl Sidecar {
    /// Returns the folder of the image at `image`, whether it exists or not.
    pub(crate) fn of(image: &Path) -> Self {
        Self {
            root: image.join(SIDECAR),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.path("journal")
    }

    pub(crate) fn backups(&self, id: u64) -> PathBuf {
        self.path("backups").join(id.to_string())
    }

    /// Returns the path of the log of the initramfs tool in a run, whether it exists or not.
    pub(crate) fn log(&self, id: u64) -> PathBuf {
        self.path("logs").join(format!("{id:06}.log"))
    }

    /// Returns the runs that have backups.
    pub(crate) fn runs_with_backups(&self) -> impl Iterator<Item = u64> {
        let dirs = std::fs::read_dir(self.path("backups"));
        let dirs = dirs.into_iter().flatten().flatten();
        dirs.filter_map(|dir| dir.file_name().to_str()?.parse().ok())
    }

    /// Creates the folder `name` in it. The owner of the image can use it.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf> {
        let failed = |e| {
            Error::io("create the journal's directory", e)
                .with_path(&self.root)
                .advice("chown Linux_for_Tegra to your user, or run promote as root")
        };
        let image = self.root.parent().unwrap_or(&self.root);
        let owner = image.metadata().map_err(failed)?;
        let path = self.path(name);
        let mut at = image.to_path_buf();
        for part in path.strip_prefix(image).unwrap_or(&path) {
            at.push(part);
            match DirBuilder::new().mode(0o700).create(&at) {
                Ok(()) => {
                    let made = at.metadata().map_err(failed)?;
                    if geteuid().is_root() && made.uid() != owner.uid() {
                        chown(&at, Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
                    }
                    let above = at.parent().unwrap_or(image);
                    File::open(above)
                        .and_then(|dir| dir.sync_all())
                        .map_err(failed)?;
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // A symlink would redirect writes and removals to another place, perhaps as
                    // root.
                    if !at.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                        return Err(refused(
                            "not a directory",
                            at,
                            "move it away, then promote again",
                        ));
                    }
                }
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(path)
    }

    /// Creates the file `path` in it. The owner of the image can use it, whatever the umask is.
    pub(crate) fn create(&self, path: &Path, mode: u32) -> Result<File> {
        let failed = |e| Error::io("create the journal's file", e).with_path(path);
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(mode)
            .open(path)
            .map_err(failed)?;
        self.give(&file, mode).map_err(failed)?;
        Ok(file)
    }

    /// Gives `file` to the owner of the image.
    fn give(&self, file: &File, mode: u32) -> io::Result<()> {
        let image = self.root.parent().unwrap_or(&self.root).metadata()?;
        if geteuid().is_root() && file.metadata()?.uid() != image.uid() {
            fchown(file, Some(image.uid()), Some(image.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(mode))
    }

    /// Writes a small file in it, completely or not at all.
    pub(crate) fn put(&self, name: &str, text: &[u8]) -> Result<()> {
        self.make("")?;
        let path = self.path(name);
        let mut file = AtomicFile::create(&path)?;
        self.give(file.file(), 0o644)
            .map_err(|e| Error::io("create the journal's file", e).with_path(&path))?;
        file.write_all(text)
            .map_err(|e| Error::io("write", e).with_path(&path))?;
        file.commit()
    }

    /// Removes the backups of old promotes.
    pub(crate) fn prune(&self, newest: u64) {
        if let Some(old) = newest.checked_sub(KEPT) {
            let _ = std::fs::remove_file(self.log(old));
        }
        for id in self.runs_with_backups() {
            let dir = self.backups(id);
            if id.saturating_add(KEPT) <= newest {
                if let Err(e) = std::fs::remove_dir_all(&dir) {
                    log::warn!("could not remove old backups in {}: {e}", dir.display());
                }
            }
        }
    }
}
