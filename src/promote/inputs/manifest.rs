//! The files that the last build produced, and the commits that it was made from: reads
//! `.build-manifest.yaml` and `.build-state.yaml`. Only what promote needs must be right. What
//! else deviates from the schemas is accepted with a warning.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result, printable};
use crate::promote::inputs::deviations::{Deviation, Deviations};
use crate::promote::inputs::workspace::L4T;
use crate::promote::inputs::yaml::{self, Names, Scalar, Text, Unique};
use crate::promote::path::RelPath;

const REBUILD: &str = "build again, which writes this file anew";

/// The modes of a build, in the words of the schema.
const MODES: [&str; 4] = ["dt", "oot", "kernel", "full"];
const KINDS: [&str; 4] = ["dtb", "kernel_image", "in_tree_module", "oot_module"];

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    mode: Scalar,
    #[serde(default)]
    toolchain: Scalar,
    #[serde(default)]
    bsp_version: Scalar,
    #[serde(default)]
    rebuilt_at: Scalar,
    #[serde(default)]
    dirty_repos: Names,
    artifacts: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    kind: Scalar,
    src: Text,
    dst: Text,
    #[serde(default)]
    source_repo: Scalar,
}

/// Fields as they are written. `38.10` is a number, and the same number as 38.1.
#[derive(Deserialize)]
struct Written {
    bsp_version: Option<String>,
    rebuilt_at: Option<String>,
}

/// One file of the build.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The absolute path of the file.
    pub src: PathBuf,
    /// The destination.
    pub dst: RelPath,
    /// The repository that it was built from, or nothing if that is not known.
    pub source_repo: String,
}

/// A build manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The manifest file.
    pub path: PathBuf,
    /// What was built. This and the next two are empty if the manifest does not say it.
    pub mode: String,
    /// The version of the BSP that it was built for.
    pub bsp_version: String,
    /// The time of the build, as the build wrote it.
    pub rebuilt_at: String,
    /// The repositories that were customized since the build before, and committed.
    pub customized: Vec<String>,
    /// The files of the build.
    pub artifacts: Vec<Artifact>,
    /// The SHA-256 sum of the manifest file.
    pub sha256: String,
    /// The text of the manifest file, for the journal.
    pub text: String,
    /// What deviates from the schema.
    pub deviations: Vec<Deviation>,
}

impl Manifest {
    /// Reads the manifest in `source` for the images at `images`. Returns `None` if there is
    /// none.
    ///
    /// # Errors
    /// The manifest is not YAML, it has no artifacts, or a `dst` is not a path below
    /// `Linux_for_Tegra/`. If `strict`, any deviation from the schema. The existence of the files
    /// is checked later.
    pub fn read(source: &Path, images: &[PathBuf], strict: bool) -> Result<Option<Self>> {
        let path = source.join(".build-manifest.yaml");
        match yaml::read::<Document>(&path, REBUILD)? {
            Some(parsed) => Self::of(parsed, path, images, strict).map(Some),
            None => Ok(None),
        }
    }

    /// Does the same as [`Manifest::read`] with the text of the manifest.
    #[cfg(feature = "internals")]
    pub(crate) fn parse(text: Vec<u8>, source: &Path, strict: bool) -> Result<Self> {
        let path = source.join(".build-manifest.yaml");
        Self::of(yaml::parse(&path, text, REBUILD)?, path, &[], strict)
    }

