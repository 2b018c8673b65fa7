//! What the last build made, and from which commits: `.build-manifest.yaml` and
//! `.build-state.yaml`, held to their schema.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result, printable};

use super::path::RelPath;
use super::yaml::{self, Text};

const REBUILD: &str = "rebuild";

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Device trees.
    Dt,
    /// Out-of-tree modules.
    Oot,
    /// The kernel and its modules.
    Kernel,
    /// All of it.
    Full,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dt => "dt",
            Self::Oot => "oot",
            Self::Kernel => "kernel",
            Self::Full => "full",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ArtifactKind {
    Dtb,
    KernelImage,
    InTreeModule,
    OotModule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    mode: Mode,
    #[allow(dead_code)] // part of the schema
    toolchain: Text,
    bsp_version: Text,
    rebuilt_at: Text,
    // A short sha of digits only is a number to YAML, so any value will do.
    dirty_repos: Option<Vec<BTreeMap<String, serde_yaml_ng::Value>>>,
    artifacts: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[allow(dead_code)] // part of the schema
    kind: ArtifactKind,
    src: Text,
    dst: Text,
    source_repo: Text,
}

/// One built file.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// Where the build left it; absolute.
    pub src: PathBuf,
    /// Where it goes.
    pub dst: RelPath,
    /// The repository that it was made from.
    pub source_repo: String,
}

/// A build manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// What was built.
    pub mode: Mode,
    /// For which BSP.
    pub bsp_version: String,
    /// When, as the build wrote it.
    pub rebuilt_at: String,
    /// Repositories that had edits when they were built.
    pub dirty_repos: Vec<String>,
    /// What was made.
    pub artifacts: Vec<Artifact>,
    /// The SHA-256 sum of the file.
    pub sha256: String,
    /// The file itself, for the journal.
    pub text: String,
}

impl Manifest {
    /// Reads the manifest in `source`; `None` where there is none.
    ///
    /// # Errors
    /// It is no YAML or not this schema, a `src` is not absolute, or a `dst` is no
    /// path below `Linux_for_Tegra/`. Whether the files are there is looked at later.
    pub fn read(source: &Path) -> Result<Option<Self>> {
        let path = source.join(".build-manifest.yaml");
        let Some((document, text)) = yaml::read::<Document>(&path, REBUILD)? else {
            return Ok(None);
        };
        let wrong = |number: usize, message: String| {
            Error::new(Kind::Syntax, format!("artifact {number}: {message}"))
                .path(&path)
                .advice(REBUILD)
        };
        let mut artifacts = Vec::with_capacity(document.artifacts.len());
        for (index, entry) in document.artifacts.into_iter().enumerate() {
            let number = index + 1;
            let (src, dst) = (entry.src.0, entry.dst.0);
            if !src.starts_with('/') {
                let src = printable(&src);
                return Err(wrong(number, format!("src \"{src}\" is not absolute")));
            }
            let dst = RelPath::parse(dst.as_ref())
                .map_err(|what| wrong(number, format!("dst \"{}\" {what}", printable(&dst))))?;
            artifacts.push(Artifact {
                src: src.into(),
                dst,
                source_repo: entry.source_repo.0,
            });
        }
        let dirty = document.dirty_repos.unwrap_or_default();
        Ok(Some(Self {
            mode: document.mode,
            bsp_version: document.bsp_version.0,
            rebuilt_at: document.rebuilt_at.0,
            dirty_repos: dirty.into_iter().flat_map(BTreeMap::into_keys).collect(),
            artifacts,
            sha256: hex::encode(Sha256::digest(&text)),
            text: String::from_utf8_lossy(&text).into_owned(),
        }))
    }

    /// One line of what it is.
    pub fn scope(&self) -> String {
        format!(
            "mode={}, bsp_version={}, rebuilt_at={}, {} artifacts",
            self.mode,
            printable(&self.bsp_version),
            printable(&self.rebuilt_at),
            self.artifacts.len()
        )
    }
}

/// Which commits the last build was made from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildState {
    /// Full commit ids, by path under `bsp_sources/`. As they are written: one of digits
    /// only is a number to YAML.
    pub repos: BTreeMap<String, String>,
    #[allow(dead_code)] // part of the schema
    toolchain: Text,
    #[allow(dead_code)]
    bsp_version: Text,
    #[allow(dead_code)]
    mode: Mode,
}

impl BuildState {
    /// Reads the state in `source`; `None` where there is none.
    ///
    /// # Errors
    /// It is no YAML, or not this schema.
    pub fn read(source: &Path) -> Result<Option<Self>> {
        let path = source.join(".build-state.yaml");
        let Some((state, _)) = yaml::read::<Self>(&path, REBUILD)? else {
            return Ok(None);
        };
        let is_full = |id: &str| {
            matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        match state.repos.iter().find(|(_, id)| !is_full(id)) {
            None => Ok(Some(state)),
            Some((name, id)) => {
                let (name, id) = (printable(name), printable(id));
                let message = format!("\"{id}\", built of {name}, is no full commit id");
                Err(Error::new(Kind::Syntax, message)
                    .path(&path)
                    .advice(REBUILD))
            }
        }
    }
}
