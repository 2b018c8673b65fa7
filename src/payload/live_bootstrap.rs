//! Finds the files that belong in the payload of a live-bootstrap checkout, and their sums.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::format::Name;

use super::digest::Sha256Sum;

/// The contents of `steps/manifest` and of the `sources` files.
#[derive(Debug)]
pub struct BootstrapSources {
    /// The files of the payload, sorted by name.
    pub files: BTreeMap<Name, BootstrapFile>,
    /// The line of the manifest after which the files come from the payload. `None` if the
    /// manifest has no such line; then every file belongs in the payload.
    pub cut: Option<u64>,
}

/// A file that a package needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapFile {
    /// The SHA-256 sum of the file.
    pub sum: Sha256Sum,
    /// The URLs of the file, in the order of the manifest. For a git repository it is that of the
    /// snapshot. What a `sources` line has in their place, such as `_`, is among them.
    pub urls: Vec<String>,
    /// Whether the first disk carries it: a build before the cut needs it.
    pub early: bool,
}

impl BootstrapSources {
    /// Returns the names of the files with their SHA-256 sums.
    pub fn sums(&self) -> impl Iterator<Item = (&str, Sha256Sum)> {
        let files = self.files.iter();
        files.map(|(name, file)| (name.as_str(), file.sum))
    }
}

/// Reads the manifest of the checkout at `dir` and the sources of its packages.
///
/// The payload holds the files of the whole manifest except those of the `build:`
/// lines before `improve: import_payload`. If there is no such line, the first
/// `improve:` line that contains "network" counts. Predicates are not evaluated.
///
/// # Errors
/// A file cannot be read or parsed, or a name has two different sums.
pub fn bootstrap_sources(dir: &Path) -> Result<BootstrapSources> {
    let (mut files, cut) = bootstrap_files(dir)?;
    files.retain(|_, file| !file.early);
    Ok(BootstrapSources { files, cut })
}

/// Reads the same as [`bootstrap_sources`], and returns every file of the checkout by name,
/// those of the first disk too, and the line of the cut.
///
/// # Errors
/// The same as for [`bootstrap_sources`].
pub fn bootstrap_files(dir: &Path) -> Result<(BTreeMap<Name, BootstrapFile>, Option<u64>)> {
    let path = dir.join("steps").join("manifest");
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Error::io("read", e)
            .with_path(&path)
            .advice("give the directory of a live-bootstrap checkout")
    })?;
    let steps = parse_manifest(&text).map_err(|e| e.with_path(&path))?;
    let cut = cut_line(&steps);
    let mut all: BTreeMap<Name, BootstrapFile> = BTreeMap::new();
    let mut read = BTreeSet::new();
    for step in steps.iter().filter(|s| s.directive == "build") {
        let early = cut.is_some_and(|cut| step.line < cut);
        // A package may be built several times, the first time before the cut.
        if !read.insert((step.argument.clone(), early)) {
            continue;
        }
        package_name(step).map_err(|e| e.with_path(&path))?;
        let sources = dir.join("steps").join(&step.argument).join("sources");
        let text = match std::fs::read_to_string(&sources) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("read", e).with_path(&sources)),
        };
        for (name, sum, url) in parse_sources(&text).map_err(|e| e.with_path(&sources))? {
            let file = all.entry(name.clone()).or_insert(BootstrapFile {
                sum,
                urls: Vec::new(),
                early: false,
            });
            if file.sum != sum {
                let other = file.sum;
                return Err(Error::new(
                    Kind::Syntax,
                    format!("{name} has two different checksums: {other} and {sum}"),
                )
                .with_path(&sources));
            }
            file.early |= early;
            if !file.urls.contains(&url) {
                file.urls.push(url);
            }
        }
    }
    Ok((all, cut))
}

