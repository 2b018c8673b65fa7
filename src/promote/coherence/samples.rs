//! Archives and compressed streams for the unit tests.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs a program that compresses its standard input.
pub(super) fn compress(program: &str, args: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e} (scripts/setup installs it)"));
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let feeding = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let out = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    assert!(out.status.success());
    out.stdout
}

/// An archive of regular files.
pub(super) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, data) in files.iter().chain([&("TRAILER!!!", &[][..])]) {
        add(&mut out, name, 0o100_644, 1, data);
    }
    out
}

/// Adds an entry to an archive.
pub(super) fn add(out: &mut Vec<u8>, name: &str, mode: u32, links: u32, data: &[u8]) {
    let (size, name_size) = (data.len(), name.len() + 1);
    out.extend(
        format!(
            "0707010000000a{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}",
            0
        )
        .bytes(),
    );
    out.extend(format!("{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}", 0).bytes());
    for part in [&[name.as_bytes(), &[0]].concat()[..], data] {
        out.extend(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}
