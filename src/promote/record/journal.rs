//! Records what each promote did, inside the image: `Linux_for_Tegra/.lbpayload/`.
//!
//! NVIDIA's flash tools use only folders that they name (`bootloader/`, `kernel/`, `rootfs/`, …),
//! so nothing of this folder reaches a device. A record is a file of JSON lines: what the run is,
//! what it does to each file (written before it is done), and how it ended. If the line about the
//! end is missing, the run was cut off.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::sidecar::Sidecar;
use crate::durable::{Directory, settle};
use crate::error::{Error, Result};
use crate::promote::path::{Place, path_bytes};
use crate::promote::plan::union::Channel;
use crate::promote::tree::bytes;
use crate::promote::tree::protocol::{JsonPath, PreviousState};

/// The version of the format of the records. A record of a later format is not read, because it may
/// mean something that this program does not know.
pub(crate) const FORMAT: u32 = 1;

/// A line of a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub(crate) enum Line {
    Begin(Box<Begin>),
    File(Box<Entry>),
    /// How many of the files above (not counting the [`Entry::kept`] ones) have their names, and
    /// how many more may have them because the helper died before it replied.
    Named {
        files: u64,
        #[serde(default, skip_serializing_if = "is_zero")]
        unsure: u64,
    },
    End(End),
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The description of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Begin {
    /// The number of the run, from 1.
    pub id: u64,
    /// `promote` or `rollback`.
    pub action: String,
    /// The promote whose result a rollback restores. 0 is the state before all of them.
    pub to: Option<u64>,
    /// The time of the start (RFC 3339, UTC).
    pub started: String,
    /// The name of the user.
    pub user: String,
    /// The name of the machine.
    pub host: String,
    /// The version of this program.
    pub version: String,
    /// The version of the format of the record. The first ones do not say it.
    #[serde(default)]
    pub format: u32,
    /// A description of the overlay's scope.
    pub overlay: Option<String>,
    /// The commit of the overlay.
    pub commit: Option<String>,
    /// The SHA-256 sum of the manifest.
    pub manifest_sha256: Option<String>,
    /// The text of the manifest.
    pub manifest: Option<String>,
}

/// A change of one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    #[serde(with = "path_bytes")]
    pub(crate) dst: PathBuf,
    pub(crate) channel: Channel,
    /// The state before the run.
    pub(crate) before: PreviousState,
    /// The SHA-256 sum of the old file, and the name of its backup.
    pub(crate) backup: Option<Backup>,
    /// The state after the run.
    pub(crate) after: After,
    /// Whether the file was already there, so that nothing was written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) kept: bool,
    /// The directories that were created for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) made: Vec<JsonPath>,
    /// Whether the run made the file executable, or undid that. `None` if it did neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) executable: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backup {
    pub(crate) sha256: String,
    pub(crate) name: String,
}

/// The state of a place after a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum After {
    File { sha256: String, bytes: u64 },
    Symlink { target: JsonPath },
    Nothing,
}

impl After {
    /// Converts `state`. `sha256` is the checksum of the bytes if it is a file.
    pub(crate) fn of(state: &PreviousState, sha256: Option<String>) -> Option<Self> {
        Some(match (state, sha256) {
            (PreviousState::Nothing, _) => Self::Nothing,
            (PreviousState::Symlink { target, .. }, _) => Self::Symlink {
                target: target.clone(),
            },
            (PreviousState::File { bytes, .. }, Some(sha256)) => Self::File {
                sha256,
                bytes: *bytes,
            },
            _ => return None,
        })
    }
}

/// The end of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// `done`, `failed`, or `interrupted`.
    pub state: String,
    /// The time of the end (RFC 3339, UTC).
    pub finished: String,
    /// The error, if it failed.
    pub message: Option<String>,
    /// What was done about the initramfs.
    pub initramfs: Option<String>,
    /// The files that the initramfs tool wrote, if the run rebuilt the initramfs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
}

/// A file that the initramfs tool wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The path below `Linux_for_Tegra/`.
    pub path: String,
    /// The SHA-256 sum of the file.
    pub sha256: String,
}

