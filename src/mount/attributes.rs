//! Extended attributes: for instance, where on the disk the data of a file is.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use crate::error::Error;

use super::errno::Refusal;
use super::filesystem::{Answer, Filesystem};
use super::tree::ROOT;

const PREFIX: &str = "user.lbpayload.";

/// The directory's attribute with the number of the server's process.
pub const PID: &str = "user.lbpayload.pid";

/// The directory's attribute with that process's PID namespace; missing without /proc.
pub(super) const PID_NAMESPACE: &str = "user.lbpayload.pid_namespace";

/// A file's attribute whose value takes as long as reading the file, unless it is known already.
const SHA256: &[u8] = b"user.lbpayload.sha256";

/// The value of the attribute `name` of `ino`.
///
/// # Errors
/// It has no such attribute, or the file cannot be read.
pub fn attribute(filesystem: &Filesystem, ino: u64, name: &[u8]) -> Answer<Vec<u8>> {
    filesystem.kind(ino)?;
    let name = std::str::from_utf8(name)
        .ok()
        .and_then(|name| name.strip_prefix(PREFIX))
        .ok_or(Refusal::NoAttribute)?;
    let value = if ino == ROOT {
        of_the_directory(filesystem, name)
    } else {
        of_a_file(filesystem, ino, name)?
    };
    value.ok_or(Refusal::NoAttribute)
}

/// Passes [`attribute`] to `reply`: from a thread of its own where the value takes time,
/// so that nobody else waits for that.
pub(super) fn give_attribute(
    filesystem: &Arc<Filesystem>,
    ino: u64,
    name: &[u8],
    reply: impl FnOnce(Answer<Vec<u8>>) + Send + 'static,
) {
    let takes_time = name == SHA256 && matches!(filesystem.known_sum(ino), Ok(None));
    if !takes_time {
        return reply(attribute(filesystem, ino, name));
    }
    let filesystem = Arc::clone(filesystem);
    let sum = move || reply(attribute(&filesystem, ino, SHA256));
    // Without a thread `reply` is dropped: fuser then answers with EIO.
    if let Err(e) = std::thread::Builder::new().name("sum".into()).spawn(sum) {
        log::error!("{}", Error::io("start a thread for a checksum", e));
    }
}

/// The names of the attributes of `ino`, each followed by a NUL. The checksum is listed
/// only once it is known: tools that copy all listed attributes would otherwise read
/// every byte for it.
///
/// # Errors
/// There is no such inode.
pub fn attribute_names(filesystem: &Filesystem, ino: u64) -> Answer<Vec<u8>> {
    filesystem.kind(ino)?;
    let mut names = if ino == ROOT {
        vec!["source", "dialect", "files", "pid"]
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

/// This process's PID namespace, as /proc names it.
pub(super) fn pid_namespace() -> Option<Vec<u8>> {
    let name = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(name.into_os_string().into_vec())
}

fn of_the_directory(filesystem: &Filesystem, name: &str) -> Option<Vec<u8>> {
    let payload = filesystem.payload();
    Some(match name {
        "source" => payload.source().path().as_os_str().as_bytes().to_vec(),
        "dialect" => payload.dialect().to_string().into_bytes(),
        "files" => filesystem.tree().files().to_string().into_bytes(),
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

fn of_a_file(filesystem: &Filesystem, ino: u64, name: &str) -> Answer<Option<Vec<u8>>> {
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
