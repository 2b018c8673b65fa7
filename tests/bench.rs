//! The pages with figures are those that the benches make of their raw runs.

use std::path::{Path, PathBuf};
use std::process::Command;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bench")
}

/// Has `bench` make a page and its plot in `dir`, and compares.
fn is_made_by(name: &str, bench: &str, dir: &Path, render: &[PathBuf]) {
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
            "docs/bench/{file} differs from its raw runs: {bench} --render makes it anew"
        );
    }
    // The answer comes first: one short table and the plot, before any section.
    let page = std::fs::read_to_string(docs().join(format!("{name}.md"))).unwrap();
    let answer = page.split("\n## ").next().unwrap();
    assert_eq!(answer.matches("\n| --- |").count(), 1, "{name}.md");
    assert!(answer.contains(&format!("]({name}.svg)")), "{name}.md");
    assert!(answer.lines().count() < 25, "{name}.md");
}

#[test]
fn the_page_of_import_says_what_its_raw_runs_say() {
    let dir = tempfile::tempdir().unwrap();
    let runs = std::fs::read_dir(docs().join("import-runs")).unwrap();
    let mut raw: Vec<PathBuf> = runs.map(|entry| entry.unwrap().path()).collect();
    raw.sort();
    is_made_by("import", "bench-import", dir.path(), &raw);
}

#[test]
fn the_page_of_mount_says_what_its_raw_runs_say() {
    let dir = tempfile::tempdir().unwrap();
    let raw = ["mount.json", "mount-disk.json"].map(|raw| docs().join(raw));
    is_made_by("mount", "bench-mount", dir.path(), &raw);
}

#[test]
fn the_page_of_promote_says_what_its_raw_runs_say() {
    let dir = tempfile::tempdir().unwrap();
    // It looks for them where it writes the page.
    let raw = dir.path().join("promote.json");
    std::fs::copy(docs().join("promote.json"), raw).unwrap();
    is_made_by("promote", "bench-promote", dir.path(), &[]);
}
