//! The examples of docs/mount.md.

use std::path::Path;
use std::process::Command;

use crate::fixture::{Fixture, attribute, is_running, sample, until};
use crate::support::{Image, Lacks, check, noise, skip};

const DOCS: &str = include_str!("../../docs/mount.md");

#[test]
fn systemd_accepts_the_units_of_the_documents() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        return skip(Lacks::Machine, "units: no systemd-analyze");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for block in DOCS.split("```ini\n").skip(1) {
        let text = block.split("```").next().unwrap();
        let name = text.lines().next().unwrap().rsplit('/').next().unwrap();
        let text = text.replace("/usr/local/bin/lbpayload", env!("CARGO_BIN_EXE_lbpayload"));
        std::fs::write(dir.path().join(name), text).unwrap();
        units.push(dir.path().join(name));
    }
    assert_eq!(units.len(), 2);
    let mut verify = Command::new("systemd-analyze");
    let ran = verify
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&units);
    let ran = ran.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success() && said.is_empty(), "{said}");
}

/// The options of the line that tests/mount/fstab.rs tries with a real user.
#[test]
fn fstab_line_for_an_ordinary_user_is_the_tested_one() {
    assert!(DOCS.contains("fuse.lbpayload  noauto,user  0  0"));
    assert!(DOCS.contains("/etc/fuse.conf"));
}

#[test]
fn overlay_makes_it_writable_and_joins_several_payloads() {
    needs_fuse!();
    let (first, second) = (
        Fixture::new(&sample()),
        Fixture::new(&Image::new(&[("b", b"second")])),
    );
    first.mounted(&["-o", "allow_other,nolistxattr"]);
    second.mounted(&["-o", "allow_other,nolistxattr"]);
    // overlayfs needs an upper directory on a file system that is no overlay itself.
    let over = tempfile::tempdir_in("/dev/shm").unwrap();
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| over.path().join(name));
    for dir in [&upper, &work, &merged] {
        std::fs::create_dir(dir).unwrap();
    }
    let (a, b) = (first.point.display(), second.point.display());
    let option = format!(
        "lowerdir={a}:{b},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    check(
        Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &option])
            .arg(&merged),
    );
    assert_eq!(std::fs::read_dir(&merged).unwrap().count(), 6);
    assert_eq!(std::fs::read(merged.join("b")).unwrap(), b"second");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(merged.join("z-first"))
        .unwrap();
    std::io::Write::write_all(&mut file, b" world").unwrap();
    drop(file);
    let written = std::fs::read(merged.join("z-first"));
    let copied = attribute(&upper.join("z-first"), "index");
    let server = first.server();
    let ran = first.unmount(&["--timeout", "1"]).exits(0);
    let ran = ran.says("still mounted elsewhere");
    ran.says(&format!("has it on `{}`", merged.display()));
    assert_eq!(
        std::fs::read(merged.join("medium")).unwrap(),
        noise(2, 70_003)
    );
    check(Command::new("umount").arg(&merged));
    until("the server ends", || !is_running(server));
    assert_eq!(written.unwrap(), b"hello world");
    assert_eq!(copied, Err(libc::ENODATA));
    first.is_clean();
    second.unmount(&[]).exits(0);
    second.is_clean();
}
