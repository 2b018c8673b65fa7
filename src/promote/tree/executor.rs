//! Performs requests in this process.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::access;
use super::bytes::{Wanted, compare, stage};
use super::protocol::{JsonPath, PreviousState, Reply, Request};
use crate::durable::{Attributes, Last, Lookup, Tree};
use crate::error::{Error, Result};

/// The reply, and an open file if the request returns one.
pub(crate) type Answer = (Reply, Option<OwnedFd>);

/// Performs `request` on `tree`.
pub(crate) fn perform(tree: &Tree, request: &Request, file: Option<&File>) -> Result<Answer> {
    let failed = |doing: &'static str, place: &Path| {
        let path = tree.path().join(place);
        move |e| Error::io(doing, e).with_path(path)
    };
    let top = Path::new("");
    let done = |()| Reply::Done;
    let reply = match request {
        Request::Resolve { path, follow } => {
            let last = if *follow { Last::Follow } else { Last::Keep };
            let place = tree.resolve(path, last);
            place.map(Reply::Place).map_err(failed("resolve", path))?
        }
        Request::CheckWritable(place) => access::check(tree, place).map(done)?,
        Request::Look(place) => {
            let (previous, file) = look(tree, place).map_err(failed("inspect", place))?;
            return Ok((Reply::Previous(previous), file.map(OwnedFd::from)));
        }
        Request::Compare {
            place,
            link,
            executable,
        } => {
            let wanted = Wanted {
                tree,
                path: place,
                link: link.as_ref().map(|link| link.0.as_path()),
                executable: *executable,
            };
            let found = compare(&wanted, file);
            found.map(Reply::Found).map_err(failed("compare", place))?
        }
        Request::Stage {
            slot,
            place,
            attributes,
            link,
            dir_owner,
        } => {
            let staged = stage(tree, *slot, attributes, link.as_ref(), file);
            let staged = staged.and_then(|(sha256, bytes)| {
                let made = tree.make_parents(place, *dir_owner);
                let made = made.map_err(failed("create the directories above", place))?;
                Ok(Reply::Staged {
                    sha256,
                    bytes,
                    made: made.into_iter().map(JsonPath).collect(),
                })
            });
            if staged.is_err() {
                // The staged file takes space that the record of the failure may need.
                let _ = tree.discard(*slot);
            }
            staged?
        }
        Request::Flush => tree.flush().map(done).map_err(failed("sync", top))?,
        Request::Publish { slot, place } => tree
            .publish(*slot, place)
            .map(done)
            .map_err(failed("rename to", place))?,
        Request::Remove(place) => tree
            .remove(place)
            .map(done)
            .map_err(failed("remove", place))?,
        Request::RemoveDir(place) => tree
            .remove_empty_dir(place)
            .map(done)
            .map_err(failed("remove the directory", place))?,
        Request::FlushNames => tree.flush_names().map(done).map_err(failed("sync", top))?,
        Request::Clear => tree
            .clear()
            .map(done)
            .map_err(failed("remove the staged files in", top))?,
    };
    Ok((reply, None))
}

fn look(tree: &Tree, place: &Path) -> io::Result<(PreviousState, Option<File>)> {
    Ok(match tree.lookup(place)? {
        Lookup::Nothing => (PreviousState::Nothing, None),
        Lookup::File(file, meta) => {
            let previous = PreviousState::File {
                attributes: Attributes::of(&file, &meta)?,
                bytes: meta.len(),
            };
            (previous, Some(file))
        }
        Lookup::Symlink(target, meta) => {
            let previous = PreviousState::Symlink {
                target: JsonPath(target),
                attributes: Attributes::without_xattrs(&meta),
            };
            (previous, None)
        }
        Lookup::Directory | Lookup::Special | Lookup::Unreadable(_) => (PreviousState::Other, None),
    })
}
