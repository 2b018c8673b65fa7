//! Paths inside the staged image, and their resolved places.

use std::ffi::OsStr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::durable::STAGING_NAME;
use crate::error::printable;

/// The folder of this program in `Linux_for_Tegra/`. It holds the journal, backups and logs.
pub(crate) const SIDECAR: &str = ".lbpayload";

/// The folder below `Linux_for_Tegra/` that belongs to root.
pub(crate) const ROOTFS: &str = "rootfs";

/// The kernel image, below `Linux_for_Tegra/`.
pub(crate) const KERNEL: &str = "kernel/Image";

/// A path below `Linux_for_Tegra/`, as the overlay or a manifest names it. It is relative, not
/// empty, and has no `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelPath(PathBuf);

// A Path takes ten times as long to hash, since `a//b` has the hash of `a/b`. None of these has
// such a form.
impl Hash for RelPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_os_str().hash(state);
    }
}

impl RelPath {
    /// Parses `name`. It must be a path below `Linux_for_Tegra/` and outside this program's
    /// folder.
    pub(crate) fn parse(name: &OsStr) -> std::result::Result<Self, &'static str> {
        let bytes = name.as_bytes();
        if bytes.is_empty() {
            return Err("is empty");
        }
        if bytes.contains(&0) {
            return Err("contains a zero byte");
        }
        if bytes.ends_with(b"/") {
            return Err("ends in /, so it names a directory");
        }
        let mut path = PathBuf::with_capacity(bytes.len());
        for component in Path::new(name).components() {
            match component {
                Component::Normal(name) => path.push(name),
                Component::CurDir => {}
                Component::ParentDir => {
                    return Err("contains .., which could lead out of the image");
                }
                Component::RootDir | Component::Prefix(_) => return Err("is absolute"),
            }
        }
        if bytes.ends_with(b"/.") || path.as_os_str().is_empty() {
            return Err("names a directory");
        }
        let path = Self(path);
        let (zone, in_tree) = path.split();
        match is_reserved(zone, in_tree) {
            true => Err("is in a directory reserved for lbpayload"),
            false => Ok(path),
        }
    }

    /// Returns the path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Returns the tree that the path names, and the path inside that tree.
    pub(crate) fn split(&self) -> (Zone, &Path) {
        match self.0.strip_prefix(ROOTFS) {
            Ok(rest) => (Zone::Rootfs, rest),
            Err(_) => (Zone::Elsewhere, &self.0),
        }
    }
}

/// Returns whether a path in a tree is in a directory of this program.
fn is_reserved(zone: Zone, path: &Path) -> bool {
    path.starts_with(STAGING_NAME) || zone == Zone::Elsewhere && path.starts_with(SIDECAR)
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0.to_string_lossy()))
    }
}

/// The two trees of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zone {
    /// All of `Linux_for_Tegra/` except `rootfs/`. It belongs to the user.
    Elsewhere,
    /// `rootfs/`. It belongs to root, and absolute paths in it start from it.
    Rootfs,
}

/// The place that a path leads to after all symlinks in it are followed.
#[derive(Debug, Clone, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The tree.
    pub zone: Zone,
    /// The path in that tree, without symlinks.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
}

// By their bytes, as for RelPath. Nobody but resolving makes a place.
impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        (self.zone, self.path.as_os_str()) == (other.zone, other.path.as_os_str())
    }
}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.zone, self.path.as_os_str()).hash(state);
    }
}

impl Place {
    /// Returns the path below `Linux_for_Tegra/`.
    pub fn in_image(&self) -> PathBuf {
        match self.zone {
            Zone::Rootfs => Path::new(ROOTFS).join(&self.path),
            Zone::Elsewhere => self.path.clone(),
        }
    }

    /// Returns whether this is in a directory of this program.
    pub(crate) fn is_reserved(&self) -> bool {
        is_reserved(self.zone, &self.path)
    }

    /// Returns whether the initramfs contains this file: the kernel image, or a module in the
    /// directory that `lib` leads to.
    pub(crate) fn dirties_initramfs(&self) -> bool {
        match self.zone {
            Zone::Rootfs => {
                self.path.starts_with("lib/modules")
                    || self.path.starts_with("usr/lib/modules")
                    || self.path == Path::new("boot/Image")
            }
            Zone::Elsewhere => self.path == Path::new(KERNEL),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.in_image().to_string_lossy()))
    }
}

/// Serializes a path as JSON: as a string, or, if it is not UTF-8, as an object with its bytes in
/// hexadecimal.
pub(crate) mod path_bytes {
    use crate::promote::path::*;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Shown {
        Text(String),
        Bytes {
            #[serde(with = "hex::serde")]
            hex: Vec<u8>,
        },
    }

    pub(crate) fn serialize<S: Serializer>(
        path: &Path,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        let shown = match path.to_str() {
            Some(text) => Shown::Text(text.to_owned()),
            None => Shown::Bytes {
                hex: path.as_os_str().as_bytes().to_vec(),
            },
        };
        shown.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<PathBuf, D::Error> {
        Ok(match Shown::deserialize(deserializer)? {
            Shown::Text(text) => text.into(),
            Shown::Bytes { hex } => std::ffi::OsString::from_vec(hex).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_or_name_no_file_are_refused() {
        for (name, why) in [
            ("", "is empty"),
            ("/etc/passwd", "is absolute"),
            ("../x", ".."),
            ("a/../../x", ".."),
            ("a/..", ".."),
            ("kernel/", "ends in /"),
            (".", "directory"),
            ("kernel/.", "directory"),
            ("a\0b", "zero"),
            (".lbpayload/journal", "reserved"),
            ("rootfs/.lbpayload-staging/0", "reserved"),
        ] {
            let said = RelPath::parse(OsStr::new(name)).unwrap_err();
            assert!(said.contains(why), "{name:?}: {said}");
        }
        let taken = RelPath::parse(OsStr::new("./rootfs//etc/a b\n")).unwrap();
        assert_eq!(taken.as_path(), Path::new("rootfs/etc/a b\n"));
        assert_eq!(taken.split(), (Zone::Rootfs, Path::new("etc/a b\n")));
        assert_eq!(taken.to_string(), "rootfs/etc/a b\\n");
    }

    #[test]
    fn a_path_survives_json_whatever_its_bytes() {
        for bytes in [
            &b"usr/lib"[..],
            b"a\xff\xfe b",
            "gr\u{f6}\u{df}e".as_bytes(),
        ] {
            let place = Place {
                zone: Zone::Rootfs,
                path: OsStr::from_bytes(bytes).into(),
            };
            let json = serde_json::to_string(&place).unwrap();
            assert_eq!(serde_json::from_str::<Place>(&json).unwrap(), place);
        }
    }
}
