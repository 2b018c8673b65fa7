//! A directory kept in memory, from which equal directories are made without the processes that
//! made the first.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

const CAPABILITY: &str = "security.capability";

pub(crate) struct Snapshot(Vec<Entry>);

struct Entry {
    path: PathBuf,
    content: Content,
    mode: u32,
    owner: (u32, u32),
    /// Whole seconds.
    mtime: i64,
}

enum Content {
    Directory,
    File(Vec<u8>, Option<Vec<u8>>),
    Symlink(PathBuf),
}

impl Snapshot {
    /// Reads all files, symlinks and directories below `top`.
    pub(crate) fn of(top: &Path) -> Self {
        let mut entries = Vec::new();
        walk(top, &mut |path, meta| {
            let content = if meta.is_dir() {
                Content::Directory
            } else if meta.is_symlink() {
                Content::Symlink(fs::read_link(path).unwrap())
            } else {
                Content::File(fs::read(path).unwrap(), raw_capability(path))
            };
            entries.push(Entry {
                path: path.strip_prefix(top).unwrap().to_path_buf(),
                content,
                mode: meta.mode() & 0o7777,
                owner: (meta.uid(), meta.gid()),
                mtime: meta.mtime(),
            });
        });
        Self(entries)
    }

    /// Makes everything in the empty directory `top`.
    pub(crate) fn restore(&self, top: &Path) {
        for entry in &self.0 {
            let path = top.join(&entry.path);
            match &entry.content {
                Content::Directory => fs::create_dir(&path).unwrap(),
                Content::File(bytes, _) => fs::write(&path, bytes).unwrap(),
                Content::Symlink(target) => symlink(target, &path).unwrap(),
            }
            let (uid, gid) = entry.owner;
            lchown(&path, Some(uid), Some(gid)).unwrap();
            // A change of the owner takes away the mode's highest bits, and the capability.
            if !matches!(entry.content, Content::Symlink(_)) {
                fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).unwrap();
            }
            if let Content::File(_, Some(capability)) = &entry.content {
                rustix::fs::lsetxattr(&path, CAPABILITY, capability, XattrFlags::empty()).unwrap();
            }
        }
        // Directories after what is in them.
        for entry in self.0.iter().rev() {
            set_time(&top.join(&entry.path), entry.mtime);
        }
    }
}

/// The file capability as the kernel stores it.
pub(crate) fn raw_capability(path: &Path) -> Option<Vec<u8>> {
    let mut buf = [0; 64];
    let length = rustix::fs::lgetxattr(path, CAPABILITY, &mut buf[..]).ok()?;
    Some(buf[..length].to_vec())
}

/// Gives `top`, and everything in it if it is a directory, the time `seconds`. Leaves out git's directories.
pub(crate) fn touch_all(top: &Path, seconds: i64) {
    let mut paths = vec![top.to_path_buf()];
    if top.is_dir() {
        walk(top, &mut |path, _| paths.push(path.to_path_buf()));
    }
    for path in paths {
        let below = path.strip_prefix(top).unwrap();
        if !below.components().any(|name| name.as_os_str() == ".git") {
            set_time(&path, seconds);
        }
    }
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Calls `visit` for everything below `dir`, directories before what is in them.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        visit(&path, &meta);
        if meta.is_dir() {
            walk(&path, visit);
        }
    }
}
