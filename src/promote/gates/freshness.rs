//! The gate against an outdated build: has a kernel-side repository changed since the last build?

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, printable};
use crate::promote::inputs::git::{Git, Status};
use crate::promote::inputs::manifest::{BuildState, Manifest};
use crate::promote::inputs::overlooked;
use crate::promote::parallel::try_map;
use crate::promote::refused::refused;

/// The depth to which repositories are searched below `bsp_sources/`.
const DEPTH: usize = 5;

/// The present state of the kernel-side repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// The repositories, by their paths below `bsp_sources/`.
    pub(crate) repos: BTreeMap<String, Repo>,
    /// The repository at `bsp_sources/` itself, if there are no others.
    pub(crate) mono: Option<Repo>,
}

/// The state of a repository that the gate checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Repo {
    pub(crate) head: Option<String>,
    pub(crate) edited: bool,
    pub(crate) more_than_one_commit: bool,
}

impl Kernel {
    /// Reads the state of the repositories below `dir`.
    pub(crate) fn probe(dir: &Path) -> Result<Self> {
        let mut found = Vec::new();
        if dir.is_dir() {
            let in_repo = is_repo(dir);
            find(dir, DEPTH, in_repo, &mut BTreeSet::new(), &mut found)?;
        }
        if found.is_empty() {
            return Ok(Self {
                mono: Git::at(dir)?.as_ref().map(Repo::probe).transpose()?,
                ..Self::default()
            });
        }
        // Git spends its time checking files, so two processes at once take half as long.
        let repos = try_map(&found, |path| match Git::at(path)? {
            Some(git) => Repo::probe(&git),
            None => Err(refused(
                "its .git is not a repository",
                path,
                "repair it, or remove it",
            )),
        })?;
        let name = |path: &PathBuf| {
            let rel = path.strip_prefix(dir).unwrap_or(path);
            rel.to_string_lossy().into_owned()
        };
        Ok(Self {
            repos: found.iter().map(name).zip(repos).collect(),
            mono: None,
        })
    }
}

impl Repo {
    fn probe(git: &Git) -> Result<Self> {
        let status = Status::probe(git, false)?;
        let more_than_one_commit = match &status.head {
            None => false,
            Some(_) => git.lines(&["rev-list", "--count", "--max-count=2", "HEAD"])? == b"2",
        };
        Ok(Self {
            head: status.head,
            edited: status.changed.is_some() || overlooked::probe(git, &[])?.is_some(),
            more_than_one_commit,
        })
    }
}

/// Searches for repositories. Symlinks are followed, but within a repository only to another
/// repository, because a kernel's tree has many other symlinks. `seen` prevents directories from
/// being walked twice.
fn find(
    dir: &Path,
    depth: usize,
    in_repo: bool,
    seen: &mut BTreeSet<(u64, u64)>,
    found: &mut Vec<PathBuf>,
) -> Result<()> {
    let failed = |e| {
        Error::io("look for repositories in", e)
            .with_path(dir)
            .advice("make the directory readable")
    };
    let meta = dir.metadata().map_err(failed)?;
    if !seen.insert((meta.dev(), meta.ino())) {
        return Ok(());
    }
    let mut dirs = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let leads_to_one = kind.is_symlink() && entry.path().is_dir();
        if (kind.is_dir() || leads_to_one) && entry.file_name() != ".git" {
            dirs.push((kind.is_symlink(), entry.path()));
        }
    }
    // Real directories come before symlinks to them.
    dirs.sort();
    for (by_link, dir) in dirs {
        let is_repo = is_repo(&dir);
        if is_repo {
            found.push(dir.clone());
        }
        if depth > 1 && (!by_link || !in_repo || is_repo) {
            find(&dir, depth - 1, in_repo || is_repo, seen, found)?;
        }
    }
    Ok(())
}

fn is_repo(dir: &Path) -> bool {
    dir.join(".git").symlink_metadata().is_ok()
}

/// Returns why each stale repository is stale, one line for each. Does no I/O.
pub(crate) fn detect_stale(kernel: &Kernel, state: Option<&BuildState>) -> Vec<String> {
    let mut stale = Vec::new();
    let named = kernel
        .repos
        .iter()
        .map(|(name, repo)| (name.as_str(), repo));
    let mono = kernel.mono.iter().map(|repo| (".", repo));
    for (name, repo) in named.chain(mono) {
        let shown = printable(name);
        if repo.edited {
            stale.push(format!("{shown} has uncommitted edits"));
        } else if state.is_none() && name != "." && repo.more_than_one_commit {
            stale.push(format!("{shown} has commits that were never built"));
        }
    }
    for (name, built) in state.iter().flat_map(|state| &state.repos) {
        let shown = printable(name);
        let repo = kernel
            .mono
            .as_ref()
            .or_else(|| kernel.repos.get(clean(name)));
        match repo {
            None if kernel.repos.is_empty() => {}
            None => stale.push(format!(
                "{shown} was built but is not a repository in bsp_sources/"
            )),
            Some(Repo { head, .. }) if head.as_ref() != Some(built) => {
                let short = |id: &str| printable(id.get(..7).unwrap_or(id));
                stale.push(format!(
                    "{shown} is at {} but was built at {}",
                    head.as_deref().map_or("no commit".into(), short),
                    short(built)
                ));
            }
            Some(_) => {}
        }
    }
    stale
}

