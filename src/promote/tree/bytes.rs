//! Compares and copies the bytes of files, and computes their checksums.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::durable::{Attributes, Lookup, Tree};
use crate::error::{Error, Kind, Result};
use crate::promote::tree::protocol::{Found, JsonPath};

/// The number of bytes that are compared or copied at a time.
const PIECE: usize = 256 * 1024;

/// Returns whether `place` holds the bytes of `file`, or the symlink to `link`, and whether it is
/// as `executable` as it should be.
pub(crate) fn compare(
    tree: &Tree,
    place: &Path,
    file: Option<&File>,
    link: Option<&Path>,
    executable: Option<bool>,
) -> io::Result<Found> {
    let seen = match tree.lookup(place) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(Found::Denied),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
            return Ok(Found::ParentNotDirectory);
        }
        other => other?,
    };
    Ok(match seen {
        Lookup::Nothing => Found::Missing,
        Lookup::Directory => Found::Directory,
        Lookup::Special | Lookup::Unreadable(_) => Found::Special,
        Lookup::Symlink(target, _) if link == Some(target.as_path()) => Found::Same,
        Lookup::Symlink(..) => Found::Differs,
        Lookup::File(there, meta) => match file {
            Some(file) if same(file, &there, &meta)? => {
                let is_executable = meta.mode() & 0o111 != 0;
                match executable {
                    Some(wanted) if wanted != is_executable => Found::Mode,
                    _ => Found::Same,
                }
            }
            _ => Found::Differs,
        },
    })
}

/// Returns whether two files have the same bytes. `meta` is that of `there`.
pub(crate) fn same(file: &File, there: &File, meta: &std::fs::Metadata) -> io::Result<bool> {
    let wanted = file.metadata()?;
    if wanted.len() != meta.len() {
        return Ok(false);
    }
    if (wanted.dev(), wanted.ino()) == (meta.dev(), meta.ino()) {
        return Ok(true);
    }
    let piece = usize::try_from(meta.len().clamp(1, PIECE as u64)).unwrap_or(PIECE);
    let (mut a, mut b) = (vec![0; piece], vec![0; piece]);
    let mut at = 0;
    loop {
        let n = read_full_at(file, &mut a, at)?;
        if n != read_full_at(there, &mut b, at)? || a[..n] != b[..n] {
            return Ok(false);
        }
        at += n as u64;
        if n < piece || at == meta.len() {
            return Ok(at == meta.len());
        }
    }
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
