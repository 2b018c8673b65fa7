//! The benchmark pages match the raw results that they are generated from.

use std::path::{Path, PathBuf};
use std::process::Command;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bench")
}

/// Generates a page and its plot in `dir` with `bench`, and compares them with the
/// committed ones.
fn assert_generated_by(name: &str, bench: &str, dir: &Path, render: &[PathBuf]) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut command = Command::new(scripts.join(bench));
    command.arg("--out").arg(dir).arg("--render").args(render);
    let out = command.output().expect("python3");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    for file in [format!("{name}.md"), format!("{name}.svg")] {
        let made = std::fs::read_to_string(dir.join(&file)).unwrap();
        let kept = std::fs::read_to_string(docs().join(&file)).unwrap();
        assert!(
            made == kept,
            "docs/bench/{file} does not match its raw results: regenerate it with {bench} --render"
        );
    }
    // The result comes first: one short table and the plot, before any section.
    let page = std::fs::read_to_string(docs().join(format!("{name}.md"))).unwrap();
    let answer = page.split("\n## ").next().unwrap();
    assert_eq!(answer.matches("\n| --- |").count(), 1, "{name}.md");
    assert!(answer.contains(&format!("]({name}.svg)")), "{name}.md");
    assert!(answer.lines().count() < 25, "{name}.md");
}

#[test]
fn import_page_matches_its_raw_results() {
    let dir = tempfile::tempdir().unwrap();
    let runs = std::fs::read_dir(docs().join("import-runs")).unwrap();
    let mut raw: Vec<PathBuf> = runs.map(|entry| entry.unwrap().path()).collect();
    raw.sort();
    assert_generated_by("import", "bench-import", dir.path(), &raw);
}

#[test]
fn mount_page_matches_its_raw_results() {
    let dir = tempfile::tempdir().unwrap();
    let raw = ["mount.json", "mount-disk.json"].map(|raw| docs().join(raw));
    assert_generated_by("mount", "bench-mount", dir.path(), &raw);
}

#[test]
fn promote_page_matches_its_raw_results() {
    let dir = tempfile::tempdir().unwrap();
    // The script looks for the raw results in the directory that it writes the page
    // to.
    let raw = dir.path().join("promote.json");
    std::fs::copy(docs().join("promote.json"), raw).unwrap();
    assert_generated_by("promote", "bench-promote", dir.path(), &[]);
}

#[test]
fn many_machines_page_matches_its_script() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut command = Command::new(scripts.join("many-machines"));
    let status = command.arg("--check").status().expect("python3");
    assert!(status.success(), "run `scripts/many-machines --write`");
}
