//! File handles as an NFS server uses them: they outlive the kernel's caches and the mount.

use std::path::Path;
use std::process::Command;

use crate::fixture::{Fixture, sample};
use crate::support::{Image, check};

/// name_to_handle_at(2) and open_by_handle_at(2), which need calls of C.
const HANDLES: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
def take(path):
    handle, mount = Handle(bytes=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return f"{handle.type}:{bytes(handle.data[:handle.bytes]).hex()}"
def read(point, text):
    kind, data = text.split(":")
    data = bytes.fromhex(data)
    handle = Handle(bytes=len(data), type=int(kind))
    ctypes.memmove(handle.data, data, len(data))
    mount = os.open(point, os.O_RDONLY)
    fd = libc.open_by_handle_at(mount, ctypes.byref(handle), os.O_RDONLY)
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    try:
        return os.read(fd, 1 << 20)[:5].decode(errors="replace")
    except IsADirectoryError:
        return " ".join(sorted(os.listdir(fd)))
if sys.argv[1] == "take":
    print(*(take(path) for path in sys.argv[2:]), sep="\n")
else:
    print(*(read(sys.argv[2], handle) for handle in sys.argv[3:]), sep="\n")
"#;

fn handles(args: &[&str]) -> Vec<String> {
    let said = check(Command::new("python3").args(["-c", HANDLES]).args(args));
    said.lines().map(str::to_owned).collect()
}

fn taken(fixture: &Fixture, names: &[&str]) -> Vec<String> {
    let paths: Vec<_> = names.iter().map(|name| fixture.file(name)).collect();
    let paths: Vec<_> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    handles(&[&["take"], &paths[..]].concat())
}

fn read(point: &Path, taken: &[String]) -> Vec<String> {
    let taken: Vec<_> = taken.iter().map(String::as_str).collect();
    handles(&[&["read", point.to_str().unwrap()], &taken[..]].concat())
}

#[test]
fn handles_lead_to_the_same_files_in_the_next_mount() {
    needs_fuse!();
    let image = Image::new(&[("a", b"aaaa"), ("b", b"bbbb"), ("c", b"cccc")]);
    let fixture = Fixture::new(&image);
    fixture.mounted(&[]);
    let taken = taken(&fixture, &["b", "c", "."]);
    fixture.unmount(&[]).exits(0);
    fixture.mounted(&["-o", "direct_io"]);
    assert_eq!(read(&fixture.point, &taken), ["bbbb", "cccc", "a b c"]);
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}

#[test]
fn handle_of_another_payload_is_stale() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let taken = taken(&fixture, &["z-first", "medium"]);
    fixture.unmount(&[]).exits(0);
    let other = Image::new(&[("other", b"hello"), ("x", b"y"), ("z", b"0"), ("m", b"3")]);
    other.write(&fixture.image);
    fixture.mounted(&[]);
    assert_eq!(
        read(&fixture.point, &taken),
        ["Stale file handle", "Stale file handle"]
    );
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}
