//! The few things that are done to a tree, as requests: the same whether this process
//! does them or the helper with privilege.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{Attributes, Last, Lookup, Tree};
use crate::error::{Error, Kind, Result};

use super::bytes::{compare, stage};
use super::path::path_bytes;
use super::writable;

/// Something to be done to a tree. Places are paths without symlinks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Request {
    /// Which place a path means.
    Resolve {
        #[serde(with = "path_bytes")]
        path: PathBuf,
        follow: bool,
    },
    /// Let a symlink count, in resolving, as if it were there.
    Expect {
        #[serde(with = "path_bytes")]
        place: PathBuf,
        target: LinkTarget,
    },
    /// Let only count what is there.
    ExpectNothing,
    /// Whether a file can be put there, or taken away.
    CheckWritable(#[serde(with = "path_bytes")] PathBuf),
    /// What is there. A regular file comes back open.
    Look(#[serde(with = "path_bytes")] PathBuf),
    /// Whether the place holds the bytes of the file that comes along, or the link.
    Compare {
        #[serde(with = "path_bytes")]
        place: PathBuf,
        link: Option<LinkTarget>,
    },
    /// Stage the bytes of the file that comes along, or the link.
    Stage {
        slot: u64,
        attributes: Attributes,
        link: Option<LinkTarget>,
    },
    /// Take a staged file back.
    Discard(u64),
    /// Bring what is staged onto stable storage.
    Flush,
    /// Make the directories that a place needs.
    MakeParents(#[serde(with = "path_bytes")] PathBuf),
    /// Give a staged file its name.
    Publish {
        slot: u64,
        #[serde(with = "path_bytes")]
        place: PathBuf,
    },
    /// Remove a file or a symlink.
    Remove(#[serde(with = "path_bytes")] PathBuf),
    /// Remove a directory that may be empty.
    RemoveDir(#[serde(with = "path_bytes")] PathBuf),
    /// Bring the names onto stable storage.
    FlushNames,
    /// Remove what is staged.
    Clear,
}

/// What a request comes to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Place(#[serde(with = "path_bytes")] PathBuf),
    Was(Was),
    Found(Found),
    Staged { sha256: String, bytes: u64 },
    Made(Vec<LinkTarget>),
    Failed(Failure),
}

/// An [`Error`] as JSON, its parts apart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Failure {
    kind: FailureKind,
    doing: Option<String>,
    path: Option<LinkTarget>,
    cause: String,
    advice: Option<String>,
}

/// The kinds of error that make a difference to who asked.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum FailureKind {
    Io,
    Space,
    Changed,
    Refused,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: match error.kind() {
                Kind::Space => FailureKind::Space,
                Kind::Changed => FailureKind::Changed,
                Kind::Refused => FailureKind::Refused,
                _ => FailureKind::Io,
            },
            doing: error.named_doing().map(str::to_owned),
            path: error.named_path().map(|path| LinkTarget(path.into())),
            cause: error.cause(),
            advice: error.named_advice().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure.kind {
            FailureKind::Io => Kind::Io,
            FailureKind::Space => Kind::Space,
            FailureKind::Changed => Kind::Changed,
            FailureKind::Refused => Kind::Refused,
        };
        let mut error = Self::new(kind, failure.cause);
        if let Some(doing) = failure.doing {
            error = error.doing(doing);
        }
        if let Some(path) = failure.path {
            error = error.path(path.0);
        }
        match failure.advice {
            Some(advice) => error.advice(advice),
            None => error,
        }
    }
}

/// A path inside JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LinkTarget(#[serde(with = "path_bytes")] pub(super) PathBuf);

/// What a destination holds, against what it should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Found {
    /// Nothing is there.
    Missing,
    /// It holds the same.
    Same,
    /// It holds something else.
    Differs,
    /// A directory is there.
    Directory,
    /// A device node, a socket or a FIFO is there.
    Special,
    /// No directory is above it, but a file or a symlink.
    NoWay,
    /// Only root can tell.
    Denied,
}

/// What was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Was {
    Nothing,
    File {
        attributes: Attributes,
        bytes: u64,
    },
    Symlink {
        target: LinkTarget,
        mtime: (i64, u32),
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<(u32, u32)>,
    },
    Other,
}

