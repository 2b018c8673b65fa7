//! The pages with figures are those that the benches make of their raw runs.

use std::path::Path;
use std::process::Command;

#[test]
fn the_page_of_promote_says_what_its_raw_runs_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let page = root.join("docs/bench/promote.md");
    let raw = root.join("docs/bench/promote.json");
    std::fs::copy(raw, dir.path().join("promote.json")).unwrap();
    let out = Command::new(root.join("scripts/bench-promote"))
        .args(["--render", "--out"])
        .arg(dir.path())
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let made = std::fs::read_to_string(dir.path().join("promote.md")).unwrap();
    assert_eq!(made, std::fs::read_to_string(page).unwrap());
}