    fn of(
        parsed: yaml::Parsed<Document>,
        path: PathBuf,
        images: &[PathBuf],
        strict: bool,
    ) -> Result<Self> {
        let source = path.parent().unwrap_or(Path::new(""));
        let (document, text) = (parsed.value, parsed.text);
        let mut known = Deviations::of(&path, strict);
        known.add_unknown(parsed.unknown, parsed.has_mark)?;
        let mut artifacts = Vec::with_capacity(document.artifacts.len());
        for (index, entry) in document.artifacts.into_iter().enumerate() {
            known.text("artifacts[].kind", entry.kind, &KINDS)?;
            let src = source.join(&entry.src.0);
            if !entry.src.0.starts_with('/') {
                known.add("artifacts[].src", "relative", || {
                    format!(
                        "is not absolute: \"{}\", taken as {}",
                        printable(&entry.src.0),
                        printable(&src.to_string_lossy())
                    )
                })?;
            }
            let dst = destination(&entry.dst.0, images, &mut known)?.map_err(|what| {
                let dst = printable(&entry.dst.0);
                let number = index + 1;
                Error::new(
                    Kind::Syntax,
                    format!("artifact {number}: dst \"{dst}\" {what}"),
                )
                .with_path(&path)
                .advice(REBUILD)
            })?;
            artifacts.push(Artifact {
                src,
                dst,
                source_repo: known.text("artifacts[].source_repo", entry.source_repo, &[])?,
            });
        }
        let is_number = |value: &Scalar| matches!(value, Scalar::Other(_));
        let written: Option<Written> =
            match is_number(&document.bsp_version) || is_number(&document.rebuilt_at) {
                true => serde_yaml_ng::from_slice(yaml::without_mark(&text)).ok(),
                false => None,
            };
        let as_written = |value: Scalar, written: Option<&String>| match (value, written) {
            (Scalar::Other(_), Some(written)) => Scalar::Other(written.clone()),
            (value, _) => value,
        };
        let version = written.as_ref().and_then(|w| w.bsp_version.as_ref());
        let version = as_written(document.bsp_version, version);
        let time = written.as_ref().and_then(|w| w.rebuilt_at.as_ref());
        let time = as_written(document.rebuilt_at, time);
        known.text("toolchain", document.toolchain, &[])?;
        if let Some(form) = document.dirty_repos.form {
            known.add("dirty_repos", "form", || {
                format!("{form}, expected a list of maps")
            })?;
        }
        Ok(Self {
            mode: known.text("mode", document.mode, &MODES)?,
            bsp_version: known.text("bsp_version", version, &[])?,
            rebuilt_at: known.text("rebuilt_at", time, &[])?,
            customized: document.dirty_repos.names,
            artifacts,
            sha256: hex::encode(Sha256::digest(&text)),
            text: String::from_utf8_lossy(&text).into_owned(),
            deviations: known.finish(),
            path,
        })
    }

    /// Returns a one-line description of the manifest.
    pub fn scope(&self) -> String {
        let or_unknown = |text: &str| match text {
            "" => "unknown".to_owned(),
            text => printable(text),
        };
        format!(
            "mode={}, bsp_version={}, rebuilt_at={}, {} artifacts",
            or_unknown(&self.mode),
            or_unknown(&self.bsp_version),
            or_unknown(&self.rebuilt_at),
            self.artifacts.len()
        )
    }
}

/// Returns the destinations of a manifest that an earlier run kept.
pub(crate) fn destinations(text: &str, images: &[PathBuf]) -> Vec<RelPath> {
    let path = Path::new("");
    let text = yaml::without_mark(text.as_bytes());
    let Ok(document) = serde_yaml_ng::from_slice::<Document>(text) else {
        return Vec::new();
    };
    let mut known = Deviations::of(path, false);
    let parse = |entry: Entry| destination(&entry.dst.0, images, &mut known).ok()?.ok();
    document.artifacts.into_iter().filter_map(parse).collect()
}

/// Parses a `dst`. It may also be written as a path of the host in one of `images`, as if the
/// image were `/`, or with a leading `Linux_for_Tegra/`.
fn destination(
    dst: &str,
    images: &[PathBuf],
    known: &mut Deviations<'_>,
) -> Result<std::result::Result<RelPath, &'static str>> {
    let is_in_image = |name: &Path| {
        let is_there = |image: &PathBuf| image.join(name).symlink_metadata().is_ok();
        images.iter().any(is_there)
    };
    let below = |top: &PathBuf| Path::new(dst).strip_prefix(top).ok();
    let (rel, what) = if let Some(rel) = images.iter().find_map(below) {
        (rel, "is a path of this machine")
    } else if dst.starts_with('/') {
        let rel = Path::new(dst.trim_start_matches('/'));
        match rel.components().next() {
            Some(Component::Normal(first)) if is_in_image(Path::new(first)) => (rel, "is absolute"),
            _ => return Ok(Err("is absolute")),
        }
    } else {
        match Path::new(dst).strip_prefix(L4T) {
            Ok(rel) if !is_in_image(Path::new(L4T)) => (rel, "begins with Linux_for_Tegra/"),
            _ => return Ok(RelPath::parse(dst.as_ref())),
        }
    };
    // The form of the end says whether a directory is named.
    let end = if dst.ends_with('/') { "/" } else { "" };
    let mut name = rel.as_os_str().to_owned();
    name.push(end);
    known.add("artifacts[].dst", what, || {
        format!("{what}: \"{}\"", printable(dst))
    })?;
    Ok(RelPath::parse(&name))
}

