//! Rebuilds the initramfs when the kernel modules change, because it contains copies of them.
//!
//! Before the first change, a note in the image says that the initramfs is due. The note is
//! removed only after the tool has succeeded. So, if a run is cut off in between, the next run
//! rebuilds the initramfs.

use std::fs::File;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::block::file_type_name;
use crate::durable::{Last, Lookup, Tree};
use crate::error::{Error, Kind, Result};
use crate::promote::helper::client as helper;
use crate::promote::path::{ROOTFS, RelPath};
use crate::promote::record::journal::Output;
use crate::promote::record::sidecar::Sidecar;
use crate::promote::refused::{refused, shell_word};
use crate::promote::tree::bytes;
use crate::promote::trees::Trees;

/// Returns the checksum of one of [`OUTPUTS`] in the tree that contains it, or `None` if it is not
/// a file.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn sum_of_output(tree: &Tree, path: &Path) -> io::Result<Option<String>> {
    let place = tree.resolve(path, Last::Follow)?;
    match tree.lookup(&place)? {
        Lookup::File(file, _) => bytes::sum(&file).map(Some),
        Lookup::Unreadable(e) => Err(e),
        _ => Ok(None),
    }
}

/// Returns the files that the tool wrote, with their checksums. A file that this user may not
/// read is left out.
pub(crate) fn outputs(trees: &Trees) -> Vec<Output> {
    let output = |name: &&str| {
        let path = RelPath::parse(name.as_ref()).ok()?;
        let (zone, rest) = path.split();
        let sha256 = sum_of_output(trees.tree(zone).ok()?, rest).ok()??;
        Some(Output {
            path: (*name).to_owned(),
            sha256,
        })
    };
    OUTPUTS.iter().filter_map(output).collect()
}

const MARK: &str = "initramfs-pending";
const LOG: &str = "initramfs.log";
const TOOL: &str = "tools/l4t_update_initrd.sh";

/// The files that the tool writes, below `Linux_for_Tegra/`.
pub(crate) const OUTPUTS: [&str; 2] = ["bootloader/l4t_initrd.img", "rootfs/boot/initrd"];

/// The initramfs of an image.
#[derive(Debug)]
pub(crate) struct Initramfs {
    image: PathBuf,
    sidecar: Sidecar,
}

impl Initramfs {
    pub(crate) fn of(image: &Path, sidecar: &Sidecar) -> Self {
        Self {
            image: image.to_path_buf(),
            sidecar: sidecar.clone(),
        }
    }

    /// Returns whether an earlier run changed what the initramfs contains, and did not rebuild
    /// it.
    pub(crate) fn is_pending(&self) -> bool {
        self.sidecar.path(MARK).symlink_metadata().is_ok()
    }

    /// Checks that no tool that an earlier run started is still running.
    pub(crate) fn probe_idle(&self) -> Result<()> {
        let path = self.sidecar.path(LOG);
        let failed = |e: io::Error| {
            Error::io("open the log", e)
                .with_path(&path)
                .advice("remove the log, or run promote as root")
        };
        // Opening a FIFO would wait for a writer.
        let log = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path);
        let log = match log {
            Ok(log) => log,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        match flock(&log, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Err(Error::new(
                Kind::Busy,
                "the initramfs tool of an earlier promote is still running",
            )
            .with_path(&self.image)
            .advice(format!(
                "wait until it ends, then promote again (its output: {})",
                shell_word(&path)
            ))),
            // The file system has no locks.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(failed(e.into())),
        }
    }

    /// Checks that the tool exists and that this user may run it, directly or through sudo.
    pub(crate) fn probe_tool(&self) -> Result<()> {
        let path = self.image.join(TOOL);
        let refused = |message: &str, advice: &str| {
            refused(message, &path, advice).with_code("no-initramfs-tool")
        };
        let init = "restore this tool of the BSP";
        match path.metadata() {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => Ok(()),
            Ok(meta) if meta.is_file() => Err(refused(
                "not executable, but the initramfs must be rebuilt",
                &format!("`chmod +x {}`", shell_word(&path)),
            )),
            Ok(meta) => {
                let found = file_type_name(meta.file_type());
                Err(refused(&format!("expected a file, found {found}"), init))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(refused(
                "no such file, but the initramfs must be rebuilt",
                init,
            )),
            Err(e) => Err(Error::io("inspect", e).with_path(&path).advice(init)),
        }
    }

    /// Checks that sudo will run the tool.
    pub(crate) fn probe_privilege(&self) -> Result<()> {
        helper::probe_sudo(&self.image.join(TOOL))
    }

    /// Notes that the initramfs is due. The note is on stable storage when this returns.
    pub(crate) fn mark(&self, id: u64) -> Result<()> {
        if self.is_pending() {
            return Ok(());
        }
        self.sidecar.put(MARK, format!("{id}\n").as_bytes())
    }

    /// Rebuilds the initramfs: runs NVIDIA's tool in `Linux_for_Tegra/`, as root or through sudo.
    /// The output of the tool is synced to stable storage before the note is removed. The log of
    /// the run `id` also has a name of its own.
    pub(crate) fn apply(&self, as_root: bool, id: u64) -> Result<()> {
        let tool = self.image.join(TOOL);
        self.sidecar.make("logs")?;
        let path = self.sidecar.path(LOG);
        let failed = |e| Error::io("write the log", e).with_path(&path);
        // A file that another user left may not be writable, but its folder is.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let log = self.sidecar.create(&path, 0o644)?;
        // Without hard links there is only the log of the last run.
        let _ = std::fs::hard_link(&path, self.sidecar.log(id));
        match flock(&log, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(e) => return Err(failed(e.into())),
        }
        let mut command = if as_root {
            Command::new(&tool)
        } else {
            let mut command = helper::sudo();
            command.arg("--").arg(&tool);
            command
        };
        command
            .current_dir(&self.image)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log.try_clone().map_err(failed)?);
        // Without O_CLOEXEC, so that the tool inherits it.
        let inherited = rustix::io::dup(&log).map_err(|e| failed(e.into()))?;
        let advice = format!(
            "see {}, fix the cause, then promote again",
            shell_word(&path)
        );
        let status = command
            .status()
            .map_err(|e| Error::io("run", e).with_path(&tool).advice(advice.clone()))?;
        drop(inherited);
        if !status.success() {
            return Err(Error::new(
                Kind::Io,
                format!("rebuilding the initramfs failed ({status})"),
            )
            .with_path(&tool)
            .with_code("initramfs-failed")
            .advice(advice));
        }
        // The tool has ended. The explicit unlock prevents a daemon that it left behind from
        // keeping the lock.
        let _ = flock(&log, FlockOperation::Unlock);
        for dir in [self.image.join(ROOTFS), self.image.clone()] {
            File::open(&dir)
                .and_then(|dir| Ok(rustix::fs::syncfs(&dir)?))
                .map_err(|e| Error::io("sync", e).with_path(&dir))?;
        }
        self.forget()
    }

    fn forget(&self) -> Result<()> {
        let path = self.sidecar.path(MARK);
        let gone = match std::fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        gone.and_then(|()| File::open(self.sidecar.path("")))
            .and_then(|dir| dir.sync_all())
            .map_err(|e| Error::io("remove", e).with_path(&path))
    }
}
