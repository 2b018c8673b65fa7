//! Extended attributes: for instance, where the data of a file is on the disk.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicU64, Ordering};

use super::errno::Refusal;
use super::filesystem::{Answer, Filesystem};
use super::tree::ROOT;

const PREFIX: &str = "user.lbpayload.";

/// The directory's attribute that holds the process ID of the server.
pub const PID: &str = "user.lbpayload.pid";

/// The directory's attribute that holds the PID namespace of that process. It is missing without
/// /proc.
pub(super) const PID_NAMESPACE: &str = "user.lbpayload.pid_namespace";

/// A file's attribute with its checksum. Reading it takes as long as reading the file, unless the
/// checksum is already known.
const SHA256: &[u8] = b"user.lbpayload.sha256";

/// A file's attribute that describes its damage.
const PROBLEM: &[u8] = b"user.lbpayload.problem";

/// Returns the value of the attribute `name` of the inode `ino`.
///
/// # Errors
/// There is no such attribute, or the file cannot be read.
pub fn attribute(filesystem: &Filesystem, ino: u64, name: &[u8]) -> Answer<Vec<u8>> {
    filesystem.kind(ino)?;
    let name = std::str::from_utf8(name)
        .ok()
        .and_then(|name| name.strip_prefix(PREFIX))
        .ok_or(Refusal::NoAttribute)?;
    let value = if ino == ROOT {
        directory_attribute(filesystem, name)
    } else {
        file_attribute(filesystem, ino, name)?
    };
    value.ok_or(Refusal::NoAttribute)
}

/// Returns whether the source must be read for this attribute.
pub(super) fn needs_source(filesystem: &Filesystem, ino: u64, name: &[u8]) -> bool {
    ino != ROOT && name == PROBLEM && !filesystem.is_intact()
}

/// Returns whether a checksum must be computed for this attribute.
pub(super) fn needs_sum(filesystem: &Filesystem, ino: u64, name: &[u8]) -> bool {
    name == SHA256 && matches!(filesystem.known_sum(ino), Ok(None))
}

/// Returns the names of the attributes of `ino`, each followed by a NUL. The checksum is listed
/// only once it is known: otherwise, tools that copy all listed attributes would read every file
/// completely to compute it.
///
/// # Errors
/// There is no such inode.
pub fn attribute_names(filesystem: &Filesystem, ino: u64) -> Answer<Vec<u8>> {
    filesystem.kind(ino)?;
    let mut names = if ino == ROOT {
        vec![
            "source", "dialect", "files", "pid", "reads", "bytes", "errors",
        ]
    } else {
        vec!["index", "data_offset"]
    };
    if ino != ROOT && filesystem.known_sum(ino)?.is_some() {
        names.push("sha256");
    }
    let has_problem = if ino == ROOT {
        filesystem.problems().0 > 0
    } else {
        filesystem.problem(ino)?.is_some()
    };
    if has_problem {
        names.push("problem");
    }
    if ino == ROOT && filesystem.payload().source().healed_blocks().is_some() {
        names.push("healed");
    }
    if ino == ROOT && pid_namespace().is_some() {
        names.push("pid_namespace");
    }
    let mut list = Vec::new();
    for name in names {
        list.extend_from_slice(PREFIX.as_bytes());
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    Ok(list)
}

/// Returns this process's PID namespace, as /proc names it.
pub(super) fn pid_namespace() -> Option<Vec<u8>> {
    let name = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(name.into_os_string().into_vec())
}

fn directory_attribute(filesystem: &Filesystem, name: &str) -> Option<Vec<u8>> {
    let payload = filesystem.payload();
    Some(match name {
        "source" => payload.source().path().as_os_str().as_bytes().to_vec(),
        "dialect" => payload.dialect().to_string().into_bytes(),
        "files" => filesystem.tree().files().to_string().into_bytes(),
        "reads" => counted(&filesystem.counters().reads),
        "bytes" => counted(&filesystem.counters().bytes),
        "errors" => counted(&filesystem.counters().errors),
        "healed" => payload.source().healed_blocks()?.to_string().into_bytes(),
        "pid" => std::process::id().to_string().into_bytes(),
        "pid_namespace" => pid_namespace()?,
        "problem" => match filesystem.problems() {
            (1, Some(first)) => first.to_owned().into_bytes(),
            (count, Some(first)) => format!("{count} problems, the first: {first}").into_bytes(),
            (_, None) => return None,
        },
        _ => return None,
    })
}

fn counted(counter: &AtomicU64) -> Vec<u8> {
    counter.load(Ordering::Relaxed).to_string().into_bytes()
}

fn file_attribute(filesystem: &Filesystem, ino: u64, name: &str) -> Answer<Option<Vec<u8>>> {
    let node = filesystem.file(ino)?;
    Ok(match name {
        "index" => Some(node.index.to_string().into_bytes()),
        "data_offset" => Some(
            (filesystem.base() + node.data_offset)
                .to_string()
                .into_bytes(),
        ),
        "sha256" => Some(filesystem.sum(ino)?.to_string().into_bytes()),
        "problem" => filesystem.problem(ino)?.map(String::into_bytes),
        _ => None,
    })
}
