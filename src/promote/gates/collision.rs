//! The gate against two people promoting overlays that lack each other's work: does the upstream
//! have commits that HEAD lacks?

use crate::error::{Error, Result, printable};
use crate::promote::inputs::git::{Git, Status};
use crate::promote::refused::{refused, shell_word};

/// The result of comparing the overlay's branch with its upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collision {
    /// HEAD has everything that the upstream branch of this name has.
    UpToDate(String),
    /// Nothing was compared, for this reason.
    Skipped(&'static str),
}

/// Refuses if the upstream has commits that HEAD lacks.
pub(crate) fn probe(git: &Git, status: &Status, offline: bool, dry_run: bool) -> Result<Collision> {
    if git.run(&["remote"])?.is_empty() {
        return Ok(Collision::Skipped("no remote configured"));
    }
    if !status.has_upstream {
        return Ok(Collision::Skipped("the branch tracks no upstream"));
    }
    if !offline && !dry_run {
        // This disables git's automatic clean-up, because the owner of the repository decides
        // about it.
        git.run(&["-c", "gc.auto=0", "fetch", "--quiet"])
            .map_err(unreachable)?;
    }
    let name_of = [
        "rev-parse",
        "--abbrev-ref",
        "--symbolic-full-name",
        "@{upstream}",
    ];
    let Ok(name) = git.lines(&name_of) else {
        return Ok(Collision::Skipped("the upstream branch is not there"));
    };
    let name = printable(&String::from_utf8_lossy(&name));
    let upstream = match dry_run && !offline {
        true => id_at_remote(git)?,
        false => Some("@{upstream}".into()),
    };
    let missing = match &upstream {
        None => Some(0),
        Some(upstream) => count_missing(git, upstream)?,
    };
    if missing != Some(0) {
        let commits = match missing {
            Some(1) => "1 commit".to_owned(),
            Some(count) => format!("{count} commits"),
            None => "commits".into(),
        };
        return Err(refused(
            format!("{name} has {commits} that HEAD lacks"),
            git.dir(),
            format!("git -C {} pull, then promote again", shell_word(git.dir())),
        )
        .with_code("behind-upstream"));
    }
    Ok(Collision::UpToDate(if offline {
        format!("{name}, as last fetched")
    } else {
        name
    }))
}

fn unreachable(e: Error) -> Error {
    e.with_code("upstream-unreachable")
        .advice("check the network and the remote")
}

/// Returns the number of commits of `upstream` that HEAD lacks, or `None` if the repository does
/// not have them, so that they cannot be counted.
fn count_missing(git: &Git, upstream: &str) -> Result<Option<u64>> {
    let known = ["cat-file", "-e", &format!("{upstream}^{{commit}}")];
    if !git.succeeds(&known)? {
        return Ok(None);
    }
    let range = format!("HEAD..{upstream}");
    let count = git.lines(&["rev-list", "--count", &range])?;
    let count = String::from_utf8_lossy(&count).parse();
    Ok(count.ok())
}

/// Asks the remote for the commit of the upstream branch. A fetch would write to the repository.
fn id_at_remote(git: &Git) -> Result<Option<String>> {
    let config = |what: &str| -> Result<String> {
        let branch = git.lines(&["symbolic-ref", "--short", "HEAD"])?;
        let key = format!("branch.{}.{what}", String::from_utf8_lossy(&branch));
        let value = git.lines(&["config", "--get", &key])?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    };
    let (remote, branch) = (config("remote")?, config("merge")?);
    let args = ["ls-remote", "--quiet", "--", &remote, &branch];
    let out = git.run(&args).map_err(unreachable)?;
    let text = String::from_utf8_lossy(&out);
    // ls-remote lists every ref whose name ends with this one.
    let id = text.lines().find_map(|line| {
        let (id, name) = line.split_once('\t')?;
        (name == branch).then(|| id.to_owned())
    });
    Ok(id)
}
