//! Finds edits that `git status` does not show, because git was told to ignore changes of the
//! file by `git update-index --assume-unchanged` or `--skip-worktree`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;

use super::git::Git;
use super::objects::Batch;
use crate::error::{Error, Result};

/// The number of files that are passed to one git command.
const AT_ONCE: usize = 500;

/// A file in the index whose changes git ignores.
#[derive(Debug, PartialEq)]
struct Overlooked {
    mode: String,
    oid: String,
    name: OsString,
}

/// Finds a file below `paths`, or anywhere if there are none, whose changes git ignores and that
/// differs from the index. A missing file is not an edit: a sparse checkout has many of them.
pub(crate) fn probe(git: &Git, paths: &[&str]) -> Result<Option<OsString>> {
    let out = git.run(&[&["ls-files", "-v", "-s", "-z", "--"], paths].concat())?;
    let mut files = Vec::new();
    for file in out.split(|byte| *byte == 0).filter_map(detect) {
        let path = git.dir().join(&file.name);
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        let same = match file.mode.as_str() {
            "120000" => {
                let mut target = Vec::new();
                Batch::start(git)?.copy(&file.oid, &mut target)?;
                let reading = |e| Error::io("read the symlink", e).with_path(&path);
                meta.is_symlink()
                    && std::fs::read_link(&path).map_err(reading)? == *OsStr::from_bytes(&target)
            }
            mode => meta.is_file() && (meta.mode() & 0o100 != 0) == (mode == "100755"),
        };
        match same {
            false => return Ok(Some(file.name)),
            true if meta.is_file() => files.push(file),
            true => {}
        }
    }
    for files in files.chunks(AT_ONCE) {
        // hash-object uses the same filters as `git add`.
        let mut args: Vec<&OsStr> = vec!["hash-object".as_ref(), "--".as_ref()];
        args.extend(files.iter().map(|file| file.name.as_os_str()));
        let out = git.run(&args)?;
        let mut sums = out.split(|byte| *byte == b'\n');
        let edited = files
            .iter()
            .find(|file| sums.next() != Some(file.oid.as_bytes()));
        if let Some(file) = edited {
            return Ok(Some(file.name.clone()));
        }
    }
    Ok(None)
}

/// Parses a record "H 100644 OID 0\tNAME". Returns the file if git ignores its changes: a
/// lowercase letter means assume-unchanged, and S means skip-worktree. Submodules are left out,
/// because they are repositories of their own.
fn detect(record: &[u8]) -> Option<Overlooked> {
    let tag = record.first()?;
    let tab = record.iter().position(|byte| *byte == b'\t')?;
    let head = std::str::from_utf8(&record[..tab]).ok()?;
    let mut words = head.split(' ').skip(1).map(str::to_owned);
    let file = Overlooked {
        mode: words.next()?,
        oid: words.next()?,
        name: OsString::from_vec(record[tab + 1..].to_vec()),
    };
    ((tag.is_ascii_lowercase() || *tag == b'S') && file.mode != "160000").then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tags_of_ignored_files_are_parsed() {
        let name = |tag: &str, mode: &str| {
            let record = format!("{tag} {mode} 0123 0\ta name\twith a tab");
            detect(record.as_bytes()).map(|file| (file.oid, file.name))
        };
        let known = Some(("0123".into(), "a name\twith a tab".into()));
        for tag in ["h", "S", "s"] {
            assert_eq!(name(tag, "100644"), known, "{tag}");
            assert_eq!(name(tag, "160000"), None, "{tag}");
        }
        for tag in ["H", "M", "C"] {
            assert_eq!(name(tag, "100644"), None, "{tag}");
        }
        assert_eq!(detect(b""), None);
    }
}
