//! The union of both channels: it decides which file goes where, before anything is written. This
//! module does no I/O.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::promote::inputs::content::Content;
use crate::promote::path::{KERNEL, Place, RelPath, Zone};
use crate::promote::refused::refused;
use crate::promote::tree::protocol::Found;

/// The channel that a file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// The overlay tracker.
    Overlay,
    /// The build manifest.
    Manifest,
    /// The mirror, which copies `kernel/Image` to `rootfs/boot/Image`.
    Mirror,
    /// The journal, in a rollback.
    Rollback,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlay => "overlay",
            Self::Manifest => "manifest",
            Self::Mirror => "mirror",
            Self::Rollback => "rollback",
        })
    }
}

/// A file that the image should hold.
#[derive(Debug, Clone)]
pub struct Item {
    /// The destination, as it is named.
    pub dst: RelPath,
    /// The resolved destination.
    pub place: Place,
    /// The channel that it comes from.
    pub channel: Channel,
    /// The wanted content.
    pub(crate) content: Content,
    /// The channel that has another content for this destination, but lower priority.
    pub shadows: Option<Channel>,
    /// Whether it should be executable. `None` if that is left as it is.
    pub(crate) executable: Option<bool>,
    /// Another source of the same channel that has the same bytes for it.
    pub(crate) double: Option<PathBuf>,
    /// The result of the comparison with the image.
    pub(crate) found: Found,
    /// The length in bytes.
    pub bytes: u64,
}

impl Item {
    pub(crate) fn new(dst: RelPath, place: Place, channel: Channel, content: Content) -> Self {
        Self {
            dst,
            place,
            channel,
            content,
            shadows: None,
            executable: None,
            double: None,
            found: Found::Missing,
            bytes: 0,
        }
    }

    /// Returns whether it must be written.
    pub fn is_to_be_written(&self) -> bool {
        self.found != Found::Same
    }

    /// Returns whether it is a symlink of the overlay that must be written.
    pub(crate) fn is_new_link(&self) -> bool {
        self.channel == Channel::Overlay && self.content.link().is_some() && self.is_to_be_written()
    }

    /// Returns whether it is removed from the image.
    pub fn is_removal(&self) -> bool {
        self.content == Content::Absent
    }

    /// Returns whether only root can tell if it must be written.
    pub fn is_unreadable(&self) -> bool {
        self.found == Found::Denied
    }

    /// Returns whether writing it makes the initramfs outdated.
    pub fn dirties_initramfs(&self) -> bool {
        let (zone, path) = self.dst.split();
        let named = Place {
            zone,
            path: path.to_path_buf(),
        };
        self.place.dirties_initramfs() || named.dirties_initramfs()
    }
}

/// Returns the union of both channels: one item for each place. If both name a place, the
/// manifest wins.
///
/// # Errors
/// One channel has two contents for one place, or a file where another file needs a directory.
pub(crate) fn plan_union(wanted: Vec<Item>) -> Result<Vec<Item>> {
    let mut union: BTreeMap<Place, Item> = BTreeMap::new();
    for item in wanted {
        match union.entry(item.place.clone()) {
            Entry::Vacant(place) => {
                place.insert(item);
            }
            Entry::Occupied(mut other) => {
                let other = other.get_mut();
                if other.channel != item.channel {
                    let (mut wins, loses) = if item.channel > other.channel {
                        (item, other.clone())
                    } else {
                        (other.clone(), item)
                    };
                    wins.shadows = Some(loses.channel);
                    *other = wins;
                } else if other.content != item.content {
                    return Err(contradiction(other, &item));
                }
            }
        }
    }
    let mut items: Vec<Item> = union.into_values().collect();
    for pair in items.windows(2) {
        let (above, below) = (&pair[0], &pair[1]);
        let is_below =
            above.place.zone == below.place.zone && below.place.path.starts_with(&above.place.path);
        // Once this symlink is written, the path behind it leads to another place.
        if is_below && above.content.link().is_none() {
            return Err(refused(
                format!(
                    "a file in the {}, but the directory of {} in the {}",
                    above.channel, below.dst, below.channel
                ),
                above.dst.as_path(),
                "remove one of the two, then promote again",
            )
            .with_code("conflict"));
        }
    }
    // The overlay is written first.
    items.sort_by_key(|item| item.channel);
    Ok(items)
}

fn contradiction(one: &Item, other: &Item) -> Error {
    let from = |item: &Item| match &item.content {
        Content::Built(path) => path.clone(),
        _ => item.dst.as_path().to_path_buf(),
    };
    let (a, b) = (from(one), from(other));
    let message = format!("the {} has two different files for it", one.channel);
    let advice = format!(
        "remove {} or {} from the {}, then promote again",
        crate::error::printable(&a.to_string_lossy()),
        crate::error::printable(&b.to_string_lossy()),
        one.channel
    );
    refused(message, one.place.in_image(), advice).with_code("conflict")
}

