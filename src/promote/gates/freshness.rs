//! The gate against an outdated build: has a kernel-side repository changed since the last build?

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

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
    /// The repository at `bsp_sources/` itself. It may have others inside.
    pub(crate) mono: Option<Repo>,
    /// What the last build was made from, by the paths below `bsp_sources/`. `None` if the build
    /// left no state.
    pub(crate) built: Option<BTreeMap<String, Built>>,
    /// What could not be read.
    pub(crate) problems: Vec<String>,
    /// The places of the sources, without symlinks.
    pub(crate) places: Vec<PathBuf>,
}

/// The state of a repository that the gate checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Repo {
    pub(crate) head: Option<String>,
    pub(crate) edited: bool,
    pub(crate) more_than_one_commit: bool,
}

/// A path that the last build was made from, compared with its present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Built {
    /// It is not in a repository.
    NoRepository,
    /// Its repository is at the commit that was built.
    Same,
    /// Its repository is at another commit, or has none.
    Other { head: Option<String>, built: String },
    /// Its repository, which is somewhere else, has uncommitted edits there.
    Edited,
}

impl Kernel {
    /// Reads the state of the repositories below `dir`, and compares it with that of the last
    /// build.
    pub(crate) fn probe(dir: &Path, state: Option<&BuildState>) -> Result<Self> {
        let mut this = Self::default();
        let mut found = Vec::new();
        if dir.is_dir() {
            let (in_repo, seen) = (is_repo(dir), &mut BTreeSet::new());
            let skipped = &mut this.problems;
            find(dir, DEPTH, in_repo, seen, &mut found, skipped);
        }
        // Git spends its time checking files, so two processes at once take half as long.
        let repos = try_map(&found, |path| match Git::at(path) {
            Ok(Some(git)) => Repo::probe(&git).map(|repo| Some((repo, git.dir().to_path_buf()))),
            Ok(None) => Ok(None),
            Err(e) if e.code() == "git" => Ok(None),
            Err(e) => Err(e),
        })?;
        for (path, repo) in found.iter().zip(repos) {
            let name = path.strip_prefix(dir).unwrap_or(path);
            let name = name.to_string_lossy().into_owned();
            match repo {
                Some((repo, place)) => {
                    this.places.push(place);
                    this.repos.insert(name, repo);
                }
                None => this.problems.push(format!(
                    "the .git of {} in bsp_sources/ is not a repository",
                    printable(&name)
                )),
            }
        }
        if let Some(git) = Git::at(dir)? {
            this.mono = Some(Repo::probe(&git)?);
        }
        let Some(state) = state else {
            return Ok(this);
        };
        let listed: Vec<(&String, &String)> = state.repos.iter().collect();
        let built = try_map(&listed, |(name, id)| this.compare(dir, name, id))?;
        let names = listed.into_iter().map(|(name, _)| name.clone());
        this.built = Some(names.zip(built).collect());
        Ok(this)
    }

