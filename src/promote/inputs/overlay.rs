//! Channel A: the committed files of the overlay tracker, at HEAD or another commit.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::content::Content;
use super::git::Git;
use super::objects::{Batch, Blob};
use super::overlooked;
use crate::durable::Attributes;
use crate::error::{Error, Kind, Result, printable};
use crate::promote::options::Ownership;
use crate::promote::path::RelPath;
use crate::promote::refused::{refused, shell_word};

/// The commits of the overlay that are promoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// A description of the scope.
    pub words: String,
    /// The commit whose files are used, or `None` if the overlay has no commit yet.
    pub commit: Option<String>,
    /// The number of files that were deleted in the range. They stay in the image.
    pub deleted: u64,
}

/// Selects the files for which git checks out other bytes than the committed ones, apart from
/// line ends: LFS files, for example.
const CONVERTED: &str = ":(exclude,attr:!filter !ident !working-tree-encoding)";

fn short(id: &str) -> &str {
    id.get(..7).unwrap_or(id)
}

/// A file of the overlay.
#[derive(Debug, Clone)]
pub struct Tracked {
    /// The destination.
    pub dst: RelPath,
    /// The content.
    pub content: Content,
    /// Whether git says that it is executable. `None` if its mode is not taken from git.
    pub executable: Option<bool>,
}

/// Returns the files of `head`, with the times and owners of the checked-out files. If the
/// ownership of the source is wanted, they have its modes too.
pub(crate) fn probe_head(
    git: &Git,
    head: Option<&str>,
    ownership: Ownership,
) -> Result<(Scope, Vec<Tracked>)> {
    let Some(head) = head else {
        let scope = Scope {
            words: "(empty)".into(),
            commit: None,
            deleted: 0,
        };
        return Ok((scope, Vec::new()));
    };
    let converted = git.names(&["ls-files", "-z", "--", CONVERTED])?;
    let overlooked = match converted.is_empty() {
        true => None,
        false => overlooked::probe(git, &[CONVERTED])?,
    };
    if let Some(name) = overlooked {
        let advice = format!(
            "git -C {} update-index --no-assume-unchanged --no-skip-worktree {}, then commit it",
            shell_word(git.dir()),
            shell_word(Path::new(&name))
        );
        let message = "an uncommitted change in a file that git was told to ignore";
        let error = refused(message, git.dir().join(name), advice);
        return Err(error.with_code("uncommitted-changes"));
    }
    let files = files(
        git,
        head,
        |_| true,
        |entry, committed| {
            let path = git.dir().join(&entry.name);
            let there = path.symlink_metadata().ok().filter(|meta| meta.is_file());
            let there = there.as_ref().map(Attributes::without_xattrs);
            let converted = converted.contains(&entry.name);
            let Some(there) = there else {
                return match converted {
                    false => Ok(Content::Committed(entry.blob(), committed)),
                    true => Err(refused(
                        "not checked out, and git converts it when it is",
                        path,
                        format!(
                            "git -C {} checkout -- {}",
                            shell_word(git.dir()),
                            shell_word(Path::new(&entry.name))
                        ),
                    )
                    .with_code("bad-overlay")),
                };
            };
            let mode = match ownership {
                Ownership::Keep => committed.mode,
                Ownership::Source => there.mode,
            };
            let given = Attributes { mode, ..there };
            Ok(match converted {
                true => Content::CheckedOut(path, given),
                false => Content::Committed(entry.blob(), given),
            })
        },
        ownership,
    )?;
    let scope = Scope {
        words: format!("overlay HEAD ({})", short(head)),
        commit: Some(head.to_owned()),
        deleted: 0,
    };
    Ok((scope, files))
}

/// Returns the files of a named commit, or the files that a range changed.
pub(crate) fn probe_reference(
    git: &Git,
    name: &str,
    ownership: Ownership,
) -> Result<(Scope, Vec<Tracked>)> {
    let wrong = |message: &str| {
        Error::new(Kind::Refused, message)
            .doing("read the overlay at")
            .with_name(name)
            .with_code("bad-reference")
            .advice("name a tag, a commit, or a range A..B of the overlay repository")
    };
    if name.contains("...") {
        return Err(wrong("a range has two dots, not three"));
    }
    if name == ".." {
        return Err(wrong("neither end of the range is named"));
    }
    let (since, until) = match name.split_once("..") {
        Some((since, until)) => (Some(or_head(since)), or_head(until)),
        None => (None, name),
    };
    let resolve = |name: &str| -> Result<String> {
        let spec = format!("{name}^{{commit}}");
        let args = ["rev-parse", "--verify", "--quiet", "--end-of-options"];
        match git.lines(&[&args[..], &[spec.as_str()]].concat()) {
            Ok(id) => Ok(String::from_utf8_lossy(&id).into_owned()),
            Err(e) if e.io_error().is_some() => Err(e),
            Err(_) => Err(wrong("no such commit in the overlay")),
        }
    };
    let commit = resolve(until)?;
    let since = since.map(resolve).transpose()?;
    let changed = |filter: &str| match &since {
        None => Ok(None),
        Some(since) => {
            let args = [
                "diff-tree",
                "-r",
                "-z",
                "--no-renames",
                "--name-only",
                "--relative",
            ];
            let names = git.names(&[&args[..], &[filter, since.as_str(), &commit]].concat());
            names.map(Some)
        }
    };
    let deleted = changed("--diff-filter=D")?.map_or(0, |names| names.len() as u64);
    let changed = changed("--diff-filter=d")?;
    let is_wanted = |name: &OsString| changed.as_ref().is_none_or(|names| names.contains(name));
    let content = |entry: Entry, committed| Ok(Content::Committed(entry.blob(), committed));
    let files = files(git, &commit, is_wanted, content, ownership)?;
    let (name, until) = (printable(name), short(&commit));
    let words = match &since {
        None => format!("overlay {name} ({until})"),
        Some(since) => format!("overlay {name} (changed from {} to {until})", short(since)),
    };
    let scope = Scope {
        words,
        commit: Some(commit),
        deleted,
    };
    Ok((scope, files))
}

