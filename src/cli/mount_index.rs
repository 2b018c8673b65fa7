//! `mount --index FILE`: saves the contents of the headers for the next mount.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::Path;
use std::time::SystemTime;

use crate::block::{file_type_name, refuse_new_in_dev};
use crate::durable::AtomicFile;
use crate::error::{Error, Kind, Result};
use crate::mount::{Filesystem, Unfit, indexed_extent};
use crate::payload::Payload;

/// Returns the filesystem from the index in `file`, or `None` if the index must be rebuilt.
///
/// # Errors
/// `file` is of another kind and must not be replaced, or would be created in /dev.
pub(super) fn read(
    file: &Path,
    payload: &Payload,
    changed: SystemTime,
) -> Result<Option<Filesystem>> {
    let foreign = |what: &str| {
        Error::new(Kind::Refused, what)
            .with_code("not-an-index")
            .with_path(file)
            .advice("give --index a new file name, only an index is replaced")
    };
    // The type is checked first, because opening a FIFO would wait for a writer.
    let opened = match file.metadata() {
        Ok(meta) if !meta.is_file() => {
            let found = file_type_name(meta.file_type());
            return Err(foreign(&format!("expected a file, found {found}")));
        }
        // mktemp(1) creates an empty file.
        Ok(meta) if meta.len() == 0 => return Ok(None),
        Ok(_) => File::open(file),
        Err(e) => Err(e),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            refuse_new_in_dev(file)?;
            return Ok(None);
        }
        Err(e) => {
            log::warn!("{}", Error::io("read the index", e).with_path(file));
            return Ok(None);
        }
    };
    match Filesystem::from_index(payload.clone(), changed, BufReader::new(opened)) {
        Ok(filesystem) => Ok(Some(filesystem)),
        Err(unfit @ Unfit::Foreign) => Err(foreign(&unfit.to_string())),
        Err(unfit) => {
            log::info!("writing the index `{}` again: {unfit}", file.display());
            Ok(None)
        }
    }
}

/// Returns the length of the payload that the index in `file` is of, and of its headers, in bytes.
/// Nothing of the index has been checked, so the trailer that is found with them must be.
pub(super) fn extent(file: &Path) -> Option<(u64, u64)> {
    // Opening a FIFO would wait for a writer.
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    indexed_extent(BufReader::new(File::open(file).ok()?))
}

/// Writes an index. If that fails, a warning is printed, and the mount works without it.
pub(super) fn write(file: &Path, filesystem: &Filesystem, changed: SystemTime) {
    let written = AtomicFile::create(file).and_then(|mut new| {
        let failed = |e| Error::io("write", e).with_path(file);
        let out = BufWriter::new(&mut new);
        filesystem.write_index(changed, out).map_err(failed)?;
        new.commit()
    });
    if let Err(e) = written {
        log::warn!("no index for the next mount: {e}");
    }
}
