//! The user who runs promote. Under sudo, this is the user who ran sudo.

use std::path::PathBuf;

use nix::unistd::{Gid, Uid, User};

/// Returns the user and the group that ran sudo, or `None` if this process is not root by sudo.
pub(crate) fn by_sudo() -> Option<(u32, u32)> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if !Uid::effective().is_root() {
        return None;
    }
    let uid = number("SUDO_UID").filter(|uid| *uid != 0)?;
    let group = || User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let gid = number("SUDO_GID").or_else(|| Some(group()?.gid.as_raw()))?;
    Some((uid, Gid::from_raw(gid).as_raw()))
}

/// Returns the home directory of the user.
pub(crate) fn home() -> Option<PathBuf> {
    match by_sudo() {
        Some((uid, _)) => User::from_uid(Uid::from_raw(uid)).ok()?.map(|u| u.dir),
        None => std::env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute()),
    }
}
