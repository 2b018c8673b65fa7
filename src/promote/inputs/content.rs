//! The wanted content of a destination, from any origin.

use std::fs::{File, Metadata};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::git::Git;
use super::objects::{Blob, Blobs};
use crate::block::file_type_name;
use crate::durable::{Attributes, Bounds, Lookup, StatKey, Tree};
use crate::error::{Error, Result};
use crate::promote::refused::refused;

/// The wanted content of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file of a commit, with the attributes to give it.
    Committed(Blob, Attributes),
    /// A file of HEAD that is checked out, with the attributes to give it.
    CheckedOut(PathBuf, Attributes),
    /// A file of the host, by its absolute path.
    Built(PathBuf),
    /// A symlink with the attributes to give it: its time, and possibly its owner.
    Link(PathBuf, Attributes),
    /// The `kernel/Image` that is already in the image, by its place.
    StagedKernel(PathBuf),
    /// A file that an earlier promote replaced and the journal kept, with its old attributes.
    Backup(PathBuf, Attributes),
    /// No content: the present file is removed.
    Absent,
}

impl Content {
    /// Returns the target if this is a symlink.
    pub(crate) fn link(&self) -> Option<&Path> {
        match self {
            Self::Link(target, _) => Some(target),
            _ => None,
        }
    }
}

/// Opens contents.
#[derive(Debug)]
pub(crate) struct Sources {
    blobs: Option<Blobs>,
    /// `Linux_for_Tegra/`.
    image: Tree,
}

/// An open content, with the attributes of its file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) len: u64,
    pub(crate) attributes: Attributes,
}

impl Sources {
    /// Creates the sources for the image at `image` and the commits of `overlay`.
    pub(crate) fn new(image: &Path, overlay: Option<&Git>) -> Result<Self> {
        let tree = Tree::open(image, Bounds::Beneath);
        Ok(Self {
            blobs: overlay.map(Blobs::new),
            image: tree.map_err(|e| Error::io("open", e).with_path(image))?,
        })
    }

    /// Returns the key that shows whether a file was touched, or `None` if the content is not a
    /// file.
    pub(crate) fn stamp(&self, content: &Content) -> Option<StatKey> {
        match content {
            Content::Built(path) | Content::CheckedOut(path, _) | Content::Backup(path, _) => {
                StatKey::of(&path.metadata().ok()?)
            }
            Content::StagedKernel(place) => self.image.stat_key(place).ok(),
            Content::Committed(..) | Content::Link(..) | Content::Absent => None,
        }
    }

    /// Opens the file of `content`. Returns `None` if the content has no bytes.
    pub(crate) fn open(&self, content: &Content) -> Result<Option<Opened>> {
        let (file, meta, attributes) = match (content, &self.blobs) {
            (Content::Committed(blob, attributes), Some(blobs)) => {
                let file = blobs.open(blob)?;
                let meta = file.metadata().map_err(|e| Error::io("read", e))?;
                (file, meta, Some(attributes))
            }
            (Content::Link(..) | Content::Absent | Content::Committed(..), _) => return Ok(None),
            (Content::StagedKernel(place), _) => {
                let path = self.image.path().join(place);
                match self.image.lookup(place) {
                    Ok(Lookup::File(file, meta)) => (file, meta, None),
                    Ok(_) => {
                        let found = path.symlink_metadata();
                        let found =
                            found.map_or("something else", |meta| file_type_name(meta.file_type()));
                        return Err(no_file(
                            &path,
                            found,
                            "put the kernel image there as a file",
                        ));
                    }
                    Err(e) => return Err(Error::io("open", e).with_path(path)),
                }
            }
            (Content::Built(path), _) => {
                let (file, meta) = open(path)?;
                (file, meta, None)
            }
            (Content::CheckedOut(path, attributes) | Content::Backup(path, attributes), _) => {
                let (file, meta) = open(path)?;
                (file, meta, Some(attributes))
            }
        };
        let own = Attributes::without_xattrs(&meta);
        Ok(Some(Opened {
            len: meta.len(),
            file,
            attributes: match attributes {
                Some(given) => Attributes {
                    owner: given.owner.or(own.owner),
                    ..given.clone()
                },
                None => own,
            },
        }))
    }
}

const REBUILD: &str = "build again, then promote again";

/// Opens a source, which must be a regular file.
pub(crate) fn open(path: &Path) -> Result<(File, Metadata)> {
    let failed = |e| {
        Error::io("open", e)
            .with_path(path)
            .with_code("bad-source")
            .advice(REBUILD)
    };
    // Opening a FIFO would wait for a writer.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    match meta.is_file() {
        true => Ok((file, meta)),
        false => Err(no_file(path, file_type_name(meta.file_type()), REBUILD)),
    }
}

fn no_file(path: &Path, found: &str, advice: &str) -> Error {
    let message = format!("expected a file, found {found}");
    refused(message, path, advice).with_code("bad-source")
}
