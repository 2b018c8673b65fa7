//! Compares the plan with the image, or with several images at once.

use std::collections::HashMap;
use std::path::Path;

use crate::block::file_type_name;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::promote::refused::refused;

use super::union::Item;
use crate::promote::inputs::content::{Content, Sources};
use crate::promote::parallel::try_map;
use crate::promote::path::RelPath;
use crate::promote::tree::bytes::{Wanted, compare_all};
use crate::promote::tree::protocol::{Found, JsonPath, Reply, Request};
use crate::promote::trees::{Trees, is_directory, unexpected};

/// The items of an image, and where to compare them.
pub(crate) struct Image<'a> {
    /// For each item, the length in bytes of the file that is at its place.
    pub(crate) lengths: Vec<Option<u64>>,
    pub(crate) items: &'a mut [Item],
    pub(crate) trees: &'a mut Trees,
    pub(crate) sources: &'a Sources,
}

/// A source, and the items of all images that it is compared with, as numbers of the image and of
/// the item.
struct Comparison {
    items: Vec<(usize, usize)>,
    /// The number of bytes to read: none if no place has a file of this length.
    bytes: u64,
}

/// Opens every source that is not known to be equal, compares it with its place in each image, and
/// fills in the result. A source is read once for all images. Comparing two files keeps one
/// processor busy, so there is one thread for each processor.
///
/// # Errors
/// A source is missing or not a regular file, a destination is a directory or a device, or the
/// user asks to stop.
pub(crate) fn probe(images: &mut [Image<'_>], progress: &dyn Progress) -> Result<()> {
    let comparisons = plan_comparisons(images);
    progress.begin("comparing", comparisons.iter().map(|c| c.bytes).sum());
    let compared = try_map(&comparisons, |comparison| match progress.cancelled() {
        true => Err(Error::interrupted()),
        false => look(comparison, images, progress),
    });
    progress.end();
    for (comparison, (found, bytes)) in comparisons.iter().zip(compared?) {
        for ((image, number), found) in comparison.items.iter().zip(found) {
            let item = &mut images[*image].items[*number];
            (item.found, item.bytes) = (found, bytes);
        }
    }
    for image in images {
        for item in image.items.iter_mut() {
            if item.found == Found::Denied && image.trees.may_ask() {
                item.found = ask(item, image.trees, image.sources)?;
            }
            let gone = matches!(
                item.found,
                Found::Missing | Found::ParentNotDirectory | Found::Directory
            );
            if item.content == Content::Absent && gone {
                item.found = Found::Same;
            }
            refuse(item.found, &image.trees.path(&item.place))?;
        }
    }
    Ok(())
}

/// Returns what to compare, in the order of the items of the first image. Does not read.
fn plan_comparisons(images: &[Image<'_>]) -> Vec<Comparison> {
    let mut all: Vec<Comparison> = Vec::new();
    let mut known: HashMap<&RelPath, usize> = HashMap::new();
    for (image, side) in images.iter().enumerate() {
        for (number, item) in side.items.iter().enumerate() {
            if item.found == Found::Same {
                continue;
            }
            let bytes = match &item.content {
                Content::Committed(blob, _) => blob.bytes,
                content => side.sources.stamp(content).map_or(0, |stamp| stamp.bytes),
            };
            let bytes = match side.lengths[number] == Some(bytes) {
                true => bytes,
                false => 0,
            };
            // One image has each destination once.
            let is_shared = image > 0 && is_of_the_workspace(&item.content);
            let earlier = known.get(&item.dst).filter(|_| is_shared);
            if let Some(comparison) = earlier.map(|at| &mut all[*at]) {
                let (image_of_it, item_of_it) = comparison.items[0];
                if images[image_of_it].items[item_of_it].content == item.content {
                    comparison.items.push((image, number));
                    comparison.bytes = comparison.bytes.max(bytes);
                    continue;
                }
            }
            if images.len() > 1 {
                known.insert(&item.dst, all.len());
            }
            all.push(Comparison {
                items: vec![(image, number)],
                bytes,
            });
        }
    }
    all
}

/// Returns whether a content is the same for all images.
fn is_of_the_workspace(content: &Content) -> bool {
    match content {
        Content::Committed(..) | Content::CheckedOut(..) | Content::Built(_) => true,
        Content::Link(..) | Content::StagedKernel(_) | Content::Backup(..) | Content::Absent => {
            false
        }
    }
}

/// Returns what each place holds, and the length of the source in bytes.
fn look(
    comparison: &Comparison,
    images: &[Image<'_>],
    progress: &dyn Progress,
) -> Result<(Vec<Found>, u64)> {
    let (image, number) = comparison.items[0];
    let (content, sources) = (&images[image].items[number].content, images[image].sources);
    let (opened, bytes) = match content {
        // Extracting a file from a git object takes longer than comparing its length.
        Content::Committed(blob, _) if comparison.bytes == 0 && blob.bytes > 0 => {
            (None, blob.bytes)
        }
        content => {
            let opened = sources.open(content)?;
            let bytes = opened.as_ref().map_or(0, |opened| opened.len);
            (opened, bytes)
        }
    };
    let mut places = Vec::with_capacity(comparison.items.len());
    for (image, number) in &comparison.items {
        let item = &images[*image].items[*number];
        places.push(Wanted {
            tree: images[*image].trees.tree(item.place.zone)?,
            path: &item.place.path,
            link: item.content.link(),
            executable: item.executable,
        });
    }
    let file = opened.as_ref().map(|opened| &opened.file);
    let found = compare_all(&places, file).map_err(|(at, e)| {
        let (image, number) = comparison.items[at];
        let path = images[image].trees.path(&images[image].items[number].place);
        Error::io("compare with", e).with_path(path)
    })?;
    progress.advance(comparison.bytes);
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
        Found::Special => {
            let meta = path.symlink_metadata();
            let kind = meta.map_or("a device, a socket or a FIFO", |meta| {
                file_type_name(meta.file_type())
            });
            (
                format!("destination is {kind}, expected a file"),
                "remove it, or name another destination",
            )
        }
        Found::ParentNotDirectory => (
            "part of the path is a file or a symlink, expected a directory".into(),
            "remove it, then try again",
        ),
        _ => return Ok(()),
    };
    Err(refused(message, path, advice).with_code("bad-destination"))
}
