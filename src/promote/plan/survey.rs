//! Compares the plan with the image.

use std::path::Path;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::promote::refused::refused;

use super::union::Item;
use crate::promote::inputs::content::{Content, Sources};
use crate::promote::parallel::try_map;
use crate::promote::tree::bytes::compare;
use crate::promote::tree::protocol::{Found, JsonPath, Reply, Request};
use crate::promote::trees::{Trees, is_directory, unexpected};

/// Opens every source that is not known to be equal, compares it with its place, and fills in the
/// result. Comparing two files keeps one processor busy, so there is one thread for each
/// processor.
///
/// # Errors
/// A source is missing or not a regular file, a destination is a directory or a device, or the
/// user asks to stop.
pub(crate) fn probe(
    items: &mut [Item],
    trees: &mut Trees,
    sources: &Sources,
    progress: &dyn Progress,
) -> Result<()> {
    let length = |item: &Item| match (item.found, &item.content) {
        (Found::Same, _) => 0,
        (_, Content::Committed(blob, _)) => blob.bytes,
        (_, content) => sources.stamp(content).map_or(0, |stamp| stamp.bytes),
    };
    progress.begin("comparing", items.iter().map(length).sum());
    let found = try_map(items, |item| match item.found {
        _ if progress.cancelled() => Err(Error::interrupted()),
        Found::Same => Ok((Found::Same, item.bytes)),
        _ => look(item, trees, sources, progress),
    });
    progress.end();
    for (item, found) in items.iter_mut().zip(found?) {
        (item.found, item.bytes) = found;
        if item.found == Found::Denied && trees.may_ask() {
            item.found = ask(item, trees, sources)?;
        }
        let gone = matches!(
            item.found,
            Found::Missing | Found::ParentNotDirectory | Found::Directory
        );
        if item.content == Content::Absent && gone {
            item.found = Found::Same;
        }
        refuse(item.found, &trees.path(&item.place))?;
    }
    Ok(())
}

fn look(
    item: &Item,
    trees: &Trees,
    sources: &Sources,
    progress: &dyn Progress,
) -> Result<(Found, u64)> {
    let tree = trees.tree(item.place.zone)?;
    // Extracting a file from a git object takes longer than comparing its length.
    let (opened, bytes) = match &item.content {
        Content::Committed(blob, _) => match tree.stat_key(&item.place.path) {
            Ok(there) if there.bytes == blob.bytes => (sources.open(&item.content)?, blob.bytes),
            _ => (None, blob.bytes),
        },
        content => {
            let opened = sources.open(content)?;
            let bytes = opened.as_ref().map_or(0, |opened| opened.len);
            (opened, bytes)
        }
    };
    let file = opened.as_ref().map(|opened| &opened.file);
    let link = item.content.link();
    let found = compare(tree, &item.place.path, file, link, item.executable)
        .map_err(|e| Error::io("compare with", e).with_path(trees.path(&item.place)))?;
    progress.advance(bytes);
    Ok((found, bytes))
}

fn ask(item: &Item, trees: &mut Trees, sources: &Sources) -> Result<Found> {
    let opened = sources.open(&item.content)?;
    let link = item.content.link();
    let request = Request::Compare {
        place: item.place.path.clone(),
        link: link.map(|target| JsonPath(target.into())),
        executable: item.executable,
    };
    let file = opened.as_ref().map(|opened| &opened.file);
    match trees.ask(item.place.zone, &request, file)? {
        (Reply::Found(found), _) => Ok(found),
        _ => Err(unexpected()),
    }
}

/// Refuses a destination that a file cannot replace.
fn refuse(found: Found, path: &Path) -> Result<()> {
    let (message, advice) = match found {
        Found::Directory => return Err(is_directory(path)),
        Found::Special => (
            "destination is a device node, a socket or a FIFO, expected a file",
            "remove it, or name another destination",
        ),
        Found::ParentNotDirectory => (
            "part of the path is a file or a symlink, expected a directory",
            "remove it, then try again",
        ),
        _ => return Ok(()),
    };
    Err(refused(message, path, advice).with_code("bad-destination"))
}
