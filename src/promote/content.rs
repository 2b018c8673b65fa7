//! What is to be in a destination, wherever it comes from.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::durable::{Attributes, Bounds, Lookup, Tree};
use crate::error::{Error, Kind, Result};

/// What is to be in a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file of the overlay's working tree, by its path in that.
    Tracked(PathBuf),
    /// A file of the host, by its absolute path.
    Built(PathBuf),
    /// A file of a commit, kept outside the workspace meanwhile.
    Blob {
        /// Where it is kept.
        path: PathBuf,
        /// The permission bits that git knows: 0644 or 0755.
        mode: u32,
        /// The commit's time, in seconds since 1970.
        time: i64,
    },
    /// A symlink, and what it is given: its time, and perhaps its owner.
    Link(PathBuf, Attributes),
    /// The `kernel/Image` that is in the image already, by its place.
    StagedKernel(PathBuf),
    /// A file that an earlier promote replaced, kept by the journal, with what it had.
    Backup(PathBuf, Attributes),
    /// Nothing: what is there goes away.
    Absent,
}

/// Opens contents.
#[derive(Debug)]
pub(super) struct Opener {
    /// The overlay's working tree.
    pub(super) tracker: Option<Tree>,
    /// `Linux_for_Tegra/`.
    pub(super) image: Tree,
}

/// An open content: its bytes, and the mode and time it is to have.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) len: u64,
    pub(super) attributes: Attributes,
}

impl Opener {
    /// How long `content` seems to be, in bytes, for showing progress.
    pub(super) fn estimate(&self, content: &Content) -> u64 {
        let path = match (content, &self.tracker) {
            (Content::Tracked(rel), Some(tracker)) => tracker.path().join(rel),
            (Content::Built(path) | Content::Blob { path, .. } | Content::Backup(path, _), _) => {
                path.clone()
            }
            (Content::StagedKernel(place), _) => self.image.path().join(place),
            _ => return 0,
        };
        path.metadata().map_or(0, |meta| meta.len())
    }

    /// Opens the file of `content`; `None` for what has no bytes.
    ///
    /// # Errors
    /// It is not there, or no regular file.
    pub(super) fn open(&self, content: &Content) -> Result<Option<Opened>> {
        let advice = "rebuild";
        let (file, meta, path) = match content {
            Content::Link(..) | Content::Absent => return Ok(None),
            Content::Tracked(rel) => {
                let Some(tracker) = &self.tracker else {
                    return Ok(None);
                };
                let path = tracker.path().join(rel);
                let advice = "check it out again, or promote with --overlay-ref HEAD";
                match tracker.lookup(rel) {
                    Ok(Lookup::File(file, meta)) => (file, meta, path),
                    Ok(Lookup::Nothing) => {
                        return Err(gone("it is tracked, and not there", &path, advice));
                    }
                    Ok(_) => return Err(gone("it is no regular file", &path, advice)),
                    Err(e) => {
                        return Err(Error::io("opening", e).path(path).advice(advice));
                    }
                }
            }
            Content::StagedKernel(place) => {
                let path = self.image.path().join(place);
                match self.image.lookup(place) {
                    Ok(Lookup::File(file, meta)) => (file, meta, path),
                    Ok(_) => return Err(gone("it is no regular file", &path, "init the image")),
                    Err(e) => return Err(Error::io("opening", e).path(path)),
                }
            }
            Content::Built(path) | Content::Blob { path, .. } | Content::Backup(path, _) => {
                let failed = |e| Error::io("opening", e).path(path).advice(advice);
                // Opening a FIFO would wait for somebody to write to it.
                let file = File::options()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
                    .open(path)
                    .map_err(failed)?;
                let meta = file.metadata().map_err(failed)?;
                (file, meta, path.clone())
            }
        };
        if !meta.is_file() {
            return Err(gone("it is no regular file", &path, advice));
        }
        let attributes = match content {
            Content::Backup(_, attributes) => attributes.clone(),
            Content::Blob { mode, time, .. } => Attributes {
                mode: *mode,
                mtime: (*time, 0),
                ..Attributes::without_xattrs(&meta)
            },
            _ => Attributes::without_xattrs(&meta),
        };
        Ok(Some(Opened {
            len: meta.size(),
            file,
            attributes,
        }))
    }
}

fn gone(message: &str, path: &Path, advice: &str) -> Error {
    Error::new(Kind::Refused, message)
        .path(path)
        .advice(advice.to_owned())
}

/// Opens the tree of tracked files.
pub(super) fn tracker(dir: &Path) -> Result<Tree> {
    Tree::open(dir, Bounds::Beneath).map_err(|e| Error::io("opening", e).path(dir))
}

/// Files from git's objects, kept in a temporary directory until the end.
#[derive(Debug, Default)]
pub(super) struct Spool {
    dir: Option<tempfile::TempDir>,
    known: HashMap<String, PathBuf>,
}

impl Spool {
    /// The file that holds the blob `oid`, which `fill` writes if it is not there yet.
    pub(super) fn keep(
        &mut self,
        oid: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(path) = self.known.get(oid) {
            return Ok(path.clone());
        }
        let failed = |e: io::Error| {
            Error::io("keeping a file of the overlay in", e)
                .path(std::env::temp_dir())
                .advice("make room there, or set TMPDIR")
        };
        let dir = match &self.dir {
            Some(dir) => dir,
            None => self
                .dir
                .insert(tempfile::TempDir::with_prefix("lbpayload-").map_err(failed)?),
        };
        let path = dir.path().join(oid);
        let mut out = BufWriter::new(File::create_new(&path).map_err(failed)?);
        fill(&mut out)?;
        out.flush().map_err(failed)?;
        self.known.insert(oid.to_owned(), path.clone());
        Ok(path)
    }
}
