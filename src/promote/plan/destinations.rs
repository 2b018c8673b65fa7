//! Resolves the destinations of both channels and of the mirror.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::union::{Channel, Item, plan_mirror, plan_union};
use crate::durable::{Last, Lookup};
use crate::error::{Error, Kind, Result};
use crate::promote::inputs::content::{Content, open};
use crate::promote::inputs::manifest::Manifest;
use crate::promote::inputs::overlay::Tracked;
use crate::promote::path::{KERNEL, Place, RelPath, Zone};
use crate::promote::tree::bytes::same;
use crate::promote::trees::{KnownDirs, Trees};

/// Returns the plan: the files that the image should hold, by their places in the image as it is
/// now.
pub(crate) fn enumerate(
    trees: &mut Trees,
    tracked: &[Tracked],
    manifest: Option<&Manifest>,
    strict: bool,
) -> Result<Vec<Item>> {
    let artifacts = || manifest.iter().flat_map(|manifest| &manifest.artifacts);
    let built: HashSet<&RelPath> = artifacts().map(|artifact| &artifact.dst).collect();
    // Without this, a built file would be written to the target of the symlink.
    let (shadowed, tracked): (Vec<&Tracked>, Vec<&Tracked>) = tracked
        .iter()
        .partition(|file| file.content.link().is_some() && built.contains(&file.dst));
    let shadowed: HashSet<&RelPath> = shadowed.into_iter().map(|file| &file.dst).collect();
    let (mut wanted, mut dirs) = (Vec::new(), KnownDirs::new());
    for Tracked {
        dst,
        content,
        executable,
    } in tracked
    {
        let last = match content.link() {
            Some(_) => Last::Keep,
            None => Last::Follow,
        };
        let place = trees.resolve(dst, last, &mut dirs)?;
        let (dst, content) = (dst.clone(), content.clone());
        let item = Item::new(dst, place, Channel::Overlay, content);
        wanted.push(Item {
            executable: *executable,
            ..item
        });
    }
    let mut built_for: HashMap<Place, usize> = HashMap::new();
    for artifact in artifacts() {
        let dst = artifact.dst.clone();
        let place = trees.resolve(&dst, Last::Follow, &mut dirs)?;
        if let Some(first) = built_for.get(&place).map(|at| &mut wanted[*at]) {
            if !strict && same_bytes(&first.content, &artifact.src)? {
                first.double = Some(artifact.src.clone());
                continue;
            }
        }
        built_for.insert(place.clone(), wanted.len());
        let shadows = shadowed.contains(&dst).then_some(Channel::Overlay);
        let content = Content::Built(artifact.src.clone());
        let item = Item::new(dst, place, Channel::Manifest, content);
        wanted.push(Item { shadows, ..item });
    }
    let mut items = plan_union(wanted)?;
    mirror(trees, &mut items, &mut dirs)?;
    Ok(items)
}

/// Returns whether the files at `src` and of `content` are two with the same bytes.
fn same_bytes(content: &Content, src: &Path) -> Result<bool> {
    let Content::Built(first) = content else {
        return Ok(false);
    };
    if first == src {
        return Ok(false);
    }
    let ((a, _), (b, meta)) = (open(first)?, open(src)?);
    same(&a, b, meta).map_err(|e| Error::io("compare", e).with_path(src))
}

/// Adds the mirror: a copy of `kernel/Image` as `rootfs/boot/Image`.
fn mirror(trees: &mut Trees, items: &mut Vec<Item>, dirs: &mut KnownDirs) -> Result<()> {
    let named = |name: &str| {
        RelPath::parse(name.as_ref())
            .map_err(|what| Error::new(Kind::Refused, what).with_path(name))
    };
    let name = named(KERNEL)?;
    let kernel = trees.resolve(&name, Last::Follow, dirs)?;
    let there = trees
        .tree(Zone::Elsewhere)?
        .lookup(&kernel.path)
        .is_ok_and(|seen| !matches!(seen, Lookup::Nothing));
    let comes = |item: &Item| item.place == kernel || item.dst == name;
    if there || items.iter().any(comes) {
        let boot = named("rootfs/boot/Image")?;
        let place = trees.resolve(&boot, Last::Follow, dirs)?;
        plan_mirror(items, &kernel, there, (boot, place))?;
    }
    Ok(())
}
