//! What to fetch, and from where: the files of a live-bootstrap checkout or of a list.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::format::Name;
use crate::net::{Scheme, Url};
use crate::payload::{Sha256Sum, bootstrap_files};

/// A file to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The name that it gets.
    pub name: Name,
    /// Its SHA-256 sum.
    pub sum: Sha256Sum,
    /// Where it may be, in the order in which they are tried.
    pub sources: Vec<Url>,
}

/// Reads which files the live-bootstrap checkout at `dir` needs. With `payload_only`, those that
/// its first disk carries are left out.
///
/// # Errors
/// A file of the checkout cannot be read or parsed.
pub fn of_checkout(dir: &Path, payload_only: bool, mirrors: &[Url]) -> Result<Vec<Wanted>> {
    let (files, _) = bootstrap_files(dir)?;
    let wanted = files
        .into_iter()
        .filter(|(_, file)| !(payload_only && file.early))
        .map(|(name, file)| {
            // `_` and git:// are left to the mirrors.
            let web = file.urls.iter().filter(|url| Url::is_http(url));
            let own = web.filter_map(|url| match Url::parse(url) {
                Ok(url) => Some(url),
                Err(why) => {
                    log::warn!("{name}: its URL is left out: {why}");
                    None
                }
            });
            let own = own.collect();
            of(name, file.sum, own, mirrors)
        });
    Ok(wanted.collect())
}

/// Reads which files the list at `path` names, in lines of `URL SHA256 [FILENAME]`. Without a
/// file name, it is the last part of the URL. Empty lines and lines that start with `#` are
/// skipped.
///
/// # Errors
/// The list cannot be read or parsed.
pub fn of_list(path: &Path, mirrors: &[Url]) -> Result<Vec<Wanted>> {
    let mut files: BTreeMap<Name, (Sha256Sum, Vec<Url>)> = BTreeMap::new();
    for (line, text) in lines(path)? {
        let bad = |why: String| {
            Error::new(Kind::Syntax, format!("line {line}: {why}"))
                .with_path(path)
                .advice("each line has a URL, a SHA-256 sum and perhaps a file name")
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (url, sum, name) = match words.as_slice() {
            [url, sum] => {
                let path = url.split(['?', '#']).next().unwrap_or_default();
                (url, sum, path.rsplit('/').next().unwrap_or_default())
            }
            [url, sum, name] => (url, sum, *name),
            _ => {
                return Err(bad(
                    "expected a URL, a SHA-256 sum and perhaps a file name".into()
                ));
            }
        };
        let sum: Sha256Sum = sum
            .parse()
            .map_err(|()| bad(format!("no SHA-256 sum of 64 hexadecimal digits: {sum:?}")))?;
        let name = Name::new(name.as_bytes()).map_err(|e| bad(format!("{name:?}: {e}")))?;
        // As in a checkout, `_` stands for a file that only mirrors have.
        let url = match *url {
            "_" => None,
            url => Some(Url::parse(url).map_err(bad)?),
        };
        let file = files.entry(name.clone()).or_insert((sum, Vec::new()));
        if file.0 != sum {
            return Err(bad(format!("{name} has two different checksums")));
        }
        file.1.extend(url);
    }
    let wanted = files.into_iter();
    Ok(wanted
        .map(|(name, (sum, own))| of(name, sum, own, mirrors))
        .collect())
}

/// Reads a file with the URL of a mirror in each line.
///
/// # Errors
/// The file cannot be read, or a line is no URL.
pub fn mirrors(path: &Path) -> Result<Vec<Url>> {
    let parse = |(line, text): (u64, String)| {
        Url::parse(text.trim()).map_err(|why| {
            Error::new(Kind::Syntax, format!("line {line}: {why}"))
                .with_path(path)
                .advice("each line has the URL of a mirror")
        })
    };
    lines(path)?.into_iter().map(parse).collect()
}

fn of(name: Name, sum: Sha256Sum, own: Vec<Url>, mirrors: &[Url]) -> Wanted {
    let below = mirrors.iter().map(|mirror| mirror.below(name.as_str()));
    let mut sources: Vec<Url> = Vec::new();
    for url in below.chain(own.into_iter().filter(|url| url.scheme() != Scheme::File)) {
        if !sources.contains(&url) {
            sources.push(url);
        }
    }
    Wanted { name, sum, sources }
}

fn lines(path: &Path) -> Result<Vec<(u64, String)>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", e).with_path(path))?;
    let lines = (1..).zip(text.trim_start_matches('\u{feff}').lines());
    Ok(lines
        .map(|(line, text)| (line, text.trim().to_owned()))
        .filter(|(_, text)| !text.is_empty() && !text.starts_with('#'))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn list(text: &str) -> Result<Vec<Wanted>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        std::fs::write(&path, text).unwrap();
        of_list(&path, &[Url::parse("http://m/d").unwrap()])
    }

    #[test]
    fn a_list_gives_mirrors_first_and_then_the_urls_of_all_lines() {
        let wanted = list(&format!(
            "\u{feff}# comment\nhttps://x/b.tar?q=1 {B}\n\nhttp://y/a {A} n\nhttps://z/n {A}\n_ {A} only\n"
        ))
        .unwrap();
        let found: Vec<_> = wanted
            .iter()
            .map(|w| (w.name.as_str(), format!("{:?}", w.sources)))
            .collect();
        assert_eq!(
            found,
            [
                ("b.tar", "[http://m/d/b.tar, https://x/b.tar]".to_owned()),
                ("n", "[http://m/d/n, http://y/a, https://z/n]".to_owned()),
                ("only", "[http://m/d/only]".to_owned()),
            ]
        );
    }

    #[test]
    fn a_bad_line_of_a_list_is_named() {
        for (text, why) in [
            (
                format!("http://x/a {A}\nhttp://x/a {B}\n"),
                "line 2: a has two different",
            ),
            ("http://x/a 12\n".into(), "line 1: no SHA-256"),
            ("http://x/a\n".into(), "line 1: expected a URL"),
            (format!("http://x/ {A}\n"), "the name is empty"),
            (format!("ftp://x/a {A}\n"), "line 1: expected a URL with"),
            (format!("http://x/a {A} ../a\n"), "line 1: "),
        ] {
            let error = list(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
