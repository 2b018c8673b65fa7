//! The pages with figures are those that the benches make of their raw runs.

use std::path::{Path, PathBuf};
use std::process::Command;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bench")
}

/// Has `bench` make `page` in `dir`, and compares.
fn is_made_by(page: &str, bench: &str, dir: &Path, render: &[PathBuf]) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut command = Command::new(scripts.join(bench));
    command.arg("--out").arg(dir).arg("--render").args(render);
    let out = command.output().expect("python3");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let made = std::fs::read_to_string(dir.join(page)).unwrap();
    let kept = std::fs::read_to_string(docs().join(page)).unwrap();
    assert!(
        made == kept,
        "docs/bench/{page} says something else than its raw runs: {bench} --render makes it anew"
    );
}

#[test]
fn the_page_of_mount_says_what_its_raw_runs_say() {
    let dir = tempfile::tempdir().unwrap();
    let raw = ["mount.json", "mount-disk.json"].map(|raw| docs().join(raw));
    is_made_by("mount.md", "bench-mount", dir.path(), &raw);
}

#[test]
fn the_page_of_promote_says_what_its_raw_runs_say() {
    let dir = tempfile::tempdir().unwrap();
    // It looks for them where it writes the page.
    let raw = dir.path().join("promote.json");
    std::fs::copy(docs().join("promote.json"), raw).unwrap();
    is_made_by("promote.md", "bench-promote", dir.path(), &[]);
}
