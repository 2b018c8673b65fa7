//! Channel A: the files that the overlay tracker holds, at HEAD or at another commit.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::durable::Attributes;
use crate::error::{Error, Kind, Result, printable};

use super::content::{Content, Spool};
use super::git::Git;
use super::path::RelPath;

/// Which commits of the overlay are promoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The commit whose files are taken; `None` where the overlay has none yet.
    pub commit: Option<String>,
    /// As it was named, for a named one.
    pub reference: Option<String>,
    /// Where only what changed since another commit is taken: that commit.
    pub since: Option<String>,
    /// Files that went away in the range: those in the image stay.
    pub deleted: u64,
    /// Time of the commit, in seconds since 1970.
    pub time: i64,
}

impl Scope {
    /// What it is, in words.
    pub fn words(&self) -> String {
        let short = |id: &str| id.get(..7).unwrap_or(id).to_owned();
        match (&self.commit, &self.reference) {
            (None, _) => "(empty)".into(),
            (Some(id), None) => format!("overlay HEAD ({})", short(id)),
            (Some(id), Some(name)) => match &self.since {
                None => format!("overlay {} ({})", printable(name), short(id)),
                Some(since) => format!(
                    "overlay {} (changed from {} to {})",
                    printable(name),
                    short(since),
                    short(id)
                ),
            },
        }
    }
}

/// A file of the overlay.
#[derive(Debug)]
pub struct Tracked {
    /// Where it goes.
    pub dst: RelPath,
    /// What it holds.
    pub content: Content,
}

impl Tracked {
    /// Whether it is a symlink.
    pub(super) fn is_link(&self) -> bool {
        matches!(self.content, Content::Link(..))
    }
}

/// What `git status` says of a working tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// HEAD's commit; `None` before the first one.
    pub(super) head: Option<String>,
    /// Whether HEAD's branch tracks another.
    pub(super) has_upstream: bool,
    /// A path with an uncommitted change, and how many there are.
    pub(super) changed: Option<(String, usize)>,
}

impl Status {
    /// Asks git; `untracked` files count as changes where wanted.
    pub(super) fn probe(git: &Git, untracked: bool) -> Result<Self> {
        let untracked = if untracked { "normal" } else { "no" };
        let out = git.run(&[
            "status",
            "--porcelain=v2",
            "--branch",
            "-z",
            &format!("--untracked-files={untracked}"),
            // Those of nested repositories are asked about on their own.
            "--ignore-submodules=dirty",
        ])?;
        Ok(Self::detect(&out))
    }

    fn detect(out: &[u8]) -> Self {
        let mut status = Self::default();
        let mut records = out.split(|byte| *byte == 0).filter(|r| !r.is_empty());
        let mut count = 0;
        while let Some(record) = records.next() {
            let text = String::from_utf8_lossy(record);
            if let Some(id) = text.strip_prefix("# branch.oid ") {
                status.head = (id != "(initial)").then(|| id.to_owned());
            } else if text.starts_with("# branch.upstream ") {
                status.has_upstream = true;
            } else if !text.starts_with('#') {
                // Fields before the path: git-status(1), "Porcelain Format Version 2".
                let fields = match text.as_bytes()[0] {
                    b'1' => 8,
                    b'2' => 9,
                    b'u' => 10,
                    _ => 1,
                };
                let path = text.splitn(fields + 1, ' ').last().unwrap_or_default();
                status.changed.get_or_insert((printable(path), 0));
                count += 1;
                if text.starts_with('2') {
                    // The name that it was renamed from.
                    records.next();
                }
            }
        }
        if let Some(changed) = &mut status.changed {
            changed.1 = count;
        }
        status
    }
}

/// The files of HEAD, as they lie in the working tree, which has no changes.
pub(super) fn probe_head(git: &Git, head: Option<&str>) -> Result<(Scope, Vec<Tracked>)> {
    let mut scope = Scope {
        commit: head.map(str::to_owned),
        reference: None,
        since: None,
        deleted: 0,
        time: 0,
    };
    let Some(head) = head else {
        return Ok((scope, Vec::new()));
    };
    scope.time = commit_time(git, head)?;
    let mut files = Vec::new();
    for entry in tree(git, head)? {
        let dst = entry.dst(git)?;
        let content = match entry.mode.as_str() {
            "120000" => {
                let link = git.dir().join(&entry.name);
                let target = std::fs::read_link(&link).map_err(|e| unreadable(e, &link))?;
                Content::Link(target, made_at(scope.time))
            }
            _ => Content::Tracked(entry.name.into()),
        };
        files.push(Tracked { dst, content });
    }
    Ok((scope, files))
}

/// What a symlink of a commit of that time is given.
fn made_at(time: i64) -> Attributes {
    Attributes {
        mtime: (time, 0),
        ..Attributes::default()
    }
}

fn unreadable(e: io::Error, path: &std::path::Path) -> Error {
    Error::io("reading the tracked symlink", e)
        .path(path)
        .advice("check it out again, or promote with --overlay-ref HEAD")
}

