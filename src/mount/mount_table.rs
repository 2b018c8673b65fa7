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
}

/// A mount that processes of another mount namespace see, or that has another place in this one.
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

/// Returns the places where `device` is mounted, one process for each mount namespace. Processes
/// that this user may not look at are left out.
pub(super) fn mounts_everywhere(device: u64) -> Vec<OtherMount> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = std::process::id();
    for process in std::iter::once(own).chain(numbers) {
        let dir = PathBuf::from(format!("/proc/{process}"));
        let Ok(namespace) = fs::read_link(dir.join("ns/mnt")) else {
            continue;
        };
        if seen.contains(&namespace) {
            continue;
        }
        // A process that ends meanwhile has an empty table.
        let table = fs::read(dir.join("mountinfo")).unwrap_or_default();
        if table.is_empty() {
            continue;
        }
        seen.insert(namespace);
        let program = fs::read_to_string(dir.join("comm")).unwrap_or_default();
        let mounts = parse(&table).into_iter().filter(|m| m.device == device);
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
        Some(Mount {
            device: libc::makedev(major.parse().ok()?, minor.parse().ok()?),
            point: unescaped(fields.nth(1)?),
            kind: fields.skip_while(|field| field != b"-").nth(1)?.to_vec(),
        })
    });
    mounts.collect()
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
