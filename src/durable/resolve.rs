//! Resolves a path inside a directory that is not the host's `/`.
//!
//! [`resolve`] follows symlinks by reading them, one component at a time, and returns the
//! resulting path without symlinks. [`open`] then opens exactly that path and fails if it
//! contains a symlink by now.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::Errno;

/// The maximum number of symlinks in one path, the same as in the kernel (`MAXSYMLINKS`).
const MAX_SYMLINKS: u32 = 40;

/// Where a symlink may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    /// The directory is `/`: absolute links start in it, and `..` in it stays in it.
    AsRoot,
    /// The directory is part of the host: a link that leaves it is refused.
    Beneath,
}

/// Whether a symlink in the last component is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// The path means the target of the link.
    Follow,
    /// The path means the link itself.
    Keep,
}

/// Returns the path that `path` means in `dir`, relative to `root` and without symlinks and `..`.
/// `dir` is such a path too, or empty. Components that do not exist yet stay as they are. An empty
/// path means `root` itself.
///
/// # Errors
/// EXDEV if the path would leave `root`, ELOOP if there are too many links, ENOTDIR if a
/// component before the last is not a directory, and any other error that the system
/// reports.
pub(super) fn resolve(
    root: BorrowedFd<'_>,
    dir: &Path,
    path: &Path,
    bounds: Bounds,
    last: Last,
) -> io::Result<PathBuf> {
    let mut todo: VecDeque<OsString> = VecDeque::new();
    let mut at = dir.to_path_buf();
    let mut links = 0;
    enter(path, bounds, &mut at, &mut todo)?;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if !at.pop() && bounds == Bounds::Beneath {
                return Err(Errno::XDEV.into());
            }
            continue;
        }
        let next = at.join(&name);
        if last == Last::Keep && todo.is_empty() {
            return Ok(next);
        }
        match readlinkat(root, &next, Vec::new()) {
            Ok(target) => {
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                links += 1;
                if links > MAX_SYMLINKS {
                    return Err(Errno::LOOP.into());
                }
                enter(&target, bounds, &mut at, &mut todo)?;
            }
            // Not a symlink.
            Err(Errno::INVAL) => at = next,
            Err(Errno::NOENT) => {
                // `..` after a directory that does not exist has no meaning.
                if todo.iter().any(|name| name == "..") {
                    return Err(Errno::NOENT.into());
                }
                at = next;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(at)
}

/// Adds the components of `path` in front of the remaining ones.
fn enter(
    path: &Path,
    bounds: Bounds,
    at: &mut PathBuf,
    todo: &mut VecDeque<OsString>,
) -> io::Result<()> {
    if path.is_absolute() {
        if bounds == Bounds::Beneath {
            return Err(Errno::XDEV.into());
        }
        at.clear();
    }
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => todo.push_front(name.to_owned()),
            Component::ParentDir => todo.push_front("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(())
}

/// Opens the path that [`resolve`] returned, without following any symlink.
///
/// # Errors
/// ELOOP if the path contains a symlink by now, and any other error that the system reports.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = flags | OFlags::CLOEXEC;
    // Paths from `resolve` contain no `..`. IN_ROOT would resolve it at the root.
    if path
        .components()
        .any(|c| matches!(c, Component::ParentDir | Component::RootDir))
    {
        return Err(Errno::XDEV.into());
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        // Before Linux 5.6, and in sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_by_walking(root, path, flags),
        other => Ok(other?),
    }
}

/// Does the same without openat2: opens one component after the other, none of them a symlink.
fn open_by_walking(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(root, ".", dir, Mode::empty())?;
    let mut names: Vec<&OsStr> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(Errno::XDEV.into()),
        }
    }
    let Some(last) = names.pop() else {
        return Ok(openat(&at, ".", flags, Mode::empty())?);
    };
    for name in names {
        at = openat(&at, name, dir, Mode::empty())?;
    }
    // O_PATH with O_NOFOLLOW opens the link itself, which openat2 would refuse.
    if flags.contains(OFlags::PATH) && readlinkat(&at, last, Vec::new()).is_ok() {
        return Err(Errno::LOOP.into());
    }
    Ok(openat(&at, last, flags | OFlags::NOFOLLOW, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Creates a root file system with merged /usr, as in Debian and Ubuntu.
    fn rootfs() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in [
            "usr/lib/modules",
            "usr/bin",
            "etc/alternatives",
            "run",
            "up",
        ] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        symlink("usr/lib", at("lib")).unwrap();
        symlink(
            "/run/systemd/resolve/stub-resolv.conf",
            at("etc/resolv.conf"),
        )
        .unwrap();
        symlink("/etc/alternatives/editor", at("usr/bin/editor")).unwrap();
        symlink("/usr/bin/nano", at("etc/alternatives/editor")).unwrap();
        symlink("../../../../../../etc", at("up/etc")).unwrap();
        symlink("b", at("up/a")).unwrap();
        symlink("a", at("up/b")).unwrap();
        std::fs::write(at("usr/bin/nano"), "nano").unwrap();
        let root = File::open(dir.path()).unwrap();
        (dir, root)
    }

    fn errno(result: io::Result<PathBuf>) -> Option<i32> {
        result.unwrap_err().raw_os_error()
    }

    /// Resolves `path`, and also in two steps, of which nobody can tell the difference.
    fn resolve(root: &File, path: &str, bounds: Bounds, last: Last) -> io::Result<PathBuf> {
        let top = Path::new("");
        let path = Path::new(path);
        let whole = super::resolve(root.as_fd(), top, path, bounds, last);
        if let (Some(dir), Some(name)) = (path.parent(), path.file_name()) {
            let dir = super::resolve(root.as_fd(), top, dir, bounds, Last::Follow);
            let steps =
                dir.and_then(|dir| super::resolve(root.as_fd(), &dir, name.as_ref(), bounds, last));
            let told = |found: &io::Result<PathBuf>| format!("{found:?}");
            assert_eq!(told(&steps), told(&whole));
        }
        whole
    }

    #[test]
    fn as_a_root_absolute_links_and_dotdot_stay_inside() {
        let (_dir, root) = rootfs();
        let to = |path: &str, last| {
            let found = resolve(&root, path, Bounds::AsRoot, last).unwrap();
            found.to_str().unwrap().to_owned()
        };
        use Last::{Follow, Keep};
        assert_eq!(
            to("lib/modules/6.8/a.ko", Follow),
            "usr/lib/modules/6.8/a.ko"
        );
        assert_eq!(
            to("etc/resolv.conf", Follow),
            "run/systemd/resolve/stub-resolv.conf"
        );
        assert_eq!(to("etc/resolv.conf", Keep), "etc/resolv.conf");
        assert_eq!(to("usr/bin/editor", Follow), "usr/bin/nano");
        assert_eq!(to("up/etc/hosts", Follow), "etc/hosts");
        assert_eq!(to("", Follow), "");
        let looped = resolve(&root, "up/a", Bounds::AsRoot, Follow);
        assert_eq!(errno(looped), Some(libc::ELOOP));
        let through = resolve(&root, "usr/bin/nano/x", Bounds::AsRoot, Follow);
        assert_eq!(errno(through), Some(libc::ENOTDIR));
    }

    #[test]
    fn beneath_a_directory_a_link_that_leaves_it_is_refused() {
        let (_dir, root) = rootfs();
        for path in ["etc/resolv.conf", "up/etc/hosts", "../x", "/etc/hosts"] {
            let found = resolve(&root, path, Bounds::Beneath, Last::Follow);
            assert_eq!(errno(found), Some(libc::EXDEV), "{path}");
        }
        let inside = resolve(&root, "lib/modules", Bounds::Beneath, Last::Follow);
        assert_eq!(inside.unwrap(), Path::new("usr/lib/modules"));
    }

    #[test]
    fn opening_follows_no_symlink_with_or_without_openat2() {
        let (_dir, root) = rootfs();
        type Open = fn(BorrowedFd<'_>, &Path, OFlags) -> io::Result<OwnedFd>;
        let ways: [Open; 2] = [open, open_by_walking];
        for (way, by_kernel) in ways.into_iter().zip([true, false]) {
            let dir = OFlags::RDONLY | OFlags::DIRECTORY;
            assert!(way(root.as_fd(), Path::new("usr/lib"), dir).is_ok());
            assert!(way(root.as_fd(), Path::new("."), dir).is_ok());
            assert!(way(root.as_fd(), Path::new("usr/bin/nano"), OFlags::RDONLY).is_ok());
            for path in [
                "lib",
                "lib/modules",
                "usr/bin/editor",
                "usr/..",
                "..",
                "/usr",
            ] {
                let opened = way(root.as_fd(), Path::new(path), OFlags::RDONLY);
                assert!(opened.is_err(), "{path} {by_kernel}");
                let opened = way(root.as_fd(), Path::new(path), OFlags::PATH);
                assert!(opened.is_err(), "{path} {by_kernel}");
            }
        }
    }
}
