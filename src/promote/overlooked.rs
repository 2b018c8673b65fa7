//! Changes that `git status` tells nothing of, because somebody told git to overlook the
//! file: `git update-index --assume-unchanged` or `--skip-worktree`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;

use crate::error::{Error, Result};

use super::git::Git;

/// So many files are given to one git command.
const AT_ONCE: usize = 500;

/// A file of the index that git overlooks.
struct Overlooked {
    mode: String,
    oid: String,
    name: OsString,
}

/// A file that git overlooks and that is not as it is in the index; what is not there, as
/// in a sparse checkout, is no change.
///
/// # Errors
/// git fails, or a file cannot be read.
pub(super) fn probe(git: &Git) -> Result<Option<OsString>> {
    let out = git.run(&["ls-files", "-v", "-s", "-z"])?;
    let records = out.split(|byte| *byte == 0).filter(|r| !r.is_empty());
    let mut files = Vec::new();
    for file in records.filter_map(detect) {
        let path = git.dir().join(&file.name);
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        let is_link = file.mode == "120000";
        if is_link != meta.is_symlink() || !is_link && !meta.is_file() {
            return Ok(Some(file.name));
        }
        if is_link {
            let mut target = Vec::new();
            git.objects()?.copy(&file.oid, &mut target)?;
            let there = std::fs::read_link(&path)
                .map_err(|e| Error::io("reading the symlink", e).path(&path))?;
            if there.as_os_str().as_bytes() != target {
                return Ok(Some(file.name));
            }
        } else if (meta.mode() & 0o100 != 0) != (file.mode == "100755") {
            return Ok(Some(file.name));
        } else {
            files.push(file);
        }
    }
    for files in files.chunks(AT_ONCE) {
        // With the filters that `git add` would use.
        let mut args: Vec<&OsStr> = vec!["hash-object".as_ref(), "--".as_ref()];
        args.extend(files.iter().map(|file| file.name.as_os_str()));
        let out = git.run(&args)?;
        let oids = out.split(|byte| *byte == b'\n');
        if let Some((file, _)) = files
            .iter()
            .zip(oids)
            .find(|(f, oid)| f.oid.as_bytes() != *oid)
        {
            return Ok(Some(file.name.clone()));
        }
    }
    Ok(None)
}

/// One of "H 100644 OID 0\tNAME" that git overlooks: a small letter is assume-unchanged, S
/// is skip-worktree. Submodules are none.
fn detect(record: &[u8]) -> Option<Overlooked> {
    if !(record[0].is_ascii_lowercase() || record[0] == b'S') {
        return None;
    }
    let tab = record.iter().position(|byte| *byte == b'\t')?;
    let head = String::from_utf8_lossy(&record[..tab]);
    let mut words = head.split(' ').skip(1);
    let (mode, oid) = (words.next()?.to_owned(), words.next()?.to_owned());
    (mode != "160000").then(|| Overlooked {
        mode,
        oid,
        name: OsString::from_vec(record[tab + 1..].to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tags_of_what_is_overlooked_are_known() {
        let name = |tag: &str| {
            let record = format!("{tag} 100644 0123 0\ta name\twith a tab");
            detect(record.as_bytes()).map(|file| (file.oid, file.name))
        };
        let known = Some(("0123".into(), "a name\twith a tab".into()));
        for tag in ["h", "S", "s"] {
            assert_eq!(name(tag), known, "{tag}");
        }
        for tag in ["H", "M", "C"] {
            assert_eq!(name(tag), None, "{tag}");
        }
    }
}
