//! Libraries in C that are loaded into the program with LD_PRELOAD.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use super::{Lacks, TempDir, skip};

/// The library that is made of a file in this directory. `None` without a C compiler, which is
/// reported.
pub fn library(source: &'static str) -> Option<PathBuf> {
    static MADE: OnceLock<Mutex<(TempDir, HashMap<&str, bool>)>> = OnceLock::new();
    let made = MADE.get_or_init(|| Mutex::new((tempfile::tempdir().unwrap(), HashMap::new())));
    let (dir, built) = &mut *made.lock().unwrap();
    let path = dir.path().join(source).with_extension("so");
    let is_there = *built.entry(source).or_insert_with(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/support")
            .join(source);
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path);
        match cc.arg(source).arg("-ldl").status() {
            Ok(status) => {
                assert!(status.success(), "cc: {status}");
                true
            }
            Err(e) => {
                skip(Lacks::Setup, &format!("cc: {e}"));
                false
            }
        }
    });
    is_there.then_some(path)
}
