//! Both channels, each destination where it really lies, and the mirror.

use std::collections::{BTreeMap, BTreeSet};

use crate::durable::{Last, Lookup};
use crate::error::{Error, Kind, Result};

use super::content::Content;
use super::manifest::Manifest;
use super::overlay::Tracked;
use super::path::{KERNEL, RelPath, Zone};
use super::plan::{Channel, Item, plan_mirror, plan_union};
use super::trees::Trees;

/// Symlinks that change where others lie settle in two rounds; those that never do lead
/// into each other.
const ROUNDS: u32 = 10;

/// The plan: what is to be in the image, by where it is to be once all of it is there.
///
/// # Errors
/// A destination leads nowhere, or two sources of one channel to one place.
pub(super) fn enumerate(
    trees: &mut Trees,
    tracked: Vec<Tracked>,
    manifest: Option<&Manifest>,
) -> Result<Vec<Item>> {
    let artifacts = || manifest.iter().flat_map(|manifest| &manifest.artifacts);
    let built: BTreeSet<&RelPath> = artifacts().map(|artifact| &artifact.dst).collect();
    // Otherwise what is built would lie where the symlink leads.
    let (shadowed, tracked): (Vec<Tracked>, Vec<Tracked>) = tracked
        .into_iter()
        .partition(|file| file.is_link() && built.contains(&file.dst));
    let shadowed: BTreeSet<RelPath> = shadowed.into_iter().map(|file| file.dst).collect();
    expect_links(trees, &tracked)?;
    let mut wanted = Vec::new();
    for file in tracked {
        let last = if file.is_link() {
            Last::Keep
        } else {
            Last::Follow
        };
        let Tracked { dst, content } = file;
        let place = trees.resolve(&dst, last)?;
        wanted.push(Item::new(dst, place, Channel::Overlay, content));
    }
    for artifact in artifacts() {
        let dst = artifact.dst.clone();
        let place = trees.resolve(&dst, Last::Follow)?;
        let shadows = shadowed.contains(&dst).then_some(Channel::Overlay);
        let content = Content::Built(artifact.src.clone());
        let item = Item::new(dst, place, Channel::Manifest, content);
        wanted.push(Item { shadows, ..item });
    }
    let mut items = plan_union(wanted)?;
    mirror(trees, &mut items)?;
    Ok(items)
}

/// A symlink of the overlay may change where other destinations lie, symlinks too; so
/// all are resolved in the image as it will be.
fn expect_links(trees: &mut Trees, tracked: &[Tracked]) -> Result<()> {
    let mut expected = BTreeMap::new();
    for _ in 0..ROUNDS {
        trees.expect(expected.clone())?;
        let mut found = BTreeMap::new();
        for file in tracked {
            if let Content::Link(target, _) = &file.content {
                found.insert(trees.resolve(&file.dst, Last::Keep)?, target.clone());
            }
        }
        if found == expected {
            return Ok(());
        }
        expected = found;
    }
    let links = tracked.iter().filter(|file| file.is_link());
    let names: Vec<String> = links.map(|file| file.dst.to_string()).collect();
    let message = format!(
        "symlinks of the overlay lead into each other: {}",
        names.join(", ")
    );
    Err(Error::new(Kind::Refused, message).advice("take one of them away, and promote again"))
}

/// `kernel/Image`, once more for `rootfs/boot/Image`.
fn mirror(trees: &mut Trees, items: &mut Vec<Item>) -> Result<()> {
    let named = |name: &str| {
        RelPath::parse(name.as_ref()).map_err(|what| Error::new(Kind::Refused, what).path(name))
    };
    let name = named(KERNEL)?;
    let kernel = trees.resolve(&name, Last::Follow)?;
    let there = trees
        .tree(Zone::Elsewhere)?
        .lookup(&kernel.path)
        .is_ok_and(|seen| !matches!(seen, Lookup::Nothing));
    let comes = |item: &Item| item.place == kernel || item.dst == name;
    if there || items.iter().any(comes) {
        let boot = named("rootfs/boot/Image")?;
        let place = trees.resolve(&boot, Last::Follow)?;
        plan_mirror(items, &kernel, there, (boot, place))?;
    }
    Ok(())
}