/// A record that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    sidecar: Sidecar,
    id: u64,
    path: PathBuf,
    file: BufWriter<File>,
    backups: Option<Directory>,
    next_backup: u64,
    /// The number of files that have their names.
    named: u64,
}

impl Journal {
    /// Begins the record of a run. It is on stable storage before anything else is done.
    pub(crate) fn begin(sidecar: &Sidecar, begin: Begin) -> Result<Self> {
        let dir = sidecar.make("journal")?;
        let id = begin.id;
        let path = dir.join(format!("{id:06}.jsonl"));
        let file = sidecar.create(&path, 0o644)?;
        let mut journal = Self {
            sidecar: sidecar.clone(),
            id,
            file: BufWriter::new(file),
            backups: None,
            next_backup: 0,
            named: 0,
            path,
        };
        journal.line(&Line::Begin(Box::new(begin)))?;
        journal.sync()?;
        Directory::open(&dir)?.flush()?;
        Ok(journal)
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Adds a line. [`Journal::sync`] brings it onto stable storage.
    pub(crate) fn line(&mut self, line: &Line) -> Result<()> {
        let failed = |e| Error::io("write the journal", e).with_path(&self.path);
        let text = serde_json::to_string(line).map_err(|e| failed(e.into()))?;
        writeln!(self.file, "{text}").map_err(failed)
    }

    /// Keeps the content of `old`, as a copy. A hard link would change with the file, which stays
    /// in its place if the run stops before the rename, and may be edited there. If the file
    /// system can share blocks, the copy takes no space.
    pub(crate) fn keep(&mut self, old: &File) -> Result<Backup> {
        let path = self.sidecar.backups(self.id);
        let failed = |e| {
            Error::io("back up the replaced file to", e)
                .with_path(&path)
                .advice("free some space, or remove old backups beside it")
        };
        let dir = match &self.backups {
            Some(dir) => dir,
            None => {
                let made = self.sidecar.make(&format!("backups/{}", self.id))?;
                self.backups.insert(Directory::open(&made)?)
            }
        };
        let name = self.next_backup.to_string();
        self.next_backup += 1;
        let copy = self.sidecar.create(&dir.path().join(&name), 0o600)?;
        let mut from = old;
        from.rewind().map_err(failed)?;
        io::copy(&mut from, &mut &copy).map_err(failed)?;
        // The checksum is that of the copy, even if the file was changed in the meantime.
        let sha256 = bytes::sum(&copy).map_err(failed)?;
        settle(&copy).map_err(failed)?;
        Ok(Backup { sha256, name })
    }

    /// Notes that the next `files` have their names, and that `unsure` more may have them. This
    /// line may be lost if the run is cut off: the files are then checked instead.
    pub(crate) fn named(&mut self, files: u64, unsure: u64) -> Result<()> {
        self.named += files;
        let files = self.named;
        self.line(&Line::Named { files, unsure })?;
        self.file
            .flush()
            .map_err(|e| Error::io("write the journal", e).with_path(&self.path))
    }

    /// Syncs the record and its backups to stable storage.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let failed = |e| Error::io("sync the journal", e).with_path(&self.path);
        self.file.flush().map_err(failed)?;
        self.file.get_ref().sync_all().map_err(failed)?;
        if let Some(backups) = &self.backups {
            backups.flush()?;
        }
        Ok(())
    }

    /// Ends the record.
    pub(crate) fn end(&mut self, end: End) -> Result<()> {
        self.line(&Line::End(end))?;
        self.sync()?;
        self.sidecar.prune(self.id);
        Ok(())
    }
}

/// Returns the time in the format of the records.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Returns the names of the user and of the machine.
pub(crate) fn user_and_host() -> (String, String) {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name);
    let user = match std::env::var("SUDO_USER") {
        Ok(caller) if uid.is_root() => format!("{caller} (as {user})"),
        _ => user,
    };
    let host = nix::sys::utsname::uname()
        .map(|uname| uname.nodename().to_string_lossy().into_owned())
        .unwrap_or_default();
    (user, host)
}
