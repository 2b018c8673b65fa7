//! The workspace: the active target, and the paths of its sources and its image.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result, printable};
use crate::promote::inputs::deviations::{Deviation, Deviations};
use crate::promote::inputs::invoker;
use crate::promote::inputs::yaml::{self, Scalar};
use crate::promote::refused::refused;

/// The folder that marks a directory as a workspace.
const TARGETS: &str = "target-platform";
const POINTER: &str = "active_target.yml";
/// The other name that people give the pointer.
const POINTER_TOO: &str = "active_target.yaml";
const SET_TARGET: &str =
    "write the name of a profile in the same directory into it: `active: PROFILE.yaml`";

/// The folder that both trees contain.
pub(crate) const L4T: &str = "Linux_for_Tegra";

/// The settings of the active profile, with absolute paths.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The directory that holds `target-platform/`.
    pub root: PathBuf,
    /// `<source.root_path>`.
    pub source: PathBuf,
    /// `<bsp_image.root_path>/Linux_for_Tegra`.
    pub image: PathBuf,
    /// `bsp_image.version`, if the profile has it.
    pub version: Option<String>,
    /// What deviates from the schemas of the pointer and of the profile.
    pub deviations: Vec<Deviation>,
}

#[derive(Deserialize)]
struct Pointer {
    active: Option<String>,
}

#[derive(Deserialize)]
struct Profile {
    #[serde(default)]
    bsp_image: Section,
    #[serde(default)]
    source: Section,
}

/// A block of the profile.
#[derive(Default)]
enum Section {
    #[default]
    Missing,
    /// The text NA.
    NotAvailable,
    Block(Block),
}

#[derive(Default, Deserialize)]
struct Block {
    #[serde(default)]
    root_path: Scalar,
    // The version is a text, but YAML reads it as a number if the quotes are missing.
    version: Option<String>,
}

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct BlockOrNot;
        impl<'de> Visitor<'de> for BlockOrNot {
            type Value = Section;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            // The block may be empty, since all its fields have defaults.
            fn visit_unit<E>(self) -> std::result::Result<Section, E> {
                Ok(Section::Block(Block::default()))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Section, E> {
                match text.eq_ignore_ascii_case("na") {
                    true => Ok(Section::NotAvailable),
                    false => Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<Section, A::Error> {
                Block::deserialize(MapAccessDeserializer::new(map)).map(Section::Block)
            }
        }
        deserializer.deserialize_any(BlockOrNot)
    }
}

impl Workspace {
    /// Returns the workspace at `named`, or the one that contains the current directory.
    ///
    /// # Errors
    /// One of the errors of the step "resolve": there is no workspace, no target is active, the
    /// profile lacks a block, or a tree does not exist. If `strict`, any deviation from the
    /// schemas of the pointer and of the profile.
    pub fn probe(named: Option<&Path>, strict: bool) -> Result<Self> {
        let this = Self::resolve(named, strict)?;
        if !this.image.is_dir() {
            return Err(refused(
                "no such directory, expected the BSP image",
                &this.image,
                "set up the BSP image there, or correct bsp_image.root_path in the profile",
            )
            .with_code("no-image"));
        }
        Ok(this)
    }

    /// Does the same, but the image of the profile need not exist.
    ///
    /// # Errors
    /// The other ones of [`Workspace::probe`].
    pub fn resolve(named: Option<&Path>, strict: bool) -> Result<Self> {
        let root = match named {
            Some(dir) => {
                let root = std::path::absolute(dir)
                    .map_err(|e| Error::io("open the workspace", e).with_path(dir))?;
                if !root.join(TARGETS).is_dir() {
                    return Err(refused(
                        format!("not a workspace, it has no {TARGETS}/"),
                        &root,
                        format!("name the directory that has {TARGETS}/"),
                    )
                    .with_code("no-workspace"));
                }
                root
            }
            None => find()?,
        };
        let (profile, mut deviations) = active(&root, strict)?;
        let advice = "correct the profile";
        let parsed = yaml::read::<Profile>(&profile, advice)?.ok_or_else(|| {
            refused(
                format!("no such file, but {POINTER} names it"),
                &profile,
                format!("create it, or name another profile in {POINTER}"),
            )
            .with_code("no-target")
        })?;
        let mut known = Deviations::of(&profile, strict);
        known.add_unknown(Default::default(), parsed.has_mark)?;
        let Profile { bsp_image, source } = parsed.value;
        let Section::Block(image) = bsp_image else {
            let advice = "add the block with the root_path of the BSP image";
            let error = refused("the profile has no block bsp_image:", &profile, advice);
            return Err(error.with_code("no-image"));
        };
        let mut at = |block: &str, path: Scalar, default: &Path| {
            path_of(
                &format!("{block}.root_path"),
                path,
                default,
                &root,
                &mut known,
                &profile,
            )
        };
        let image_tree = at("bsp_image", image.root_path, &root.join("Image"))?.join(L4T);
        let default = root.join("Source");
        let source = match source {
            Section::Block(block) => at("source", block.root_path, &default)?,
            missing if default.is_dir() => {
                if let Section::NotAvailable = missing {
                    known.add("source", "na", || {
                        format!("is NA, taken as {}", printable(&default.to_string_lossy()))
                    })?;
                }
                default
            }
            _ => {
                let advice = format!(
                    "add the block with the root_path of the sources, or create {}",
                    printable(&default.to_string_lossy())
                );
                let error = refused("the profile has no block source:", &profile, advice);
                return Err(error.with_code("no-source"));
            }
        };
        deviations.extend(known.finish());
        Ok(Self {
            root,
            source,
            image: image_tree,
            version: image.version,
            deviations,
        })
    }

    /// Returns the path of the overlay tracker.
    pub fn tracker(&self) -> PathBuf {
        self.source.join(L4T)
    }

    /// Returns the directory of the kernel-side repositories.
    pub fn kernel_sources(&self) -> PathBuf {
        self.source.join("bsp_sources")
    }
}

/// Searches from the current directory upwards.
fn find() -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|e| Error::io("get the current directory", e))?;
    here.ancestors()
        .find(|dir| dir.join(TARGETS).is_dir())
        .map(Path::to_path_buf)
        .ok_or_else(|| {
            refused(
                format!("not in a workspace, no {TARGETS}/ here or in a parent directory"),
                &here,
                format!("name the directory that has {TARGETS}/"),
            )
            .with_code("no-workspace")
        })
}