fn clean(name: &str) -> &str {
    name.trim_start_matches("./").trim_end_matches('/')
}

/// Refuses an outdated build.
pub(crate) fn check(kernel: &Kernel, state: Option<&BuildState>, dir: &Path) -> Result<()> {
    let stale = detect_stale(kernel, state);
    if stale.is_empty() {
        return Ok(());
    }
    let more = match stale.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let message = format!("changed since the last build: {}{more}", stale[0]);
    let error = refused(message, dir, "commit, build, then promote again").with_code("stale-build");
    Err(stale.into_iter().skip(1).fold(error, Error::note))
}

/// Returns notes on builds that cannot be checked with a repository. Does no I/O.
pub(crate) fn detect_notes(kernel: &Kernel, manifest: Option<&Manifest>) -> Vec<String> {
    let Some(manifest) = manifest else {
        return Vec::new();
    };
    if kernel.mono.is_none() && kernel.repos.is_empty() {
        return vec!["no kernel-side repository shows whether the build is up to date".into()];
    }
    let mut notes = Vec::new();
    if kernel.mono.is_none() {
        let unknown = |repo: &str| {
            let path = Path::new(clean(repo));
            !path.ancestors().any(|dir| {
                dir.to_str()
                    .is_some_and(|dir| kernel.repos.contains_key(dir))
            })
        };
        let mut missing: Vec<&str> = manifest
            .artifacts
            .iter()
            .map(|artifact| artifact.source_repo.as_str())
            .filter(|repo| unknown(repo))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let names: Vec<String> = missing.into_iter().take(20).map(printable).collect();
            notes.push(format!(
                "artifacts come from paths in bsp_sources/ that are not repositories: {}",
                names.join(", ")
            ));
        }
    }
    if !manifest.dirty_repos.is_empty() {
        let names: Vec<String> = manifest.dirty_repos.iter().map(|n| printable(n)).collect();
        notes.push(format!(
            "built with uncommitted edits in {}",
            names.join(", ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(head: &str) -> Repo {
        Repo {
            head: Some(head.into()),
            ..Repo::default()
        }
    }

    fn state(repos: &[(&str, &str)]) -> BuildState {
        let mut text = "toolchain: x\nbsp_version: '1'\nmode: full\nrepos:\n".to_owned();
        for (name, id) in repos {
            text.push_str(&format!("  '{name}': '{id}'\n"));
        }
        serde_yaml_ng::from_str(&text).unwrap()
    }

    fn several(repos: &[(&str, Repo)]) -> Kernel {
        Kernel {
            repos: repos
                .iter()
                .map(|(name, repo)| ((*name).to_owned(), repo.clone()))
                .collect(),
            mono: None,
        }
    }

    #[test]
    fn each_rule_makes_a_repository_stale() {
        let edited = Repo {
            edited: true,
            ..repo("a")
        };
        let grown = Repo {
            more_than_one_commit: true,
            ..repo("a")
        };
        let at_a = state(&[("k", "aaaaaaaa")]);
        let stale = |kernel: &Kernel, state| detect_stale(kernel, state).join("; ");
        assert!(stale(&several(&[("k", edited)]), Some(&at_a)).contains("uncommitted"));
        let moved = several(&[("k", repo("bbbbbbbb"))]);
        assert_eq!(
            stale(&moved, Some(&at_a)),
            "k is at bbbbbbb but was built at aaaaaaa"
        );
        assert!(stale(&several(&[("k", grown)]), None).contains("never built"));
        assert_eq!(stale(&several(&[("k", repo("a"))]), None), "");
        assert_eq!(stale(&several(&[("k", repo("aaaaaaaa"))]), Some(&at_a)), "");
    }

    #[test]
    fn the_mono_repository_is_compared_with_every_path_that_was_built() {
        let mono = |head| Kernel {
            mono: Some(Repo {
                more_than_one_commit: true,
                ..repo(head)
            }),
            ..Kernel::default()
        };
        let built = state(&[("kernel/a", "aaaaaaaa"), ("hardware/b", "bbbbbbbb")]);
        let stale = detect_stale(&mono("aaaaaaaa"), Some(&built));
        assert_eq!(stale, ["hardware/b is at aaaaaaa but was built at bbbbbbb"]);
        assert!(detect_stale(&mono("x"), None).is_empty());
    }

    #[test]
    fn a_built_path_that_is_not_a_repository_is_stale() {
        let kernel = several(&[("k", repo("aaaaaaaa"))]);
        let built = state(&[("kk", "aaaaaaaa")]);
        assert_eq!(
            detect_stale(&kernel, Some(&built)),
            ["kk was built but is not a repository in bsp_sources/"]
        );
    }
}
