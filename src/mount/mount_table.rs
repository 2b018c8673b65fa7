//! The mount tables in /proc: of this process, and of the processes in other mount namespaces.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The file system type in /proc/mounts, after `fuse.`.
pub(super) const SUBTYPE: &str = "lbpayload";

/// The file system type in /proc/mounts.
pub(super) const KIND: &str = "fuse.lbpayload";

/// A line of a mount table.
pub(super) struct Mount {
    pub(super) device: u64,
    pub(super) point: PathBuf,
    pub(super) kind: Vec<u8>,
    /// The directories that an overlayfs shows, as far as they are absolute paths.
    layers: Vec<PathBuf>,
}

/// A mount that processes of another mount namespace see, or that has another place in this one,
/// or an overlayfs on top.
pub(super) struct OtherMount {
    /// A process that sees it.
    pub(super) process: u32,
    /// The name of its program.
    pub(super) program: String,
    pub(super) point: PathBuf,
}

/// Returns all mounts of this process, each after those that it covers. Without /proc, the list
/// is empty.
pub(super) fn own_mounts() -> Vec<Mount> {
    parse(&fs::read("/proc/self/mountinfo").unwrap_or_default())
}

/// Returns the mount that `dir` leads to, without a request to its server. `dir` is absolute and
/// without symbolic links.
pub(super) fn topmost(dir: &Path) -> Option<Mount> {
    own_mounts().into_iter().rev().find(|m| m.point == dir)
}

/// Returns the places where `device` is mounted, or where an overlayfs shows `dir`, on which it
/// was mounted. There is one process for each mount namespace. Processes that this user may not
/// look at are left out.
pub(super) fn mounts_everywhere(device: u64, dir: &Path) -> Vec<OtherMount> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = std::process::id();
    for process in std::iter::once(own).chain(numbers) {
        let proc = PathBuf::from(format!("/proc/{process}"));
        let Ok(namespace) = fs::read_link(proc.join("ns/mnt")) else {
            continue;
        };
        if seen.contains(&namespace) {
            continue;
        }
        // A process that ends meanwhile has an empty table.
        let table = fs::read(proc.join("mountinfo")).unwrap_or_default();
        if table.is_empty() {
            continue;
        }
        seen.insert(namespace);
        let program = fs::read_to_string(proc.join("comm")).unwrap_or_default();
        let keeps = |mount: &Mount| {
            mount.device == device || mount.layers.iter().any(|layer| layer.starts_with(dir))
        };
        let mounts = parse(&table).into_iter().filter(keeps);
        found.extend(mounts.map(|mount| OtherMount {
            process,
            program: program.trim_end().to_owned(),
            point: mount.point,
        }));
    }
    found
}

fn parse(table: &[u8]) -> Vec<Mount> {
    // The fields are the third, the fifth and the one after the hyphen; see
    // proc_pid_mountinfo(5).
    let mounts = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
        let device = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
        let point = unescaped(fields.nth(1)?);
        let mut fields = fields.skip_while(|field| field != b"-").skip(1);
        let kind = fields.next()?.to_vec();
        let layers = match kind == b"overlay" {
            true => layers(fields.nth(1).unwrap_or_default()),
            false => Vec::new(),
        };
        Some(Mount {
            device,
            point,
            kind,
            layers,
        })
    });
    mounts.collect()
}

/// Returns the directories in the options of an overlayfs, `lowerdir=A:B` or `lowerdir+=A`.
fn layers(options: &[u8]) -> Vec<PathBuf> {
    let options = options.split(|byte| *byte == b',');
    let lists = options.filter_map(|option| {
        let list = option.strip_prefix(b"lowerdir=");
        list.or_else(|| option.strip_prefix(b"lowerdir+="))
    });
    let paths = lists.flat_map(|list| list.split(|byte| *byte == b':'));
    paths
        .map(unescaped)
        .filter(|path| path.is_absolute())
        .collect()
}

/// Decodes a path from a table in /proc, in which a backslash and three octal digits stand for a
/// space, a tab, a line feed or a backslash.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let code = behind
            .get(..3)
            .and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) if byte == b'\\' => {
                path.push(code);
                rest = &behind[3..];
            }
            _ => {
                path.push(byte);
                rest = behind;
            }
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_an_overlay_are_known() {
        let table =
            b"30 1 0:40 / /merged rw - overlay overlay rw,lowerdir=/a\\040b:rel:/c,upperdir=/u\n\
                      31 1 0:41 / /m2 rw - overlay none rw,lowerdir+=/d,lowerdir+=/e\n\
                      32 1 0:42 / /fuse ro - fuse.lbpayload /img ro,user_id=0\n";
        let mounts = parse(table);
        let layers = |n: usize| mounts[n].layers.clone();
        assert_eq!(layers(0), [PathBuf::from("/a b"), "/c".into()]);
        assert_eq!(layers(1), [PathBuf::from("/d"), "/e".into()]);
        assert_eq!(layers(2), [] as [PathBuf; 0]);
        assert_eq!(mounts[2].kind, KIND.as_bytes());
    }

    #[test]
    fn octal_escapes_in_the_mount_table_are_decoded() {
        for (written, meant) in [
            (&br"/a\040b\011\012\134c"[..], "/a b\t\n\\c"),
            (br"/a\04", r"/a\04"),
            (br"/a\x40b", r"/a\x40b"),
            (br"/040", "/040"),
            (br"\134040", r"\040"),
        ] {
            assert_eq!(unescaped(written), Path::new(meant));
        }
    }
}
