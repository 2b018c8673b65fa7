//! The kernel-side repositories: which there are, in which state, and what the last build was made
//! from.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Result, printable};
use crate::promote::inputs::git::{Git, Status};
use crate::promote::inputs::manifest::BuildState;
use crate::promote::inputs::overlooked;
use crate::promote::parallel::try_map;

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
        let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        let is_nested = |above: &Path| {
            above
                .to_str()
                .is_some_and(|above| self.repos.contains_key(above))
        };
        let is_in_mono = || {
            let nested = Path::new(name).ancestors().any(is_nested);
            !nested && path.canonicalize().is_ok_and(|p| p.starts_with(&whole))
        };
        let known = match self.repos.get(name) {
            None => self.mono.as_ref().filter(|_| is_in_mono()),
            found => found,
        };
        if known.is_some_and(|repo| repo.head.as_deref() == Some(id)) {
            return Ok(Built::Same);
        }
        let around = match Git::around(&path) {
            Err(e) if e.code() == "git" => None,
            other => other?,
        };
        // A repository that contains more than the sources says nothing about them.
        let is_wider = |git: &Git| whole.starts_with(git.top()) && whole != git.top();
        let Some(git) = around.filter(|git| !is_wider(git)) else {
            return Ok(Built::NoRepository);
        };
        let repo = match known {
            Some(repo) => repo.clone(),
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