/// Parses the text of a manifest and of a `sources` file. Returns the packages and the files.
///
/// # Errors
/// One of them cannot be parsed, or has the name of a package that is no name.
#[cfg(feature = "internals")]
pub fn bootstrap_texts(manifest: &str, sources: &str) -> Result<(Vec<String>, Vec<Name>)> {
    let steps = parse_manifest(manifest)?;
    let builds = steps.into_iter().filter(|step| step.directive == "build");
    let builds = builds.map(|step| package_name(&step).map(|()| step.argument));
    let builds = builds.collect::<Result<_>>()?;
    let files = parse_sources(sources)?.into_iter();
    Ok((builds, files.map(|(name, _, _)| name).collect()))
}

#[derive(Debug, PartialEq, Eq)]
struct Step {
    line: u64,
    directive: String,
    argument: String,
}

/// Parses lines of `<directive>: <argument> [( predicate )]`. `#` starts a comment.
fn parse_manifest(text: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (line, text) in (1_u64..).zip(text.lines()) {
        let text = text.split('#').next().unwrap_or("").trim();
        if text.is_empty() {
            continue;
        }
        let step = text.split_once(':').and_then(|(directive, rest)| {
            let argument = rest.split('(').next()?.trim().to_owned();
            let directive = directive.trim().to_owned();
            (!argument.is_empty()).then_some(Step {
                line,
                directive,
                argument,
            })
        });
        steps.push(step.ok_or_else(|| {
            Error::new(
                Kind::Syntax,
                format!("line {line}: expected \"directive: argument\""),
            )
        })?);
    }
    Ok(steps)
}

fn cut_line(steps: &[Step]) -> Option<u64> {
    let improve = |wanted: &dyn Fn(&str) -> bool| {
        steps
            .iter()
            .find(|s| s.directive == "improve" && wanted(&s.argument))
            .map(|s| s.line)
    };
    improve(&|argument| argument == "import_payload")
        .or_else(|| improve(&|argument| argument.contains("network")))
}

/// Checks a package's name, because it comes from a file and becomes part of a path.
fn package_name(step: &Step) -> Result<()> {
    Name::new(step.argument.as_bytes()).map(drop).map_err(|e| {
        Error::new(
            Kind::Syntax,
            format!("line {}: not the name of a package: {e}", step.line),
        )
    })
}