/// The files of a named commit, or those that a range changed, from git's objects.
pub(super) fn probe_reference(
    git: &Git,
    name: &str,
    spool: &mut Spool,
) -> Result<(Scope, Vec<Tracked>)> {
    let wrong = |message: &str| {
        Error::new(Kind::Refused, message)
            .doing("reading --overlay-ref")
            .file(name)
            .advice("name a tag, a commit, or a range A..B")
    };
    if name.contains("...") {
        return Err(wrong("a range has two dots"));
    }
    if name == ".." {
        return Err(wrong("it names neither end of the range"));
    }
    let (since, name_of_commit) = match name.split_once("..") {
        Some((since, until)) => (
            Some(if since.is_empty() { "HEAD" } else { since }),
            if until.is_empty() { "HEAD" } else { until },
        ),
        None => (None, name),
    };
    let resolve = |name: &str| -> Result<String> {
        let spec = format!("{name}^{{commit}}");
        let args = [
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &spec,
        ];
        match git.lines(&args) {
            Ok(id) => Ok(String::from_utf8_lossy(&id).into_owned()),
            Err(e) if e.io_error().is_some() => Err(e),
            Err(_) => Err(wrong("the overlay has no such commit")),
        }
    };
    let commit = resolve(name_of_commit)?;
    let since = since.map(resolve).transpose()?;
    let time = commit_time(git, &commit)?;
    let mut scope = Scope {
        commit: Some(commit.clone()),
        reference: Some(name.to_owned()),
        since: since.clone(),
        deleted: 0,
        time,
    };
    let entries = match since {
        None => tree(git, &commit)?,
        Some(since) => changed(git, &since, &commit, &mut scope.deleted)?,
    };
    let mut objects = git.objects()?;
    let mut files = Vec::new();
    for entry in entries {
        let dst = entry.dst(git)?;
        let content = if entry.mode == "120000" {
            let mut target = Vec::new();
            objects.copy(&entry.oid, &mut target)?;
            Content::Link(OsString::from_vec(target).into(), made_at(time))
        } else {
            Content::Blob {
                path: spool.keep(&entry.oid, |out| objects.copy(&entry.oid, out))?,
                mode: if entry.mode == "100755" { 0o755 } else { 0o644 },
                time,
            }
        };
        files.push(Tracked { dst, content });
    }
    Ok((scope, files))
}

/// A line of `git ls-tree` or `git diff-tree`.
struct Entry {
    mode: String,
    oid: String,
    name: OsString,
}

impl Entry {
    fn dst(&self, git: &Git) -> Result<RelPath> {
        let refused = |message: String, advice: &str| {
            Error::new(Kind::Refused, message)
                .path(git.dir().join(PathBuf::from(&self.name)))
                .advice(advice.to_owned())
        };
        if self.mode == "160000" {
            return Err(refused(
                "it is a submodule, which has no files of its own to promote".into(),
                "track its files in the overlay, or remove it",
            ));
        }
        RelPath::parse(&self.name).map_err(|what| {
            refused(
                format!("as a destination it {what}"),
                "rename it in the overlay",
            )
        })
    }
}

fn tree(git: &Git, commit: &str) -> Result<Vec<Entry>> {
    let out = git.run(&["ls-tree", "-r", "-z", "--full-tree", commit])?;
    let records = out.split(|byte| *byte == 0).filter(|r| !r.is_empty());
    records
        .map(|record| {
            let tab = record.iter().position(|byte| *byte == b'\t');
            let (head, name) = tab
                .map(|tab| (&record[..tab], &record[tab + 1..]))
                .ok_or_else(|| not_understood(git, record))?;
            let head = String::from_utf8_lossy(head);
            let words: Vec<&str> = head.split(' ').collect();
            let [mode, _, oid] = words[..] else {
                return Err(not_understood(git, record));
            };
            Ok(Entry {
                mode: mode.into(),
                oid: oid.into(),
                name: OsString::from_vec(name.to_vec()),
            })
        })
        .collect()
}

fn changed(git: &Git, since: &str, until: &str, deleted: &mut u64) -> Result<Vec<Entry>> {
    let out = git.run(&["diff-tree", "-r", "-z", "--no-renames", since, until])?;
    let mut records = out.split(|byte| *byte == 0).filter(|r| !r.is_empty());
    let mut entries = Vec::new();
    while let (Some(head), Some(name)) = (records.next(), records.next()) {
        // ":100644 100755 OLD NEW M"
        let text = String::from_utf8_lossy(head);
        let words: Vec<&str> = text.split(' ').collect();
        let [_, mode, _, oid, what] = words[..] else {
            return Err(not_understood(git, head));
        };
        if what == "D" {
            *deleted += 1;
            continue;
        }
        entries.push(Entry {
            mode: mode.into(),
            oid: oid.into(),
            name: OsString::from_vec(name.to_vec()),
        });
    }
    Ok(entries)
}

fn not_understood(git: &Git, record: &[u8]) -> Error {
    let shown = printable(&String::from_utf8_lossy(record));
    Error::new(Kind::Syntax, format!("git printed \"{shown}\""))
        .doing("listing the files of")
        .path(git.dir())
        .advice("another version of git may help")
}

fn commit_time(git: &Git, commit: &str) -> Result<i64> {
    let out = git.lines(&["show", "-s", "--no-show-signature", "--format=%ct", commit])?;
    let text = String::from_utf8_lossy(&out);
    text.trim()
        .parse()
        .map_err(|_| not_understood(git, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_head_upstream_and_the_first_change() {
        let clean = b"# branch.oid 0123456\0# branch.head main\0# branch.upstream origin/main\0";
        let status = Status::detect(clean);
        assert_eq!(status.head.as_deref(), Some("0123456"));
        assert!(status.has_upstream && status.changed.is_none());
        let new = Status::detect(b"# branch.oid (initial)\0# branch.head main\0");
        assert_eq!(new, Status::default());
        let out = b"# branch.oid 1\0\
            2 R. N... 100644 100644 100644 a b R100 new name\0old name\0\
            1 .M N... 100644 100644 100644 a b with blank\0? un\ntracked\0";
        let changed = Status::detect(out).changed.unwrap();
        assert_eq!(changed, ("new name".to_owned(), 3));
    }
}
