//! What the image holds already, against the plan.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

use super::bytes::compare;
use super::content::{Content, Opener};
use super::hands::{Found, LinkTarget, Reply, Request};
use super::plan::Item;
use super::trees::{Trees, is_directory, unexpected};

/// Opens every source that is not known to be the same, compares it with what is at
/// its place, and fills in what was found.
///
/// # Errors
/// A source is missing or no regular file, a destination is a directory or a device,
/// or somebody wants to stop.
pub(super) fn probe(
    items: &mut [Item],
    trees: &mut Trees,
    opener: &Opener,
    progress: &dyn Progress,
) -> Result<()> {
    probe_readable(items, trees, opener, progress)?;
    for item in items.iter_mut() {
        if item.found == Found::Denied && trees.may_ask() {
            item.found = ask(item, trees, opener)?;
        }
        let path = trees.tree(item.place.zone)?.path().join(&item.place.path);
        match item.found {
            Found::Directory => return Err(is_directory(&path)),
            Found::Special => {
                return Err(Error::new(
                    Kind::Refused,
                    "a device node, a socket or a FIFO is there, and a file is to be",
                )
                .path(&path)
                .advice("remove it, or name another destination"));
            }
            Found::NoWay => {
                return Err(Error::new(
                    Kind::Refused,
                    "something in it that was a directory is a file or a symlink",
                )
                .path(&path)
                .advice("remove that, and try again"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reading two files takes one processor; so there is a thread for each.
fn probe_readable(
    items: &mut [Item],
    trees: &Trees,
    opener: &Opener,
    progress: &dyn Progress,
) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let unknown = items.iter().filter(|item| item.found != Found::Same);
    let bytes = unknown.map(|item| opener.estimate(&item.content));
    progress.begin("comparing", bytes.sum());
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let found = Mutex::new(vec![(Found::Missing, 0); items.len()]);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { break };
                    let result = if progress.cancelled() {
                        Err(Error::interrupted())
                    } else {
                        look(item, trees, opener)
                    };
                    match result {
                        Ok(what) => {
                            if item.found != Found::Same {
                                progress.advance(what.1);
                            }
                            if let Ok(mut found) = found.lock() {
                                found[at] = what;
                            }
                        }
                        Err(e) => {
                            // The first in the plan's order is the one that is told.
                            if let Ok(mut failure) = failure.lock() {
                                if failure.as_ref().is_none_or(|(other, _)| at < *other) {
                                    *failure = Some((at, e));
                                }
                            }
                            next.store(items.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    progress.end();
    if let Ok(Some((_, e))) = failure.into_inner() {
        return Err(e);
    }
    if let Ok(found) = found.into_inner() {
        for (item, (what, bytes)) in items.iter_mut().zip(found) {
            (item.found, item.bytes) = (what, bytes);
        }
    }
    Ok(())
}

fn look(item: &Item, trees: &Trees, opener: &Opener) -> Result<(Found, u64)> {
    if item.found == Found::Same {
        return Ok((item.found, item.bytes));
    }
    let opened = opener.open(&item.content)?;
    let tree = trees.tree(item.place.zone)?;
    let link = match &item.content {
        Content::Link(target, _) => Some(target.as_path()),
        _ => None,
    };
    let file = opened.as_ref().map(|opened| &opened.file);
    let mut found = compare(tree, &item.place.path, file, link)
        .map_err(|e| Error::io("comparing with", e).path(tree.path().join(&item.place.path)))?;
    if item.content == Content::Absent && is_gone(found) {
        found = Found::Same;
    }
    Ok((found, opened.map_or(0, |opened| opened.len)))
}

/// Whether a file that is to go away is gone; a directory in its place is another thing.
fn is_gone(found: Found) -> bool {
    matches!(found, Found::Missing | Found::NoWay | Found::Directory)
}

fn ask(item: &Item, trees: &mut Trees, opener: &Opener) -> Result<Found> {
    let opened = opener.open(&item.content)?;
    let link = match &item.content {
        Content::Link(target, _) => Some(LinkTarget(target.clone())),
        _ => None,
    };
    let request = Request::Compare {
        place: item.place.path.clone(),
        link,
    };
    let file = opened.as_ref().map(|o| std::os::fd::AsFd::as_fd(&o.file));
    match trees.hands(item.place.zone)?.ask(&request, file)? {
        (Reply::Found(found), _) if item.content == Content::Absent && is_gone(found) => {
            Ok(Found::Same)
        }
        (Reply::Found(found), _) => Ok(found),
        _ => Err(unexpected()),
    }
}