/// Parses lines of `f URL SHA256 [FILENAME]` or `g GIT-URL SNAPSHOT-URL SHA256 [FILENAME]`.
fn parse_sources(text: &str) -> Result<Vec<(Name, Sha256Sum, String)>> {
    let mut files = Vec::new();
    for (line, text) in (1_u64..).zip(text.lines()) {
        let words: Vec<&str> = text.split_whitespace().collect();
        let bad = |why: String| Error::new(Kind::Syntax, format!("line {line}: {why}"));
        let (url, rest) = match words.as_slice() {
            [] => continue,
            [word, ..] if word.starts_with('#') => continue,
            ["f" | "file", url, rest @ ..] => (*url, rest),
            ["g" | "git", _, url, rest @ ..] => (*url, rest),
            [word, ..] => return Err(bad(format!("expected f, file, g or git, found {word:?}"))),
        };
        let (sum, name) = match rest {
            [sum] => (sum, url.rsplit('/').next().unwrap_or(url)),
            [sum, name] => (sum, *name),
            _ => {
                return Err(bad(
                    "expected a URL, a SHA-256 sum and perhaps a file name".into()
                ));
            }
        };
        let sum = sum
            .parse()
            .map_err(|()| bad(format!("no SHA-256 sum of 64 hexadecimal digits: {sum:?}")))?;
        let name = Name::new(name.as_bytes()).map_err(|e| bad(format!("{name:?}: {e}")))?;
        files.push((name, sum, url.to_owned()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout(manifest: &str, sources: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let steps = dir.path().join("steps");
        std::fs::create_dir(&steps).unwrap();
        std::fs::write(steps.join("manifest"), manifest).unwrap();
        for (package, text) in sources {
            std::fs::create_dir(steps.join(package)).unwrap();
            std::fs::write(steps.join(package).join("sources"), text).unwrap();
        }
        dir
    }

    fn names(sources: &BootstrapSources) -> Vec<&str> {
        sources.files.keys().map(Name::as_str).collect()
    }

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn the_payload_holds_files_needed_only_after_the_import() {
        let dir = checkout(
            "# the manifest\nbuild: tcc ( Arch == x86 )\nimprove: get_network\n\
             improve: import_payload ( KernelBootstrap == True )\nbuild: gcc # late\n\
             build: tcc\ndefine: X = 1\nbuild: nothing\n",
            &[
                ("tcc", &format!("f https://x/tcc.tar.gz {A}\n")),
                (
                    "gcc",
                    &format!(
                        "f https://x/y/gcc.tar {A}\nfile https://x/tcc.tar.gz {A}\n\
                         g https://git/r~1 https://x/snap-1.tar.gz {B} r.tar.gz\n\
                         git https://git/r https://x/snap-2.tar.gz {B}\n"
                    ),
                ),
            ],
        );
        let sources = bootstrap_sources(dir.path()).unwrap();
        assert_eq!(names(&sources), ["gcc.tar", "r.tar.gz", "snap-2.tar.gz"]);
        let urls: Vec<&str> = sources.files.values().map(|f| f.urls[0].as_str()).collect();
        assert_eq!(
            urls,
            [
                "https://x/y/gcc.tar",
                "https://x/snap-1.tar.gz",
                "https://x/snap-2.tar.gz"
            ]
        );
        assert_eq!(sources.cut, Some(4));
    }

    #[test]
    fn every_file_of_the_checkout_has_the_urls_of_all_its_lines() {
        let dir = checkout(
            "build: a\nimprove: import_payload\nbuild: b\n",
            &[
                ("a", &format!("f https://x/a {A}\nf _ {B} none\n")),
                (
                    "b",
                    &format!("f http://y/a {A}\nf https://x/a {A}\ng git://g git://s {B} r\n"),
                ),
            ],
        );
        let (files, cut) = bootstrap_files(dir.path()).unwrap();
        assert_eq!(cut, Some(2));
        let found: Vec<_> = files
            .iter()
            .map(|(name, file)| (name.as_str(), file.urls.join(" "), file.early))
            .collect();
        assert_eq!(
            found,
            [
                ("a", "https://x/a http://y/a".to_owned(), true),
                ("none", "_".to_owned(), true),
                ("r", "git://s".to_owned(), false)
            ]
        );
    }

    #[test]
    fn the_cut_is_the_import_or_else_the_network_or_else_none() {
        let sources = [
            ("a", &*format!("f u/a {A}\n")),
            ("b", &format!("f u/b {B}\n")),
        ];
        let dir = checkout("build: a\nimprove: get_network\nbuild: b\n", &sources);
        assert_eq!(names(&bootstrap_sources(dir.path()).unwrap()), ["b"]);
        let dir = checkout("build: a\nbuild: b\n", &sources);
        let whole = bootstrap_sources(dir.path()).unwrap();
        assert_eq!((names(&whole), whole.cut), (vec!["a", "b"], None));
    }

    #[test]
    fn names_with_dot_dot_and_conflicting_sums_are_refused() {
        let dir = checkout("build: ../../etc\n", &[]);
        let error = bootstrap_sources(dir.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Syntax);
        assert!(error.to_string().contains("line 1: "), "{error}");
        let dir = checkout("build: a\n", &[("a", &format!("f u/x {A} ../x\n"))]);
        assert!(bootstrap_sources(dir.path()).is_err());
        let dir = checkout("build: a\n", &[("a", &format!("f u/x {A}\nf v/x {B}\n"))]);
        let error = bootstrap_sources(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains("x has two different checksums"),
            "{error}"
        );
    }

    #[test]
    fn an_invalid_source_line_is_reported() {
        for (line, why) in [
            ("wget u\n", "expected f, file, g or git"),
            ("f u/x\n", "expected a URL"),
            ("f u/x 123\n", "no SHA-256 sum"),
            (&*format!("f https://x/ {A}\n"), "the name is empty"),
        ] {
            let dir = checkout("build: a\n", &[("a", line)]);
            let error = bootstrap_sources(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains("sources`: line 1: ") && error.contains(why),
                "{error}"
            );
        }
    }
}