    /// Compares the repository that contains the path `name` with the commit that was built.
    fn compare(&self, dir: &Path, name: &str, id: &str) -> Result<Built> {
        let is_inside = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        let path = dir.join(name);
        if !Path::new(name).components().all(is_inside) || !path.is_dir() {
            return Ok(Built::NoRepository);
        }
        let around = match Git::around(&path) {
            Err(e) if e.code() == "git" => None,
            other => other?,
        };
        // A repository that contains more than the sources says nothing about them.
        let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        let is_wider = |git: &Git| whole.starts_with(git.top()) && whole != git.top();
        let Some(git) = around.filter(|git| !is_wider(git)) else {
            return Ok(Built::NoRepository);
        };
        let known = match (self.repos.get(name), &self.mono) {
            (Some(repo), _) => Some(repo.clone()),
            (None, Some(mono)) if git.top() == whole => Some(mono.clone()),
            _ => None,
        };
        let repo = match known {
            Some(repo) => repo,
            None => {
                let repo = Repo::probe(&git)?;
                if repo.edited {
                    return Ok(Built::Edited);
                }
                repo
            }
        };
        let other = Built::Other {
            head: repo.head.clone(),
            built: id.to_owned(),
        };
        let Some(head) = repo.head else {
            return Ok(other);
        };
        if head == id {
            return Ok(Built::Same);
        }
        let is_short = head.len() != id.len();
        let spec = format!("{id}^{{commit}}");
        let find = [
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &spec,
        ];
        let full = || git.lines(&find).is_ok_and(|full| full == head.as_bytes());
        Ok(if is_short && full() {
            Built::Same
        } else {
            other
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
/// being walked twice. A directory that cannot be read is added to `skipped`.
fn find(
    dir: &Path,
    depth: usize,
    in_repo: bool,
    seen: &mut BTreeSet<(u64, u64)>,
    found: &mut Vec<PathBuf>,
    skipped: &mut Vec<String>,
) {
    let listed = dir.metadata().and_then(|meta| {
        if !seen.insert((meta.dev(), meta.ino())) {
            return Ok(Vec::new());
        }
        let mut dirs = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let leads_to_one = kind.is_symlink() && entry.path().is_dir();
            if (kind.is_dir() || leads_to_one) && entry.file_name() != ".git" {
                dirs.push((kind.is_symlink(), entry.path()));
            }
        }
        Ok(dirs)
    });
    let mut dirs = match listed {
        Ok(dirs) => dirs,
        Err(e) => {
            let path = printable(&dir.to_string_lossy());
            skipped.push(format!("{path} was not searched for repositories: {e}"));
            return;
        }
    };
    // Real directories come before symlinks to them.
    dirs.sort();
    for (by_link, dir) in dirs {
        let is_repo = is_repo(&dir);
        if is_repo {
            found.push(dir.clone());
        }
        if depth > 1 && (!by_link || !in_repo || is_repo) {
            find(&dir, depth - 1, in_repo || is_repo, seen, found, skipped);
        }
    }
}

fn is_repo(dir: &Path) -> bool {
    dir.join(".git").symlink_metadata().is_ok()
}

/// Returns why each stale repository is stale, one line for each. Does no I/O.
pub(crate) fn detect_stale(kernel: &Kernel) -> Vec<String> {
    let mut stale = Vec::new();
    let is_listed = |name: &str| {
        let built = kernel.built.as_ref();
        built.is_some_and(|built| built.keys().any(|path| Path::new(path).starts_with(name)))
    };
    let named = kernel
        .repos
        .iter()
        .map(|(name, repo)| (name.as_str(), repo));
    let mono = kernel.mono.iter().map(|repo| (".", repo));
    for (name, repo) in named.chain(mono) {
        let shown = printable(name);
        if repo.edited {
            stale.push(format!("{shown} has uncommitted edits"));
        } else if name != "." && repo.more_than_one_commit && !is_listed(name) {
            stale.push(format!("{shown} has commits that were never built"));
        }
    }
    for (name, built) in kernel.built.iter().flatten() {
        let shown = printable(name);
        match built {
            Built::Same => {}
            Built::NoRepository if kernel.repos.is_empty() && kernel.mono.is_none() => {}
            Built::NoRepository => stale.push(format!(
                "{shown} was built but is not a repository in bsp_sources/"
            )),
            Built::Edited => stale.push(format!("{shown} has uncommitted edits")),
            Built::Other { head, built } => {
                let short = |id: &str| printable(id.get(..7).unwrap_or(id));
                stale.push(format!(
                    "{shown} is at {} but was built at {}",
                    head.as_deref().map_or("no commit".into(), short),
                    short(built)
                ));
            }
        }
    }
    stale
}

fn clean(name: &str) -> &str {
    name.trim_start_matches("./").trim_end_matches('/')
}

/// Refuses an outdated build.
pub(crate) fn check(kernel: &Kernel, dir: &Path) -> Result<()> {
    let stale = detect_stale(kernel);
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

/// Returns notes on builds that cannot be checked with a repository, and on repositories that
/// were customized. Does no I/O.
pub(crate) fn detect_notes(kernel: &Kernel, manifest: Option<&Manifest>) -> Vec<String> {
    let mut notes = kernel.problems.clone();
    let Some(manifest) = manifest else {
        return notes;
    };
    let is_checked = |built: &Built| *built != Built::NoRepository;
    let any_checked = kernel.built.iter().flatten().any(|(_, b)| is_checked(b));
    if kernel.mono.is_none() && kernel.repos.is_empty() && !any_checked {
        notes.push("no kernel-side repository shows whether the build is up to date".into());
        return notes;
    }
    if kernel.mono.is_none() {
        let is_known = |dir: &Path| {
            let built = kernel.built.as_ref();
            dir.to_str().is_some_and(|dir| {
                kernel.repos.contains_key(dir)
                    || built.is_some_and(|built| built.get(dir).is_some_and(is_checked))
            })
        };
        let unknown = |repo: &str| !Path::new(clean(repo)).ancestors().any(is_known);
        let mut missing: Vec<&str> = manifest
            .artifacts
            .iter()
            .map(|artifact| artifact.source_repo.as_str())
            .filter(|repo| !repo.is_empty() && unknown(repo))
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

    fn built(entries: &[(&str, Built)]) -> Option<BTreeMap<String, Built>> {
        let entry = |(name, built): &(&str, Built)| ((*name).to_owned(), built.clone());
        Some(entries.iter().map(entry).collect())
    }

    fn several(repos: &[(&str, Repo)], built: Option<BTreeMap<String, Built>>) -> Kernel {
        Kernel {
            repos: repos
                .iter()
                .map(|(name, repo)| ((*name).to_owned(), repo.clone()))
                .collect(),
            built,
            ..Kernel::default()
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
        let stale = |name: &str, repo: &Repo, built| {
            detect_stale(&several(&[(name, repo.clone())], built)).join(", ")
        };
        let same = || built(&[("k", Built::Same)]);
        assert!(stale("k", &edited, same()).contains("uncommitted"));
        let other = Built::Other {
            head: Some("bbbbbbbb".into()),
            built: "aaaaaaaa".into(),
        };
        assert_eq!(
            stale("k", &repo("bbbbbbbb"), built(&[("k", other)])),
            "k is at bbbbbbb but was built at aaaaaaa"
        );
        assert!(stale("k", &grown, None).contains("never built"));
        assert!(stale("j", &grown, same()).contains("never built"));
        assert_eq!(stale("k", &grown, same()), "");
        // A path in the repository is enough.
        assert_eq!(stale("k", &grown, built(&[("k/dts", Built::Same)])), "");
        assert_eq!(stale("k", &repo("a"), None), "");
        assert_eq!(stale("j", &repo("a"), same()), "");
    }

    #[test]
    fn a_mono_repository_needs_no_entry_of_its_own() {
        let kernel = Kernel {
            mono: Some(Repo {
                more_than_one_commit: true,
                ..repo("aaaaaaaa")
            }),
            ..Kernel::default()
        };
        assert!(detect_stale(&kernel).is_empty());
    }

    #[test]
    fn a_built_path_that_is_not_a_repository_is_stale() {
        let missing = built(&[("kk", Built::NoRepository)]);
        let kernel = several(&[("k", repo("aaaaaaaa"))], missing.clone());
        assert_eq!(
            detect_stale(&kernel),
            ["kk was built but is not a repository in bsp_sources/"]
        );
        assert!(detect_stale(&several(&[], missing)).is_empty());
    }
}