/// Adds the mirror: `boot`, the place of `rootfs/boot/Image`, gets the content that `kernel`, the
/// place of `kernel/Image`, will have. Without a kernel image there is no mirror.
pub(crate) fn plan_mirror(
    items: &mut Vec<Item>,
    kernel: &Place,
    kernel_is_there: bool,
    boot: (RelPath, Place),
) -> Result<()> {
    let is_link =
        |item: &&Item| item.dst.as_path() == Path::new(KERNEL) && item.content.link().is_some();
    if let Some(item) = items.iter().find(is_link) {
        return Err(refused(
            "a symlink in the overlay, expected a file",
            item.dst.as_path(),
            "commit the file itself in place of the symlink",
        )
        .with_code("bad-overlay"));
    }
    let content = match items.iter().find(|item| item.place == *kernel) {
        Some(item) => item.content.clone(),
        None if kernel_is_there => Content::StagedKernel(kernel.path.clone()),
        None => return Ok(()),
    };
    let (dst, place) = boot;
    let mut mirror = Item::new(dst, place, Channel::Mirror, content);
    if let Some(at) = items.iter().position(|item| item.place == mirror.place) {
        mirror.shadows = Some(items.remove(at).channel);
    }
    items.push(mirror);
    Ok(())
}

/// Returns the space in bytes that writing `items` to `zone` takes. Each file takes whole blocks.
pub(crate) fn plan_room(items: &[Item], zone: Zone, block: u64) -> u64 {
    let blocks = |bytes: u64| bytes.div_ceil(block.max(1)).saturating_mul(block);
    items
        .iter()
        .filter(|item| item.place.zone == zone && item.is_to_be_written())
        // One more block for a possible growth of the directory.
        .map(|item| blocks(item.bytes).saturating_add(block))
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(channel: Channel, dst: &str, source: &str) -> Item {
        let dst = RelPath::parse(dst.as_ref()).unwrap();
        let (zone, path) = dst.split();
        let place = Place {
            zone,
            // As in every rootfs since the merge of /usr.
            path: match path.strip_prefix("lib") {
                Ok(rest) if zone == Zone::Rootfs => Path::new("usr/lib").join(rest),
                _ => path.to_path_buf(),
            },
        };
        Item::new(dst, place, channel, Content::Built(source.into()))
    }

    use Channel::{Manifest, Mirror, Overlay};

    #[test]
    fn the_manifest_shadows_the_overlay_whatever_name_it_uses() {
        let items = plan_union(vec![
            item(Overlay, "rootfs/lib/modules/a.ko", "/o"),
            item(Manifest, "rootfs/usr/lib/modules/a.ko", "/m"),
        ])
        .unwrap();
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].channel, Manifest);
        assert_eq!(items[0].shadows, Some(Overlay));
        assert!(items[0].dirties_initramfs());
    }

    #[test]
    fn two_contents_of_one_channel_for_one_place_are_refused() {
        let twice = |other| {
            plan_union(vec![
                item(Manifest, "kernel/Image", "/a"),
                item(Manifest, "kernel/./Image", other),
            ])
        };
        assert_eq!(twice("/a").unwrap().len(), 1);
        let error = twice("/b").unwrap_err();
        assert_eq!(error.code(), "conflict");
        assert!(error.help().unwrap().contains("/a or /b"), "{error}");
        let nested = plan_union(vec![
            item(Overlay, "kernel", "/a"),
            item(Manifest, "kernel/Image", "/b"),
        ]);
        assert_eq!(nested.unwrap_err().code(), "conflict");
    }

    #[test]
    fn the_mirror_uses_the_planned_kernel_and_wins() {
        let mut items = plan_union(vec![
            item(Manifest, "kernel/Image", "/new"),
            item(Overlay, "rootfs/boot/Image", "/other"),
        ])
        .unwrap();
        let kernel = item(Manifest, "kernel/Image", "").place;
        let boot = || {
            let boot = item(Mirror, "rootfs/boot/Image", "");
            (boot.dst, boot.place)
        };
        plan_mirror(&mut items, &kernel, true, boot()).unwrap();
        assert_eq!(items.len(), 2);
        assert_eq!(items[1].content, Content::Built("/new".into()));
        assert_eq!(items[1].shadows, Some(Overlay));
        let mut none = Vec::new();
        plan_mirror(&mut none, &kernel, false, boot()).unwrap();
        assert!(none.is_empty());
        plan_mirror(&mut none, &kernel, true, boot()).unwrap();
        let staged = Content::StagedKernel("kernel/Image".into());
        assert_eq!(none[0].content, staged);
    }
}
