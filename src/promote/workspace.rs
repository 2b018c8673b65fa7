//! The workspace: which target is active, and where its sources and its image are.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::error::{Error, Kind, Result, printable};

use super::path::ROOTFS;
use super::yaml;

/// The folder that makes a directory a workspace.
const TARGETS: &str = "target-platform";
const POINTER: &str = "active_target.yml";
const SET_TARGET: &str = "set the active target, or init one";
const INIT_IMAGE: &str = "init the image";
const INIT_SOURCE: &str = "init the source";

/// The folder that both trees have.
pub(super) const L4T: &str = "Linux_for_Tegra";

/// What the active profile says, every path of it absolute.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The directory that holds `target-platform/`.
    pub root: PathBuf,
    /// The active profile.
    pub profile: PathBuf,
    /// `<source.root_path>`.
    pub source: PathBuf,
    /// `<bsp_image.root_path>/Linux_for_Tegra`.
    pub image: PathBuf,
    /// `bsp_image.version`, where the profile says it.
    pub version: Option<String>,
}

#[derive(Deserialize)]
struct Pointer {
    active: Option<String>,
}

#[derive(Deserialize)]
struct Profile {
    #[serde(default, deserialize_with = "block")]
    bsp_image: Option<ImageBlock>,
    #[serde(default, deserialize_with = "block")]
    source: Option<SourceBlock>,
}

/// A block that is there, if bare: everything in it has a default.
fn block<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or_default()))
}

#[derive(Default, Deserialize)]
struct ImageBlock {
    root_path: Option<String>,
    // A version is a text, and a number where somebody forgot the quotes.
    version: Option<serde_yaml_ng::Value>,
}

#[derive(Default, Deserialize)]
struct SourceBlock {
    root_path: Option<String>,
}

impl Workspace {
    /// The workspace at `named`, or the one that the current directory is in.
    ///
    /// # Errors
    /// Every row of the step "resolve": there is none, no target is active, the
    /// profile lacks a block, a tree is not there.
    pub fn probe(named: Option<&Path>) -> Result<Self> {
        let root = match named {
            Some(dir) => {
                let root = std::path::absolute(dir)
                    .map_err(|e| Error::io("opening the workspace", e).path(dir))?;
                if !root.join(TARGETS).is_dir() {
                    return Err(refused(
                        format!("it holds no {TARGETS}/, so it is no workspace"),
                        &root,
                        "name the directory that does, or init a target",
                    ));
                }
                root
            }
            None => find()?,
        };
        let profile = active(&root)?;
        let advice = "correct the profile, or init the target again";
        let (blocks, _) = yaml::read::<Profile>(&profile, advice)?.ok_or_else(|| {
            refused(
                format!("{POINTER} points to it, and it is not there"),
                &profile,
                SET_TARGET,
            )
        })?;
        let image = blocks.bsp_image.ok_or_else(|| {
            refused(
                "the profile has no block bsp_image:".into(),
                &profile,
                INIT_IMAGE,
            )
        })?;
        let default = |name: &str| root.join(name);
        let at = |block: &str, path: Option<String>, name: &str| match path {
            None => Ok(default(name)),
            Some(path) => absolute(&profile, block, &path),
        };
        let image_root = at("bsp_image", image.root_path, "Image")?;
        let source = match blocks.source {
            Some(block) => at("source", block.root_path, "Source")?,
            None if default("Source").is_dir() => default("Source"),
            None => {
                return Err(refused(
                    format!(
                        "the profile has no block source:, and there is no {}",
                        printable(&default("Source").to_string_lossy())
                    ),
                    &profile,
                    INIT_SOURCE,
                ));
            }
        };
        let image_tree = image_root.join(L4T);
        if !image_tree.is_dir() {
            return Err(refused(
                "the BSP image is not there".into(),
                &image_tree,
                INIT_IMAGE,
            ));
        }
        Ok(Self {
            root,
            profile,
            source,
            image: image_tree,
            version: image.version.and_then(|value| match value {
                serde_yaml_ng::Value::String(text) => Some(text),
                serde_yaml_ng::Value::Number(number) => Some(number.to_string()),
                _ => None,
            }),
        })
    }

    /// The overlay tracker.
    pub fn tracker(&self) -> PathBuf {
        self.source.join(L4T)
    }

    /// The directory of the kernel-side repositories.
    pub fn kernel_sources(&self) -> PathBuf {
        self.source.join("bsp_sources")
    }

    /// The rootfs of the image.
    pub fn rootfs(&self) -> PathBuf {
        self.image.join(ROOTFS)
    }
}

fn refused(message: String, path: &Path, advice: &str) -> Error {
    Error::new(Kind::Refused, message)
        .path(path)
        .advice(advice.to_owned())
}

/// Walks up from the current directory.
fn find() -> Result<PathBuf> {
    let here =
        std::env::current_dir().map_err(|e| Error::io("asking for the current directory", e))?;
    here.ancestors()
        .find(|dir| dir.join(TARGETS).is_dir())
        .map(Path::to_path_buf)
        .ok_or_else(|| {
            refused(
                format!("neither it nor a directory above it holds {TARGETS}/"),
                &here,
                "go into a workspace, name one with --workspace, or init a target",
            )
        })
}

/// The active profile.
fn active(root: &Path) -> Result<PathBuf> {
    let dir = root.join(TARGETS);
    let pointer = dir.join(POINTER);
    let none = |message: &str| refused(message.into(), &pointer, SET_TARGET);
    let Some((Pointer { active }, _)) = yaml::read(&pointer, SET_TARGET)? else {
        return Err(none("there is no active target"));
    };
    let name = match active.as_deref() {
        None | Some("") => return Err(none("it names no active target")),
        Some("NA") => return Err(none("no target is active (active: NA)")),
        Some(name) => name,
    };
    let mut components = Path::new(name).components();
    if !matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    ) {
        return Err(none("what it names is no file beside it"));
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
        "write an absolute path, or leave it out for the default",
    ))
}