/// The commits that the last build was made from.
#[derive(Debug, Default)]
pub struct BuildState {
    /// The commit IDs, by the paths of the repositories below `bsp_sources/`. They have 4 to 64
    /// hexadecimal digits in lower case.
    pub repos: BTreeMap<String, String>,
    /// What deviates from the schema.
    pub deviations: Vec<Deviation>,
}

#[derive(Deserialize)]
struct State {
    // A commit ID of digits only is a number in YAML.
    repos: Unique,
    #[serde(default)]
    toolchain: Scalar,
    #[serde(default)]
    bsp_version: Scalar,
    #[serde(default)]
    mode: Scalar,
}

impl BuildState {
    /// Reads the state in `source`. Returns `None` if there is none.
    ///
    /// # Errors
    /// The state is not YAML, it lists no repositories, or a commit ID is something else. If
    /// `strict`, any deviation from the schema.
    pub fn read(source: &Path, strict: bool) -> Result<Option<Self>> {
        let path = source.join(".build-state.yaml");
        match yaml::read::<State>(&path, REBUILD)? {
            Some(parsed) => Self::of(parsed, &path, strict).map(Some),
            None => Ok(None),
        }
    }

    /// Does the same as [`BuildState::read`] with the text of the state.
    #[cfg(feature = "internals")]
    pub(crate) fn parse(text: Vec<u8>, source: &Path, strict: bool) -> Result<Self> {
        let path = source.join(".build-state.yaml");
        Self::of(yaml::parse(&path, text, REBUILD)?, &path, strict)
    }

    fn of(parsed: yaml::Parsed<State>, path: &Path, strict: bool) -> Result<Self> {
        let state = parsed.value;
        let mut known = Deviations::of(path, strict);
        known.add_unknown(parsed.unknown, parsed.has_mark)?;
        known.text("toolchain", state.toolchain, &[])?;
        known.text("bsp_version", state.bsp_version, &[])?;
        known.text("mode", state.mode, &MODES)?;
        let wrong = |message: String| {
            Error::new(Kind::Syntax, message)
                .with_path(path)
                .advice(REBUILD)
        };
        let mut repos = BTreeMap::new();
        for (name, id) in state.repos.0 {
            let shown = printable(&name);
            let id = match id {
                Some(id) if !is_not_available(&id) => id,
                _ => {
                    known.add("repos.*", "none", || {
                        format!("has no commit for {shown}, taken as not listed")
                    })?;
                    continue;
                }
            };
            let is_id = (4..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit());
            if !is_id {
                let id = printable(&id);
                return Err(wrong(format!(
                    "\"{id}\", the commit of {shown}, is not a commit id"
                )));
            }
            if !matches!(id.len(), 40 | 64) {
                known.add("repos.*", "short", || {
                    format!("has a short commit id for {shown}: {id}")
                })?;
            }
            let lower = id.to_ascii_lowercase();
            if lower != id {
                known.add("repos.*", "upper", || {
                    format!("has a commit id in upper case for {shown}")
                })?;
            }
            let rel = match Path::new(&name).strip_prefix("bsp_sources") {
                Ok(rel) => {
                    known.add("repos.*", "prefix", || {
                        format!("begins with bsp_sources/: {shown}")
                    })?;
                    rel.to_string_lossy().into_owned()
                }
                Err(_) => name,
            };
            let rel = rel.trim_start_matches("./").trim_end_matches('/');
            let other = repos.insert(rel.to_owned(), lower.clone());
            if other.is_some_and(|other| other != lower) {
                return Err(wrong(format!("two commits for {}", printable(rel))));
            }
        }
        Ok(Self {
            repos,
            deviations: known.finish(),
        })
    }
}

/// Returns whether a text means that there is no value.
pub(crate) fn is_not_available(text: &str) -> bool {
    text.is_empty() || text.eq_ignore_ascii_case("na") || text == "~" || text == "null"
}