/// Somebody who does what is requested.
pub(super) trait Hands {
    /// Does it.
    ///
    /// # Errors
    /// What the system says.
    fn ask(
        &mut self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<(Reply, Option<OwnedFd>)>;
}

/// This process's own.
#[derive(Debug)]
pub(super) struct Own(pub(super) Tree);

impl Hands for Own {
    fn ask(
        &mut self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<(Reply, Option<OwnedFd>)> {
        let file = file
            .map(|fd| fd.try_clone_to_owned().map(File::from))
            .transpose()
            .map_err(|e| Error::io("opening again", e).path(self.0.path()))?;
        perform(&self.0, request, file.as_ref())
    }
}

/// Does what is requested to `tree`.
///
/// # Errors
/// What the system says, with the path.
pub(super) fn perform(
    tree: &Tree,
    request: &Request,
    file: Option<&File>,
) -> Result<(Reply, Option<OwnedFd>)> {
    let failed = |doing: &'static str, place: &Path| {
        let path = tree.path().join(place);
        move |e| Error::io(doing, e).path(path)
    };
    let top = Path::new("");
    let reply = match request {
        Request::Resolve { path, follow } => {
            let last = if *follow { Last::Follow } else { Last::Keep };
            Reply::Place(
                tree.resolve(path, last)
                    .map_err(failed("resolving", path))?,
            )
        }
        Request::Expect { place, target } => {
            tree.expect(place.clone(), target.0.clone());
            Reply::Done
        }
        Request::ExpectNothing => {
            tree.expect_nothing();
            Reply::Done
        }
        Request::CheckWritable(place) => {
            tree.check_writable(place)
                .map_err(|e| writable::explain(e, &tree.path().join(place)))?;
            Reply::Done
        }
        Request::Look(place) => {
            let (was, file) = look(tree, place).map_err(failed("looking at", place))?;
            return Ok((Reply::Was(was), file.map(OwnedFd::from)));
        }
        Request::Compare { place, link } => {
            let link = link.as_ref().map(|link| link.0.as_path());
            let found = compare(tree, place, file, link);
            Reply::Found(found.map_err(failed("comparing", place))?)
        }
        Request::Stage {
            slot,
            attributes,
            link,
        } => return stage(tree, *slot, attributes, link.as_ref(), file).map(|r| (r, None)),
        Request::Discard(slot) => {
            tree.discard(*slot)
                .map_err(failed("removing a staged file in", top))?;
            Reply::Done
        }
        Request::Flush => {
            tree.flush().map_err(failed("syncing", top))?;
            Reply::Done
        }
        Request::MakeParents(place) => {
            let made = tree.make_parents(place);
            let made = made.map_err(failed("making the directories above", place))?;
            Reply::Made(made.into_iter().map(LinkTarget).collect())
        }
        Request::Publish { slot, place } => {
            tree.publish(*slot, place)
                .map_err(failed("renaming to", place))?;
            Reply::Done
        }
        Request::Remove(place) => {
            tree.remove(place).map_err(failed("removing", place))?;
            Reply::Done
        }
        Request::RemoveDir(place) => {
            tree.remove_empty_dir(place)
                .map_err(failed("removing the directory", place))?;
            Reply::Done
        }
        Request::FlushNames => {
            tree.flush_names().map_err(failed("syncing", top))?;
            Reply::Done
        }
        Request::Clear => {
            tree.clear()
                .map_err(failed("clearing what is staged in", top))?;
            Reply::Done
        }
    };
    Ok((reply, None))
}

fn look(tree: &Tree, place: &Path) -> io::Result<(Was, Option<File>)> {
    Ok(match tree.lookup(place)? {
        Lookup::Nothing => (Was::Nothing, None),
        Lookup::File(file, meta) => {
            let was = Was::File {
                attributes: Attributes::of(&file, &meta)?,
                bytes: meta.len(),
            };
            (was, Some(file))
        }
        Lookup::Symlink(target, meta) => {
            let Attributes { mtime, owner, .. } = Attributes::without_xattrs(&meta);
            let target = LinkTarget(target);
            let was = Was::Symlink {
                target,
                mtime,
                owner,
            };
            (was, None)
        }
        Lookup::Directory | Lookup::Special | Lookup::Unreadable(_) => (Was::Other, None),
    })
}

impl AsFd for Own {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
