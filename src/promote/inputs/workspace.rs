//! The workspace: the active target, and the paths of its sources and its image.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result, printable};
use crate::promote::inputs::yaml;
use crate::promote::refused::refused;

/// The folder that marks a directory as a workspace.
const TARGETS: &str = "target-platform";
const POINTER: &str = "active_target.yml";
const SET_TARGET: &str =
    "write the name of a profile in the same directory into it: `active: PROFILE.yaml`";

/// The folder that both trees contain.
pub(crate) const L4T: &str = "Linux_for_Tegra";

/// The settings of the active profile, with absolute paths.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// `<source.root_path>`.
    pub source: PathBuf,
    /// `<bsp_image.root_path>/Linux_for_Tegra`.
    pub image: PathBuf,
    /// `bsp_image.version`, if the profile has it.
    pub version: Option<String>,
}

#[derive(Deserialize)]
struct Pointer {
    active: Option<String>,
}

#[derive(Deserialize)]
struct Profile {
    #[serde(default, deserialize_with = "block")]
    bsp_image: Option<Block>,
    #[serde(default, deserialize_with = "block")]
    source: Option<Block>,
}

#[derive(Default, Deserialize)]
struct Block {
    root_path: Option<String>,
    // The version is a text, but YAML reads it as a number if the quotes are missing.
    version: Option<serde_yaml_ng::Value>,
}

/// Parses a block that may be empty, since all its fields have defaults.
fn block<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Block>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or_default()))
}

impl Workspace {
    /// Returns the workspace at `named`, or the one that contains the current directory.
    ///
    /// # Errors
    /// One of the errors of the step "resolve": there is no workspace, no target is active, the
    /// profile lacks a block, or a tree does not exist.
    pub fn probe(named: Option<&Path>) -> Result<Self> {
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
        let profile = active(&root)?;
        let advice = "correct the profile";
        let (blocks, _) = yaml::read::<Profile>(&profile, advice)?.ok_or_else(|| {
            refused(
                format!("no such file, but {POINTER} names it"),
                &profile,
                format!("create it, or name another profile in {POINTER}"),
            )
            .with_code("no-target")
        })?;
        let image = blocks.bsp_image.ok_or_else(|| {
            let advice = "add the block with the root_path of the BSP image";
            refused("the profile has no block bsp_image:", &profile, advice).with_code("no-image")
        })?;
        let at = |block: &str, path: Option<String>, default: &Path| match path {
            None => Ok(default.to_path_buf()),
            Some(path) => absolute(&profile, block, &path),
        };
        let image_tree = at("bsp_image", image.root_path, &root.join("Image"))?.join(L4T);
        let default = root.join("Source");
        let source = match blocks.source {
            Some(block) => at("source", block.root_path, &default)?,
            None if default.is_dir() => default,
            None => {
                let advice = format!(
                    "add the block with the root_path of the sources, or create {}",
                    printable(&default.to_string_lossy())
                );
                let error = refused("the profile has no block source:", &profile, advice);
                return Err(error.with_code("no-source"));
            }
        };
        if !image_tree.is_dir() {
            return Err(refused(
                "no such directory, expected the BSP image",
                &image_tree,
                "set up the BSP image there, or correct bsp_image.root_path in the profile",
            )
            .with_code("no-image"));
        }
        Ok(Self {
            source,
            image: image_tree,
            version: image.version.and_then(|value| match value {
                serde_yaml_ng::Value::String(text) => Some(text),
                serde_yaml_ng::Value::Number(number) => Some(number.to_string()),
                _ => None,
            }),
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
fn active(root: &Path) -> Result<PathBuf> {
    let dir = root.join(TARGETS);
    let pointer = dir.join(POINTER);
    let none = |message: &str| refused(message, &pointer, SET_TARGET).with_code("no-target");
    let Some((Pointer { active }, _)) = yaml::read(&pointer, SET_TARGET)? else {
        return Err(none("no such file, so no target is active"));
    };
    let name = match active.as_deref() {
        None | Some("") => return Err(none("names no active target")),
        Some("NA") => return Err(none("no target is active (active: NA)")),
        Some(name) => name,
    };
    let mut components = Path::new(name).components();
    if !matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    ) {
        return Err(none("expected the name of a file in the same directory"));
    }
    Ok(dir.join(name))
}

fn absolute(profile: &Path, block: &str, path: &str) -> Result<PathBuf> {
    if path.starts_with('/') {
        return Ok(path.into());
    }
    let message = format!("{block}.root_path is not absolute: \"{}\"", printable(path));
    Err(refused(
        message,
        profile,
        "write an absolute path, or remove root_path to use the default",
    )
    .with_code("bad-profile"))
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
