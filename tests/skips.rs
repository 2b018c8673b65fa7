//! Tests are skipped in one way only, and never where they could have run.

#[path = "support/skip.rs"]
mod skip;

use std::path::{Path, PathBuf};
use std::process::Command;

use skip::{Lacks, skip};

#[test]
#[ignore = "run by skip_for_an_installable_requirement_fails_when_skips_are_forbidden"]
fn lacks_root() {
    skip(Lacks::Setup, "made up");
}

#[test]
#[ignore = "run by skip_for_an_installable_requirement_fails_when_skips_are_forbidden"]
fn lacks_a_kernel_feature() {
    skip(Lacks::Machine, "made up");
}

#[test]
fn skip_for_an_installable_requirement_fails_when_skips_are_forbidden() {
    let passes = |test: &str, no_skips: &str| {
        let ran = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", test])
            .env("LBPAYLOAD_NO_SKIPS", no_skips)
            .output()
            .unwrap();
        let visible = String::from_utf8_lossy(&ran.stderr).contains("SKIPPED: made up\n");
        assert_eq!(ran.status.success(), visible, "{ran:?}");
        visible
    };
    assert!(passes("lacks_root", "0"));
    assert!(!passes("lacks_root", "1"));
    assert!(passes("lacks_a_kernel_feature", "1"));
}

#[test]
fn tests_skip_only_through_the_support_module() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut dirs = vec![tests.clone()];
    let mut found: Vec<PathBuf> = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"SKIPPED")) {
                found.push(path.strip_prefix(&tests).unwrap().to_owned());
            }
        }
    }
    found.sort();
    // This file contains the text that it searches for.
    assert_eq!(
        found,
        [Path::new("skips.rs"), Path::new("support/skip.rs")],
        "call support::skip instead"
    );
}
