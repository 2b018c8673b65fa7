//! The two trees of an image, and who may write to them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use rustix::fs::fstat;

use crate::block::Room;
use crate::durable::{Bounds, Last, Tree};
use crate::error::{Error, Kind, Result};

use super::hands::{Hands, LinkTarget, Own, Reply, Request};
use super::helper::Helper;
use super::path::{Place, ROOTFS, RelPath, Zone};

/// `Linux_for_Tegra/` and its `rootfs/`.
#[derive(Debug)]
pub(super) struct Trees {
    image: Own,
    rootfs: Option<Own>,
    helper: Option<Helper>,
    as_root: bool,
    /// Whether a helper may be started.
    may_ask: bool,
    /// Where directories lead, while nothing has been written.
    known: HashMap<(Zone, PathBuf), PathBuf>,
    /// Symlinks that are to be made, and whether the helper was told of them.
    expected: BTreeMap<Place, PathBuf>,
    told: bool,
}

impl Trees {
    /// Opens both. With `may_ask`, what needs privilege may make sudo ask for a
    /// password.
    ///
    /// # Errors
    /// They cannot be opened, or `rootfs/` is this machine's own root.
    pub(super) fn open(image: &Path, may_ask: bool) -> Result<Self> {
        let failed = |e| Error::io("opening", e).path(image).advice("init the image");
        let path = image.join(ROOTFS);
        let rootfs = match Tree::open(&path, Bounds::AsRoot) {
            Ok(tree) => Some(tree),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("opening", e).path(path).advice("init the image")),
        };
        if let Some(tree) = &rootfs {
            let host = rustix::fs::stat("/").ok();
            let here = fstat(tree).ok();
            let id = |s: rustix::fs::Stat| (s.st_dev, s.st_ino);
            if host.map(id) == here.map(id) {
                return Err(Error::new(Kind::Refused, "it is this machine's own root")
                    .path(&path)
                    .advice("init the image"));
            }
        }
        Ok(Self {
            image: Own(Tree::open(image, Bounds::Beneath).map_err(failed)?),
            rootfs: rootfs.map(Own),
            helper: None,
            as_root: geteuid().is_root(),
            may_ask,
            known: HashMap::new(),
            expected: BTreeMap::new(),
            told: true,
        })
    }

    /// Whether this process is root.
    pub(super) fn as_root(&self) -> bool {
        self.as_root
    }

    /// The tree, for looking at it as whoever this is.
    ///
    /// # Errors
    /// There is no `rootfs/`.
    pub(super) fn tree(&self, zone: Zone) -> Result<&Tree> {
        match zone {
            Zone::Elsewhere => Ok(&self.image.0),
            Zone::Rootfs => self
                .rootfs
                .as_ref()
                .map(|own| &own.0)
                .ok_or_else(|| self.no_rootfs()),
        }
    }

    fn no_rootfs(&self) -> Error {
        Error::new(Kind::Refused, "it is not there")
            .path(self.image.0.path().join(ROOTFS))
            .advice("init the image")
    }

    /// Brings what is in a tree onto stable storage, whoever wrote it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn flush(&self, zone: Zone) -> Result<()> {
        let Ok(tree) = self.tree(zone) else {
            return Ok(());
        };
        rustix::fs::syncfs(tree).map_err(|e| Error::io("syncing", e.into()).path(tree.path()))
    }

    /// Whoever may write to the tree; starts the helper where that takes one.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn hands(&mut self, zone: Zone) -> Result<&mut dyn Hands> {
        if zone == Zone::Elsewhere {
            return Ok(&mut self.image);
        }
        if self.as_root {
            let error = self.no_rootfs();
            return match &mut self.rootfs {
                Some(own) => Ok(own),
                None => Err(error),
            };
        }
        let helper = match self.helper.take() {
            Some(helper) => helper,
            None => {
                let tree = self.tree(Zone::Rootfs)?;
                Helper::start(&tree, tree.path())?
            }
        };
        Ok(self.helper.insert(helper))
    }

    /// Whether reading may be left to somebody with more privilege.
    pub(super) fn may_ask(&self) -> bool {
        self.may_ask && !self.as_root
    }

    /// Lets the symlinks `expected`, by their places, count in [`Trees::resolve`] as if
    /// they were there.
    ///
    /// # Errors
    /// There is no `rootfs/`.
    pub(super) fn expect(&mut self, expected: BTreeMap<Place, PathBuf>) -> Result<()> {
        self.known.clear();
        for own in [Some(&self.image), self.rootfs.as_ref()]
            .into_iter()
            .flatten()
        {
            own.0.expect_nothing();
        }
        for (place, target) in &expected {
            let tree = self.tree(place.zone)?;
            tree.expect(place.path.clone(), target.clone());
        }
        self.expected = expected;
        self.told = false;
        Ok(())
    }

    /// Tells the helper what is expected in `rootfs/`.
    fn tell(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.told, true) {
            return Ok(());
        }
        let expected = std::mem::take(&mut self.expected);
        let hands = self.hands(Zone::Rootfs)?;
        hands.ask(&Request::ExpectNothing, None)?;
        for (place, target) in expected.iter().filter(|(p, _)| p.zone == Zone::Rootfs) {
            let request = Request::Expect {
                place: place.path.clone(),
                target: LinkTarget(target.clone()),
            };
            hands.ask(&request, None)?;
        }
        self.expected = expected;
        Ok(())
    }

    /// Where `dst` leads, once the symlinks that are expected are there.
    ///
    /// # Errors
    /// Out of its tree, in circles, through a file, or to where only root may look.
    pub(super) fn resolve(&mut self, dst: &RelPath, last: Last) -> Result<Place> {
        let (zone, path) = dst.split();
        // Says so where there is none.
        self.tree(zone)?;
        let full = self.image.0.path().join(dst.as_path());
        let found = match self.resolve_here(zone, path, last) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && self.may_ask() => {
                let request = Request::Resolve {
                    path: path.to_path_buf(),
                    follow: last == Last::Follow,
                };
                self.tell()?;
                match self.hands(zone)?.ask(&request, None)? {
                    (Reply::Place(place), _) => place,
                    _ => return Err(unexpected()),
                }
            }
            // A plan of somebody who may not look: as it is named.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !self.as_root => {
                path.to_path_buf()
            }
            other => other.map_err(|e| explain(e, &full))?,
        };
        if found.as_os_str().is_empty() {
            return Err(is_directory(&full));
        }
        if zone == Zone::Elsewhere && found.starts_with(ROOTFS) {
            return Err(Error::new(
                Kind::Refused,
                "a symlink in it leads into rootfs/, which is root's",
            )
            .path(full)
            .advice("name the destination under rootfs/"));
        }
        Ok(Place { zone, path: found })
    }

    /// Modules lie hundreds to a directory, so where that leads is remembered.
    fn resolve_here(&mut self, zone: Zone, path: &Path, last: Last) -> io::Result<PathBuf> {
        let tree = match (zone, &self.rootfs) {
            (Zone::Elsewhere, _) => &self.image.0,
            (Zone::Rootfs, Some(own)) => &own.0,
            (Zone::Rootfs, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return tree.resolve(path, last);
        };
        let key = (zone, above.to_path_buf());
        let above = match self.known.get(&key) {
            Some(known) => known,
            None => {
                let resolved = tree.resolve(above, Last::Follow)?;
                self.known.entry(key).or_insert(resolved)
            }
        };
        let place = above.join(name);
        if last == Last::Follow && tree.is_symlink(&place)? {
            return tree.resolve(&place, last);
        }
        Ok(place)
    }

    /// The room in a tree's file system, and which file system that is.
    pub(super) fn room(&self, zone: Zone) -> Result<(u64, Room)> {
        let tree = self.tree(zone)?;
        let failed = |e: io::Error| Error::io("asking for the free space of", e).path(tree.path());
        let device = fstat(tree).map_err(|e| failed(e.into()))?.st_dev;
        let room = crate::block::room(tree.as_fd()).map_err(failed)?;
        Ok((device, room))
    }
}

fn explain(e: io::Error, path: &Path) -> Error {
    let (message, advice) = match e.raw_os_error() {
        Some(libc::EXDEV) => (
            "a symlink in it leads out of the image",
            "remove the symlink, or name what it should lead to",
        ),
        Some(libc::ELOOP) => ("its symlinks go round in circles", "remove one of them"),
        Some(libc::ENOTDIR) => (
            "something in it is no directory",
            "remove that, or name another destination",
        ),
        _ => {
            return Error::io("resolving the destination", e)
                .path(path)
                .advice("promote as root, or repair the image");
        }
    };
    Error::new(Kind::Refused, message).path(path).advice(advice)
}

pub(super) fn is_directory(path: &Path) -> Error {
    Error::new(Kind::Refused, "a directory is there, and a file is to be")
        .path(path)
        .advice("name a file in it, or remove it")
}

/// The other side answered something else than was asked.
pub(super) fn unexpected() -> Error {
    Error::new(
        Kind::Io,
        "the helper gave another answer than was asked for",
    )
}
