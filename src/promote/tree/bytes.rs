//! Compares and copies the bytes of files, and computes their checksums.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::durable::{Attributes, Lookup, Tree};
use crate::error::{Error, Kind, Result};
use crate::promote::tree::protocol::{Found, JsonPath};

/// The number of bytes that are compared or copied at a time.
const PIECE: usize = 256 * 1024;

/// A place, and what it should hold apart from bytes.
pub(crate) struct Wanted<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) path: &'a Path,
    /// The target, if it should be a symlink.
    pub(crate) link: Option<&'a Path>,
    /// Whether it should be executable. `None` if that does not matter.
    pub(crate) executable: Option<bool>,
}

/// The number of a place, and why it could not be compared.
type Failed = (usize, io::Error);

/// Returns whether `place` holds the bytes of `file`, or the symlink, and whether it is as
/// executable as it should be.
pub(crate) fn compare(place: &Wanted<'_>, file: Option<&File>) -> io::Result<Found> {
    let found = compare_all(std::slice::from_ref(place), file).map_err(|(_, e)| e)?;
    Ok(found[0])
}

/// Does the same for several places, and reads `file` once for all of them.
///
/// # Errors
/// A place cannot be read, and its number.
pub(crate) fn compare_all(
    places: &[Wanted<'_>],
    file: Option<&File>,
) -> std::result::Result<Vec<Found>, Failed> {
    let mut found = Vec::with_capacity(places.len());
    let mut open = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let (state, there) = look(place).map_err(|e| (number, e))?;
        found.push(state);
        if let (Some(file), Some((there, meta))) = (file, there) {
            let wanted = file.metadata().map_err(|e| (number, e))?;
            if wanted.len() == meta.len() {
                open.push(Candidate {
                    number,
                    is_same: (wanted.dev(), wanted.ino()) == (meta.dev(), meta.ino()),
                    there,
                    meta,
                });
            }
        }
    }
    if let Some(file) = file {
        find_same(file, &mut open)?;
    }
    for candidate in open.iter().filter(|candidate| candidate.is_same) {
        let is_executable = candidate.meta.mode() & 0o111 != 0;
        found[candidate.number] = match places[candidate.number].executable {
            Some(wanted) if wanted != is_executable => Found::Mode,
            _ => Found::Same,
        };
    }
    Ok(found)
}

/// Returns what is at a place. For a file, which may have the wanted bytes, also the open file.
fn look(place: &Wanted<'_>) -> io::Result<(Found, Option<(File, Metadata)>)> {
    let seen = match place.tree.lookup(place.path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok((Found::Denied, None)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
            return Ok((Found::ParentNotDirectory, None));
        }
        other => other?,
    };
    let found = match seen {
        Lookup::Nothing => Found::Missing,
        Lookup::Directory => Found::Directory,
        Lookup::Special | Lookup::Unreadable(_) => Found::Special,
        Lookup::Symlink(target, _) if place.link == Some(target.as_path()) => Found::Same,
        Lookup::Symlink(..) => Found::Differs,
        Lookup::File(there, meta) => return Ok((Found::Differs, Some((there, meta)))),
    };
    Ok((found, None))
}

/// A file of the same length as the source.
struct Candidate {
    number: usize,
    there: File,
    meta: Metadata,
    is_same: bool,
}

/// Reads `file` once, and finds out which candidates have the same bytes.
fn find_same(file: &File, candidates: &mut [Candidate]) -> std::result::Result<(), Failed> {
    let mut open: Vec<&mut Candidate> = candidates.iter_mut().filter(|one| !one.is_same).collect();
    let Some(first) = open.first() else {
        return Ok(());
    };
    let (number, length) = (first.number, first.meta.len());
    let piece = usize::try_from(length.clamp(1, PIECE as u64)).unwrap_or(PIECE);
    let (mut a, mut b) = (vec![0; piece], vec![0; piece]);
    let mut at = 0;
    loop {
        let n = read_full_at(file, &mut a, at).map_err(|e| (number, e))?;
        let mut same = Vec::with_capacity(open.len());
        for candidate in open {
            let read = read_full_at(&candidate.there, &mut b, at);
            if read.map_err(|e| (candidate.number, e))? == n && a[..n] == b[..n] {
                same.push(candidate);
            }
        }
        open = same;
        at += n as u64;
        if n < piece || at == length || open.is_empty() {
            for candidate in open {
                candidate.is_same = at == length;
            }
            return Ok(());
        }
    }
}

/// Returns whether two files have the same bytes. `meta` is that of `there`.
pub(crate) fn same(file: &File, there: File, meta: Metadata) -> io::Result<bool> {
    let mut candidates = [Candidate {
        number: 0,
        there,
        is_same: false,
        meta,
    }];
    if file.metadata()?.len() != candidates[0].meta.len() {
        return Ok(false);
    }
    find_same(file, &mut candidates).map_err(|(_, e)| e)?;
    Ok(candidates[0].is_same)
}

fn read_full_at(file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Stages the symlink or the bytes of `file`. Returns their checksum and their number.
pub(crate) fn stage(
    tree: &Tree,
    slot: u64,
    attributes: &Attributes,
    link: Option<&JsonPath>,
    file: Option<&File>,
) -> Result<(String, u64)> {
    let failed = |doing: &'static str| move |e| Error::io(doing, e).with_path(tree.path());
    if let Some(JsonPath(target)) = link {
        tree.stage_symlink(slot, target, attributes)
            .map_err(failed("create a symlink in"))?;
        return Ok((String::new(), 0));
    }
    let source =
        file.ok_or_else(|| Error::new(Kind::Refused, "the request came without a file"))?;
    let stamp = |e| Error::io("read the source", e);
    let before = source.metadata().map_err(stamp)?;
    if !before.is_file() {
        return Err(Error::new(
            Kind::Refused,
            "the source is not a regular file",
        ));
    }
    let mut staged = tree.stage(slot).map_err(failed("create a file in"))?;
    let mut sum = Sha256::new();
    let piece = usize::try_from(before.len().clamp(1, PIECE as u64)).unwrap_or(PIECE);
    let mut buf = vec![0; piece];
    let mut bytes = 0;
    loop {
        let n = read_full_at(source, &mut buf, bytes).map_err(stamp)?;
        if n == 0 {
            break;
        }
        sum.update(&buf[..n]);
        staged
            .write_all(&buf[..n])
            .map_err(failed("write a file in"))?;
        bytes += n as u64;
    }
    let after = source.metadata().map_err(stamp)?;
    let of = |m: &std::fs::Metadata| {
        (
            m.len(),
            m.mtime(),
            m.mtime_nsec(),
            m.ctime(),
            m.ctime_nsec(),
        )
    };
    if of(&before) != of(&after) || bytes != after.len() {
        return Err(
            Error::new(Kind::Changed, "the source changed while it was copied")
                .advice("wait until nothing writes to it, then promote again"),
        );
    }
    tree.finish(&staged, attributes)
        .map_err(failed("set the attributes of a file in"))?;
    Ok((hex::encode(sum.finalize()), bytes))
}

/// Returns the SHA-256 sum of an open file, from its beginning.
pub(crate) fn sum(mut file: &File) -> io::Result<String> {
    use std::io::Seek;
    file.rewind()?;
    let mut sum = Sha256::new();
    let mut buf = vec![0; PIECE];
    loop {
        match file.read(&mut buf) {
            Ok(0) => return Ok(hex::encode(sum.finalize())),
            Ok(n) => sum.update(&buf[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
