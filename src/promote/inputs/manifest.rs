//! The files that the last build produced, and the commits that it was made from: reads
//! `.build-manifest.yaml` and `.build-state.yaml` and checks them against their schemas.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result, printable};
use crate::promote::inputs::yaml::{self, Text};
use crate::promote::path::RelPath;

const REBUILD: &str = "build again, which writes this file anew";

/// The modes of a build, in the words of the schema.
const MODES: [&str; 4] = ["dt", "oot", "kernel", "full"];
const KINDS: [&str; 4] = ["dtb", "kernel_image", "in_tree_module", "oot_module"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    mode: Text,
    #[allow(dead_code)] // part of the schema
    toolchain: Text,
    bsp_version: Text,
    rebuilt_at: Text,
    // YAML reads a short commit ID of digits only as a number, so any value is accepted.
    dirty_repos: Option<Vec<BTreeMap<String, serde_yaml_ng::Value>>>,
    artifacts: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: Text,
    src: Text,
    dst: Text,
    source_repo: Text,
}

/// One file of the build.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The absolute path of the file.
    pub src: PathBuf,
    /// The destination.
    pub dst: RelPath,
    /// The repository that it was built from.
    pub source_repo: String,
}

/// A build manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// What was built.
    pub mode: String,
    /// The version of the BSP that it was built for.
    pub bsp_version: String,
    /// The time of the build, as the build wrote it.
    pub rebuilt_at: String,
    /// The repositories that had uncommitted changes during the build.
    pub dirty_repos: Vec<String>,
    /// The files of the build.
    pub artifacts: Vec<Artifact>,
    /// The SHA-256 sum of the manifest file.
    pub sha256: String,
    /// The text of the manifest file, for the journal.
    pub text: String,
}

impl Manifest {
    /// Reads the manifest in `source`. Returns `None` if there is none.
    ///
    /// # Errors
    /// The manifest is not YAML or does not match the schema, a `src` is not absolute, or a `dst`
    /// is not a path below `Linux_for_Tegra/`. The existence of the files is checked later.
    pub fn read(source: &Path) -> Result<Option<Self>> {
        let path = source.join(".build-manifest.yaml");
        let Some((document, text)) = yaml::read::<Document>(&path, REBUILD)? else {
            return Ok(None);
        };
        let wrong = |number: usize, message: String| {
            Error::new(Kind::Syntax, format!("artifact {number}: {message}"))
                .with_path(&path)
                .advice(REBUILD)
        };
        check_word(&path, "mode", &document.mode, &MODES)?;
        let mut artifacts = Vec::with_capacity(document.artifacts.len());
        for (index, entry) in document.artifacts.into_iter().enumerate() {
            let number = index + 1;
            check_word(&path, "kind", &entry.kind, &KINDS)?;
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
            mode: document.mode.0,
            bsp_version: document.bsp_version.0,
            rebuilt_at: document.rebuilt_at.0,
            dirty_repos: dirty.into_iter().flat_map(BTreeMap::into_keys).collect(),
            artifacts,
            sha256: hex::encode(Sha256::digest(&text)),
            text: String::from_utf8_lossy(&text).into_owned(),
        }))
    }

    /// Returns a one-line description of the manifest.
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

/// Checks that `word` is one of the words of the schema.
fn check_word(path: &Path, field: &str, word: &Text, words: &[&str]) -> Result<()> {
    if words.contains(&word.0.as_str()) {
        return Ok(());
    }
    let word = printable(&word.0);
    let message = format!(
        "{field} is \"{word}\", expected one of {}",
        words.join(", ")
    );
    Err(Error::new(Kind::Syntax, message)
        .doing("read")
        .with_path(path)
        .advice(REBUILD))
}

/// The commits that the last build was made from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildState {
    /// The full commit IDs, by the paths of the repositories below `bsp_sources/`. They are read
    /// as they are written, because YAML reads an ID of digits only as a number.
    pub repos: BTreeMap<String, String>,
    #[allow(dead_code)] // part of the schema
    toolchain: Text,
    #[allow(dead_code)]
    bsp_version: Text,
    mode: Text,
}

impl BuildState {
    /// Reads the state in `source`. Returns `None` if there is none.
    ///
    /// # Errors
    /// The state is not YAML, or does not match the schema.
    pub fn read(source: &Path) -> Result<Option<Self>> {
        let path = source.join(".build-state.yaml");
        let Some((state, _)) = yaml::read::<Self>(&path, REBUILD)? else {
            return Ok(None);
        };
        check_word(&path, "mode", &state.mode, &MODES)?;
        let is_full = |id: &str| {
            matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        match state.repos.iter().find(|(_, id)| !is_full(id)) {
            None => Ok(Some(state)),
            Some((name, id)) => {
                let (name, id) = (printable(name), printable(id));
                let message = format!("\"{id}\", the commit of {name}, is not a full commit id");
                Err(Error::new(Kind::Syntax, message)
                    .with_path(&path)
                    .advice(REBUILD))
            }
        }
    }
}
