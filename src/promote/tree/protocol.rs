//! The operations on a tree, as requests. They are the same whether this process or the
//! privileged helper performs them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::durable::Attributes;
use crate::error::{Error, Kind};
use crate::promote::path::path_bytes;

/// An operation on a tree. Places are paths without symlinks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Resolve a path to its place.
    Resolve {
        #[serde(with = "path_bytes")]
        path: PathBuf,
        follow: bool,
    },
    /// Check whether a file can be created at the place or removed from it.
    CheckWritable(#[serde(with = "path_bytes")] PathBuf),
    /// Look up the file at the place. A regular file is returned open.
    Look(#[serde(with = "path_bytes")] PathBuf),
    /// Compare the place with the bytes of the file that is sent along, or with the link.
    Compare {
        #[serde(with = "path_bytes")]
        place: PathBuf,
        link: Option<JsonPath>,
        /// Whether the file should be executable. `None` if that does not matter.
        executable: Option<bool>,
    },
    /// Stage the bytes of the file that is sent along, or the link, and create the directories
    /// that its place needs.
    Stage {
        slot: u64,
        #[serde(with = "path_bytes")]
        place: PathBuf,
        attributes: Attributes,
        link: Option<JsonPath>,
        /// The user and the group of new directories. `None` means those of the process.
        dir_owner: Option<(u32, u32)>,
    },
    /// Sync the staged files to stable storage.
    Flush,
    /// Give a staged file its name.
    Publish {
        slot: u64,
        #[serde(with = "path_bytes")]
        place: PathBuf,
    },
    /// Remove a file or a symlink.
    Remove(#[serde(with = "path_bytes")] PathBuf),
    /// Remove a directory, if it is empty.
    RemoveDir(#[serde(with = "path_bytes")] PathBuf),
    /// Sync the directories to stable storage.
    FlushNames,
    /// Remove all staged files.
    Clear,
}

/// The reply to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Place(#[serde(with = "path_bytes")] PathBuf),
    Previous(PreviousState),
    Found(Found),
    Staged {
        sha256: String,
        bytes: u64,
        made: Vec<JsonPath>,
    },
    Failed(Failure),
}

/// An [`Error`] in a form that can be sent as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: Kind,
    #[serde(default)]
    code: String,
    doing: Option<String>,
    path: Option<JsonPath>,
    cause: String,
    advice: Option<String>,
}

/// The codes that an error of an operation on a tree can have, apart from those of its kind.
const CODES: [&str; 4] = ["bug", "file-too-large", "no-memory", "too-many-open-files"];

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            code: error.code().to_owned(),
            doing: error.named_doing().map(str::to_owned),
            path: error.path().map(|path| JsonPath(path.into())),
            cause: error.cause(),
            advice: error.help().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let mut error = Self::new(failure.kind, failure.cause);
        if let Some(code) = CODES.iter().find(|code| **code == failure.code) {
            error = error.with_code(code);
        }
        if let Some(doing) = failure.doing {
            error = error.doing(doing);
        }
        if let Some(path) = failure.path {
            error = error.with_path(path.0);
        }
        match failure.advice {
            Some(advice) => error.advice(advice),
            None => error,
        }
    }
}

/// A path in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JsonPath(#[serde(with = "path_bytes")] pub(crate) PathBuf);

/// The present content of a destination, compared with the wanted content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Found {
    /// The destination does not exist.
    Missing,
    /// The content is the same.
    Same,
    /// The content is the same, but only one of both is executable.
    Mode,
    /// The content differs.
    Differs,
    /// The destination is a directory.
    Directory,
    /// The destination is a device node, a socket or a FIFO.
    Special,
    /// A parent of the destination is a file or a symlink, not a directory.
    ParentNotDirectory,
    /// Only root can read it.
    Denied,
}

/// The state of a place before a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PreviousState {
    Nothing,
    File {
        attributes: Attributes,
        bytes: u64,
    },
    Symlink {
        target: JsonPath,
        #[serde(flatten)]
        attributes: Attributes,
    },
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn an_error_keeps_its_code_on_the_way_from_the_helper() {
        for error in [
            Error::io("write", io::Error::from_raw_os_error(libc::EFBIG)),
            Error::io("write", io::Error::from_raw_os_error(libc::ENOSPC)),
            Error::io("open", io::Error::from_raw_os_error(libc::EMFILE)),
            Error::no_memory("read"),
            Error::new(Kind::Changed, "the source changed"),
            Error::new(Kind::Refused, "read-only filesystem"),
            Error::bug("what"),
        ] {
            let sent = serde_json::to_string(&Failure::from(&error)).unwrap();
            let failure: Failure = serde_json::from_str(&sent).unwrap();
            let arrived = Error::from(failure);
            assert_eq!(arrived.code(), error.code());
            assert_eq!(arrived.to_string(), error.to_string());
            assert_eq!(arrived.help(), error.help());
        }
    }
}
