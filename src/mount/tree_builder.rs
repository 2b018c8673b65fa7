//! Builds the tree from the headers of a payload, and chooses names for files that cannot have
//! their own.

use std::borrow::Cow;

use crate::error::{Error, Kind, Result};
use crate::format::{Fault, MAX_NAME_LEN};
use crate::payload::{Cause, Entry, Payload, Problem};
use crate::progress::Progress;

use super::tree::{NotAdded, Tree};

/// What to do about problems of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strictness {
    /// The first problem is an error, so what is mounted is intact.
    #[default]
    Strict,
    /// Files that are intact are served, and problems are reported.
    Lenient,
}

/// Builds the tree from all headers of `payload`. With [`Strictness::Lenient`], each problem is
/// passed to `report`, and the tree holds everything that is intact. A file that is cut off has
/// the bytes that exist. A file whose name is invalid or already used has another name.
///
/// # Errors
/// The first problem if strict; an interruption.
pub(super) fn build_tree(
    payload: &Payload,
    strictness: Strictness,
    progress: &dyn Progress,
    report: &mut dyn FnMut(&Problem),
) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut tell = |problem: Problem| match strictness {
        Strictness::Strict => Err(problem.into_error(&**payload.source())),
        Strictness::Lenient => {
            report(&problem);
            Ok(())
        }
    };
    // The walk ends where the source ends, whatever count the header has.
    if let Some(problem) = payload.problem_of_count() {
        tell(problem)?;
    }
    for step in payload.walk()? {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        if tree.files() == Tree::MAX_FILES {
            return Err(Error::new(
                Kind::Refused,
                format!("more than {} files, the limit of a mount", Tree::MAX_FILES),
            )
            .with_code("too-many-files")
            .with_path(payload.source().path()));
        }
        match step {
            Ok(entry) => {
                if let Err(fault) = entry.name() {
                    tell(entry.problem(entry.header_offset, Cause::Fault(fault.into())))?;
                }
                if let Some(problem) = add(&mut tree, &entry, payload)? {
                    tell(problem)?;
                }
            }
            Err(problem) => {
                let rest = cut_off(payload, &problem)?;
                tell(problem)?;
                if let Some(entry) = rest {
                    add(&mut tree, &entry, payload)?;
                }
            }
        }
    }
    tree.settle();
    Ok(tree)
}

/// Adds `entry`, under another name if its own is invalid or already used. Returns a problem if
/// the name is already used.
fn add(tree: &mut Tree, entry: &Entry, payload: &Payload) -> Result<Option<Problem>> {
    let own = escaped(&entry.raw_name, entry.index);
    let mut push = |name: &[u8]| match tree.push(name, entry.data_offset, entry.size) {
        Ok(()) => Ok(None),
        Err(NotAdded::Taken(first)) => Ok(Some(first)),
        Err(NotAdded::NoMemory) => {
            let error = Error::no_memory("get memory for the names");
            Err(error.with_path(payload.source().path()))
        }
    };
    let Some(first) = push(&own)? else {
        return Ok(None);
    };
    let mut suffix = format!("%{}", entry.index);
    for tries in 1.. {
        if push(&suffixed(&own, &suffix))?.is_none() {
            break;
        }
        // The name differs in each try, and the image has used only finitely many names.
        suffix = format!("%{}.{tries}", entry.index);
    }
    let fault = Fault::Repeated { first };
    Ok(Some(
        entry.problem(entry.header_offset, Cause::Fault(fault)),
    ))
}

/// Returns the part that exists of a file whose data runs past the end.
fn cut_off(payload: &Payload, problem: &Problem) -> Result<Option<Entry>> {
    let (Cause::Fault(fault), Some(index)) = (&problem.cause, problem.index) else {
        return Ok(None);
    };
    let (Fault::DataPastEnd { data_offset, .. } | Fault::Overflow { data_offset, .. }) = *fault
    else {
        return Ok(None);
    };
    let header_offset = problem.offset;
    Ok(Some(Entry {
        index,
        raw_name: payload.raw_name(header_offset, data_offset)?,
        header_offset,
        data_offset,
        size: payload.source().len().saturating_sub(data_offset),
    }))
}

/// Returns the name under which an entry is shown: its own name if a file system can hold it.
/// Otherwise `/`, NUL and `%` are percent-encoded, `.` and `..` are encoded completely, and a
/// name of more than 255 bytes is cut off and gets the index appended.
fn escaped(raw: &[u8], index: u64) -> Cow<'_, [u8]> {
    let dots = matches!(raw, b"." | b"..");
    if !dots && raw.len() <= MAX_NAME_LEN && !raw.iter().any(|b| matches!(b, b'/' | 0)) {
        return raw.into();
    }
    let mut name = Vec::with_capacity(raw.len() + 8);
    for &byte in raw {
        if matches!(byte, b'/' | 0 | b'%') || (dots && byte == b'.') {
            name.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            name.push(byte);
        }
    }
    if name.len() > MAX_NAME_LEN {
        name = suffixed(&name, &format!("%{index}"));
    }
    name.into()
}

/// Returns `name` with `suffix` appended, cut to the length that a file system can hold. No
/// character of UTF-8 is cut apart.
fn suffixed(name: &[u8], suffix: &str) -> Vec<u8> {
    let mut kept = name.len().min(MAX_NAME_LEN - suffix.len());
    if kept < name.len() {
        // At most three bytes continue a character.
        let continues = |byte: &u8| *byte & 0xC0 == 0x80;
        let start = (kept.saturating_sub(3)..=kept).rev();
        let start = start.into_iter().find(|at| !continues(&name[*at]));
        let is_text = std::str::from_utf8(name).is_ok();
        kept = start.filter(|_| is_text).unwrap_or(kept);
    }
    [&name[..kept], suffix.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_file_name_is_not_changed() {
        for name in [
            &b"a"[..],
            b"100%",
            b"a\\b",
            b"a\nb",
            b"\xff",
            b"...",
            &[b'x'; 255],
        ] {
            assert_eq!(*escaped(name, 7), *name);
        }
    }

    #[test]
    fn an_invalid_file_name_is_encoded() {
        assert_eq!(*escaped(b"/etc/passwd", 7), *b"%2Fetc%2Fpasswd");
        assert_eq!(*escaped(b"50%/x", 7), *b"50%25%2Fx");
        assert_eq!(*escaped(b"a\0b", 7), *b"a%00b");
        assert_eq!(*escaped(b".", 7), *b"%2E");
        assert_eq!(*escaped(b"..", 7), *b"%2E%2E");
        let long = escaped(&[b'x'; 1024], 7);
        assert_eq!(long.len(), 255);
        assert!(long.ends_with(b"xx%7"));
    }

    #[test]
    fn a_long_name_is_not_cut_inside_a_character() {
        for (character, bytes) in [("é", 2), ("€", 3), ("😀", 4)] {
            for before in 0..bytes {
                let name = "x".repeat(before) + &character.repeat(200);
                let cut = escaped(name.as_bytes(), 7).into_owned();
                let cut = String::from_utf8(cut).unwrap();
                assert!(cut.len() <= 255 && cut.len() > 255 - bytes, "{}", cut.len());
                assert!(cut.ends_with(&format!("{character}%7")), "{cut}");
            }
        }
        // Other bytes are cut as before.
        assert_eq!(escaped(&[0x80; 300], 7).len(), 255);
    }
}
