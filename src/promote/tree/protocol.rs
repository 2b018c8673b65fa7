//! The few things that are done to a tree, as requests: the same whether this process
//! does them or the helper with privilege.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::durable::Attributes;
use crate::error::{Error, Kind};
use crate::promote::path::path_bytes;

/// Something to be done to a tree. Places are paths without symlinks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Which place a path means.
    Resolve {
        #[serde(with = "path_bytes")]
        path: PathBuf,
        follow: bool,
    },
    /// Whether a file can be put there, or taken away.
    CheckWritable(#[serde(with = "path_bytes")] PathBuf),
    /// What is there. A regular file comes back open.
    Look(#[serde(with = "path_bytes")] PathBuf),
    /// Whether the place holds the bytes of the file that comes along, or the link.
    Compare {
        #[serde(with = "path_bytes")]
        place: PathBuf,
        link: Option<JsonPath>,
    },
    /// Stage the bytes of the file that comes along, or the link, and make the
    /// directories that its place needs.
    Stage {
        slot: u64,
        #[serde(with = "path_bytes")]
        place: PathBuf,
        attributes: Attributes,
        link: Option<JsonPath>,
    },
    /// Bring what is staged onto stable storage.
    Flush,
    /// Give a staged file its name.
    Publish {
        slot: u64,
        #[serde(with = "path_bytes")]
        place: PathBuf,
    },
    /// Remove a file or a symlink.
    Remove(#[serde(with = "path_bytes")] PathBuf),
    /// Remove a directory that may be empty.
    RemoveDir(#[serde(with = "path_bytes")] PathBuf),
    /// Bring the names onto stable storage.
    FlushNames,
    /// Remove what is staged.
    Clear,
}

/// What a request comes to.
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

/// An [`Error`] as JSON, its parts apart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: Kind,
    doing: Option<String>,
    path: Option<JsonPath>,
    cause: String,
    advice: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
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

/// A path inside JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JsonPath(#[serde(with = "path_bytes")] pub(crate) PathBuf);

/// What a destination holds, against what it should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Found {
    /// Nothing is there.
    Missing,
    /// It holds the same.
    Same,
    /// It holds something else.
    Differs,
    /// A directory is there.
    Directory,
    /// A device node, a socket or a FIFO is there.
    Special,
    /// No directory is above it, but a file or a symlink.
    NoWay,
    /// Only root can tell.
    Denied,
}

/// What was there before.
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