/// Returns the path of the active profile.
fn active(root: &Path, strict: bool) -> Result<(PathBuf, Vec<Deviation>)> {
    let dir = root.join(TARGETS);
    let (first, second) = (dir.join(POINTER), dir.join(POINTER_TOO));
    let is_second = !first.exists() && second.exists();
    let pointer = if is_second { second } else { first };
    let none = |message: &str| refused(message, &pointer, SET_TARGET).with_code("no-target");
    let Some(parsed) = yaml::read::<Pointer>(&pointer, SET_TARGET)? else {
        return Err(none("no such file, so no target is active"));
    };
    let mut known = Deviations::of(&pointer, strict);
    known.add_unknown(Default::default(), parsed.has_mark)?;
    if is_second {
        known.add("(name)", "name", || format!("is not {POINTER}"))?;
    }
    let written = match parsed.value.active.as_deref() {
        None | Some("") => return Err(none("names no active target")),
        Some(name) if name.eq_ignore_ascii_case("na") => {
            return Err(none("no target is active (active: NA)"));
        }
        Some(name) => name.to_owned(),
    };
    // Removes `.` components.
    let path: PathBuf = Path::new(&written)
        .components()
        .filter(|component| *component != Component::CurDir)
        .collect();
    let path = path.strip_prefix(TARGETS).unwrap_or(&path);
    let mut components = path.components();
    let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else {
        return Err(none("expected the name of a file in the same directory"));
    };
    let mut profile = dir.join(name);
    if !profile.exists() {
        let with = |ending: &str| {
            let mut name = name.to_owned();
            name.push(ending);
            dir.join(name)
        };
        let found = [".yaml", ".yml"].map(with).into_iter().find(|p| p.exists());
        profile = found.unwrap_or(profile);
    }
    if profile.file_name() != Some(written.as_ref()) && profile.exists() {
        known.add("active", "form", || {
            let taken = profile.file_name().unwrap_or_default().to_string_lossy();
            let (written, taken) = (printable(&written), printable(&taken));
            format!("is \"{written}\", taken as {taken}")
        })?;
    }
    Ok((profile, known.finish()))
}

/// Returns the directory that a field of the profile names.
fn path_of(
    field: &str,
    path: Scalar,
    default: &Path,
    root: &Path,
    known: &mut Deviations<'_>,
    profile: &Path,
) -> Result<PathBuf> {
    let path = match path {
        Scalar::Missing | Scalar::Null => return Ok(default.to_path_buf()),
        Scalar::Text(path) if path.starts_with('/') => return Ok(path.into()),
        Scalar::Text(path) => path,
        Scalar::Other(path) => {
            let error = refused(
                format!("{field} is not a path: {}", printable(&path)),
                profile,
                "write an absolute path, or remove root_path to use the default",
            );
            return Err(error.with_code("bad-profile"));
        }
    };
    let home = || invoker::home().unwrap_or_else(|| root.to_path_buf());
    let taken = match path.strip_prefix('~') {
        _ if path.is_empty() || path.eq_ignore_ascii_case("na") => default.to_path_buf(),
        Some("") => home(),
        Some(rest) if rest.starts_with('/') => home().join(rest.trim_start_matches('/')),
        _ => root.join(&path),
    };
    known.add(field, "form", || {
        let (path, taken) = (printable(&path), taken.to_string_lossy());
        format!(
            "is not absolute: \"{path}\", taken as {}",
            printable(&taken)
        )
    })?;
    Ok(taken)
}

/// Returns the `Linux_for_Tegra/` of `image`, which is this folder itself or its parent.
pub(crate) fn image_tree(image: &Path) -> Result<PathBuf> {
    let inside = image.join(L4T);
    let dir = if inside.is_dir() {
        inside
    } else {
        image.into()
    };
    if dir.is_dir() {
        return Ok(dir);
    }
    Err(refused(
        "no such directory, expected a BSP image",
        image,
        "name the directory that contains Linux_for_Tegra/",
    )
    .with_code("no-image"))
}
