//! `mount -o remount`, which shutdown scripts use with `ro`.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::error::{Error, Kind, Result};

use super::mount_table::{KIND, topmost};
use super::settings::Settings;

/// Changes the flags of the mount on `dir`. Everything else stays as it was mounted. The mount is
/// read-only before and after.
///
/// # Errors
/// No payload is mounted there, or permission is missing.
pub fn remount(dir: &Path, settings: &Settings) -> Result<()> {
    let failed = |e| Error::io("remount", e).with_path(dir);
    let dir = dir.canonicalize().map_err(failed)?;
    if topmost(&dir).is_none_or(|mount| mount.kind != KIND.as_bytes()) {
        return Err(Error::new(Kind::Refused, "no payload is mounted there")
            .with_code("not-mounted")
            .doing("remount")
            .with_path(&dir)
            .advice("`findmnt -t fuse.lbpayload` lists the mount points of payloads"));
    }
    let no = None::<&str>;
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    flags |= MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if settings.noexec {
        flags |= MsFlags::MS_NOEXEC;
    }
    mount(no, &dir, no, flags, no).map_err(|e| failed(e.into()))
}
