//! The two trees of an image, and the process that writes to each.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use rustix::fs::fstat;

use crate::block::Room;
use crate::durable::{Bounds, Last, Tree};
use crate::error::{Error, Result};
use crate::promote::helper::client::Helper;
use crate::promote::path::{Place, ROOTFS, RelPath, Zone};
use crate::promote::refused::refused;
use crate::promote::tree::executor::{Answer, perform};
use crate::promote::tree::protocol::{Reply, Request};

const SET_UP: &str = "set up the BSP image with its rootfs/ again";

/// The places of directories, by their paths below `Linux_for_Tegra/`.
pub(crate) type KnownDirs = HashMap<OsString, PathBuf>;

/// `Linux_for_Tegra/` and its `rootfs/`.
#[derive(Debug)]
pub(crate) struct Trees {
    image: Tree,
    rootfs: Option<Tree>,
    helper: Option<Helper>,
    as_root: bool,
    /// Whether the helper may be started.
    may_ask: bool,
}

impl Trees {
    /// Opens both trees. With `may_ask`, an operation that needs privilege may cause sudo to ask
    /// for a password.
    pub(crate) fn open(image: &Path, may_ask: bool) -> Result<Self> {
        let failed = |e| Error::io("open", e).with_path(image).advice(SET_UP);
        let path = image.join(ROOTFS);
        let rootfs = match Tree::open(&path, Bounds::AsRoot) {
            Ok(tree) => Some(tree),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                return Err(Error::io("open", e).with_path(path).advice(SET_UP));
            }
        };
        if let Some(tree) = &rootfs {
            let host = rustix::fs::stat("/").ok();
            let here = fstat(tree).ok();
            let id = |s: rustix::fs::Stat| (s.st_dev, s.st_ino);
            if host.map(id) == here.map(id) {
                return Err(refused(
                    "this is the root directory of this machine",
                    &path,
                    "put the root filesystem of the image there",
                )
                .with_code("no-image"));
            }
        }
        Ok(Self {
            image: Tree::open(image, Bounds::Beneath).map_err(failed)?,
            rootfs,
            helper: None,
            as_root: geteuid().is_root(),
            may_ask,
        })
    }

    /// Returns whether this process is root.
    pub(crate) fn as_root(&self) -> bool {
        self.as_root
    }

    /// Returns the tree, for reading it with the rights of this process.
    pub(crate) fn tree(&self, zone: Zone) -> Result<&Tree> {
        match zone {
            Zone::Elsewhere => Ok(&self.image),
            Zone::Rootfs => self.rootfs.as_ref().ok_or_else(|| {
                let path = self.image.path().join(ROOTFS);
                refused("no such directory", path, SET_UP).with_code("no-image")
            }),
        }
    }

    /// Syncs everything in a tree to stable storage, including what other processes wrote.
    pub(crate) fn flush(&self, zone: Zone) -> Result<()> {
        let Ok(tree) = self.tree(zone) else {
            return Ok(());
        };
        rustix::fs::syncfs(tree).map_err(|e| Error::io("sync", e.into()).with_path(tree.path()))
    }

    /// Starts the helper if writing to `rootfs/` needs one.
    pub(crate) fn prepare(&mut self) -> Result<Option<&mut Helper>> {
        if !self.as_root && self.helper.is_none() {
            let tree = self.tree(Zone::Rootfs)?;
            self.helper = Some(Helper::start(&tree, tree.path())?);
        }
        Ok(self.helper.as_mut())
    }

    /// Performs `request` on a tree, through the helper if that is necessary.
    pub(crate) fn ask(
        &mut self,
        zone: Zone,
        request: &Request,
        file: Option<&File>,
    ) -> Result<Answer> {
        if zone == Zone::Rootfs {
            if let Some(helper) = self.prepare()? {
                return helper.ask(request, file.map(AsFd::as_fd));
            }
        }
        perform(self.tree(zone)?, request, file)
    }

    /// Returns whether the helper may be used for reading.
    pub(crate) fn may_ask(&self) -> bool {
        self.may_ask && !self.as_root
    }

    /// Returns the path of `place` on this machine.
    pub(crate) fn path(&self, place: &Place) -> PathBuf {
        match self.tree(place.zone) {
            Ok(tree) => tree.path().join(&place.path),
            Err(_) => self.image.path().join(place.in_image()),
        }
    }

    /// Returns the path of `dst` on this machine, with its symlinks.
    fn named(&self, dst: &RelPath) -> PathBuf {
        self.image.path().join(dst.as_path())
    }

    /// Resolves `dst` to its place. `known` holds the directories that were resolved before, while
    /// nothing was written.
    ///
    /// # Errors
    /// The path leads out of its tree, in a circle, through a file, or to a directory that only
    /// root can read.
    pub(crate) fn resolve(
        &mut self,
        dst: &RelPath,
        last: Last,
        known: &mut KnownDirs,
    ) -> Result<Place> {
        let (zone, path) = dst.split();
        let found = match resolve(self.tree(zone)?, dst, last, known) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && self.may_ask() => {
                let request = Request::Resolve {
                    path: path.to_path_buf(),
                    follow: last == Last::Follow,
                };
                match self.ask(zone, &request, None)? {
                    (Reply::Place(place), _) => place,
                    _ => return Err(unexpected()),
                }
            }
            // In a dry run without the right to read the path, the path is used as it is named.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !self.as_root => {
                path.to_path_buf()
            }
            other => other.map_err(|e| explain(e, &self.named(dst)))?,
        };
        if found.as_os_str().is_empty() {
            return Err(is_directory(&self.named(dst)));
        }
        let place = Place { zone, path: found };
        let (message, advice) = if zone == Zone::Elsewhere && place.path.starts_with(ROOTFS) {
            (
                "leads into rootfs/ through a symlink",
                "name the destination under rootfs/",
            )
        } else if place.is_reserved() {
            (
                "leads through a symlink into a directory reserved for lbpayload",
                "remove the symlink, or name another destination",
            )
        } else {
            return Ok(place);
        };
        Err(refused(message, self.named(dst), advice).with_code("bad-symlink"))
    }

    /// Returns the free space in the file system of a tree, and the number of that file system.
    pub(crate) fn room(&self, zone: Zone) -> Result<(u64, Room)> {
        let tree = self.tree(zone)?;
        let failed = |e: io::Error| Error::io("get the free space of", e).with_path(tree.path());
        let device = fstat(tree).map_err(|e| failed(e.into()))?.st_dev;
        let room = crate::block::room(tree.as_fd()).map_err(failed)?;
        Ok((device, room))
    }
}