/// Returns one end of a range: `name`, or HEAD if it is empty.
fn or_head(name: &str) -> &str {
    match name {
        "" => "HEAD",
        name => name,
    }
}

/// Returns the wanted files of `commit`. `content` creates the content of a regular file from its
/// entry in the commit.
fn files(
    git: &Git,
    commit: &str,
    is_wanted: impl Fn(&OsString) -> bool,
    content: impl Fn(Entry, Attributes) -> Result<Content>,
    ownership: Ownership,
) -> Result<Vec<Tracked>> {
    let out = git.lines(&["show", "-s", "--no-show-signature", "--format=%ct", commit])?;
    let time = String::from_utf8_lossy(&out);
    let time: i64 = time.trim().parse().map_err(|_| not_understood(git, &out))?;
    let tree = git.tree_of(commit);
    let exists = [OsStr::new("cat-file"), "-e".as_ref(), &tree];
    if tree != commit && !git.succeeds(&exists)? {
        // The commit has no file in this directory.
        return Ok(Vec::new());
    }
    let list = ["ls-tree", "-r", "-l", "-z", "--full-tree"].map(OsStr::new);
    let out = git.run(&[&list[..], &[&tree]].concat())?;
    let mut batch = None;
    let mut files = Vec::new();
    for record in out.split(|byte| *byte == 0).filter(|r| !r.is_empty()) {
        let entry = Entry::parse(record).ok_or_else(|| not_understood(git, record))?;
        if !is_wanted(&entry.name) {
            continue;
        }
        let dst = entry.dst(git)?;
        let committed = Attributes {
            mode: entry.mode & 0o777,
            mtime: (time, 0),
            ..Attributes::default()
        };
        let is_file = entry.mode != SYMLINK && ownership == Ownership::Keep;
        let executable = is_file.then_some(entry.mode & 0o111 != 0);
        let content = if entry.mode == SYMLINK {
            let mut target = Vec::new();
            let reader = match batch.take() {
                Some(reader) => reader,
                None => Batch::start(git)?,
            };
            batch.insert(reader).copy(&entry.oid, &mut target)?;
            Content::Link(OsString::from_vec(target).into(), committed)
        } else {
            content(entry, committed)?
        };
        files.push(Tracked {
            dst,
            content,
            executable,
        });
    }
    Ok(files)
}

/// The modes that git uses for entries other than regular files.
const SYMLINK: u32 = 0o120_000;
const SUBMODULE: u32 = 0o160_000;

/// A line of the output of `git ls-tree -l`.
struct Entry {
    mode: u32,
    oid: String,
    bytes: u64,
    name: OsString,
}

impl Entry {
    /// Parses "100644 blob OID     SIZE\tNAME". Only a blob has a size.
    fn parse(record: &[u8]) -> Option<Self> {
        let tab = record.iter().position(|byte| *byte == b'\t')?;
        let head = std::str::from_utf8(&record[..tab]).ok()?;
        let words: Vec<&str> = head.split_whitespace().collect();
        let [mode, _, oid, bytes] = words[..] else {
            return None;
        };
        Some(Self {
            mode: u32::from_str_radix(mode, 8).ok()?,
            oid: oid.into(),
            bytes: match bytes {
                "-" => 0,
                // git prints "BAD" if the object is missing.
                bytes => bytes.parse().ok()?,
            },
            name: OsString::from_vec(record[tab + 1..].to_vec()),
        })
    }

    fn blob(self) -> Blob {
        Blob {
            oid: self.oid,
            bytes: self.bytes,
        }
    }

    fn dst(&self, git: &Git) -> Result<RelPath> {
        let refused = |message: String, advice: &str| {
            let path = git.dir().join(Path::new(&self.name));
            refused(message, path, advice).with_code("bad-overlay")
        };
        if self.mode == SUBMODULE {
            return Err(refused(
                "a submodule, expected files".into(),
                "track its files in the overlay, or remove it",
            ));
        }
        RelPath::parse(&self.name).map_err(|what| {
            refused(
                format!("cannot be promoted: the path {what}"),
                "rename it in the overlay",
            )
        })
    }
}

fn not_understood(git: &Git, record: &[u8]) -> Error {
    let shown = printable(&String::from_utf8_lossy(record));
    Error::new(
        Kind::Syntax,
        format!("unexpected output of git: \"{shown}\""),
    )
    .doing("list the files of")
    .with_path(git.dir())
    .with_code("git")
    .advice("check the repository with `git fsck`, or use another version of git")
}
