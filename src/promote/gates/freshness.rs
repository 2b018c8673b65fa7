//! The gate against an outdated build: has a kernel-side repository changed since the last build?

use std::path::Path;

use super::kernel::{Built, Kernel};
use crate::error::{Error, Result, printable};
use crate::promote::inputs::manifest::Manifest;
use crate::promote::refused::refused;

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
    use crate::promote::gates::kernel::Repo;
    use std::collections::BTreeMap;

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