/// Resolves `dst` in its tree. There are hundreds of modules in a directory, which is resolved once.
fn resolve(tree: &Tree, dst: &RelPath, last: Last, known: &mut KnownDirs) -> io::Result<PathBuf> {
    let (_, path) = dst.split();
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return tree.resolve(path, last);
    };
    let key = dst.as_path().parent().unwrap_or(dir).as_os_str();
    if let Some(known) = known.get(key) {
        return tree.resolve_in(known, name.as_ref(), last);
    }
    let place = tree.resolve(dir, Last::Follow)?;
    let found = tree.resolve_in(&place, name.as_ref(), last);
    known.insert(key.to_owned(), place);
    found
}

fn explain(e: io::Error, path: &Path) -> Error {
    let (code, message, advice) = match e.raw_os_error() {
        Some(libc::EXDEV) => (
            "bad-symlink",
            "leads out of the image through a symlink",
            "remove the symlink, or name the destination without it",
        ),
        Some(libc::ELOOP) => (
            "bad-symlink",
            "the symlinks in this path form a loop",
            "remove one of them",
        ),
        Some(libc::ENOTDIR) => (
            "bad-destination",
            "part of the path is a file, expected a directory",
            "remove the file, or name another destination",
        ),
        _ => {
            return Error::io("resolve the destination", e)
                .with_path(path)
                .advice("run promote as root, or repair the image");
        }
    };
    refused(message, path, advice).with_code(code)
}

pub(crate) fn is_directory(path: &Path) -> Error {
    refused(
        "destination is a directory, expected a file",
        path,
        "name a file in it, or remove the directory",
    )
    .with_code("bad-destination")
}

/// Creates the error for a reply that does not match the request.
pub(crate) fn unexpected() -> Error {
    Error::bug("unexpected answer from the helper")
}
