//! docs/qemu.md lists the cases of qemu/run. (scripts/test runs them.)

#[path = "support/skip.rs"]
mod skip;

use std::path::Path;
use std::process::Command;

use skip::{Lacks, skip};

#[test]
fn docs_page_contains_the_table_of_qemu_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = match Command::new(root.join("qemu/run")).arg("--list").output() {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(e) => {
            skip(Lacks::Setup, &format!("qemu/run --list: {e}"));
            return;
        }
    };
    let page = std::fs::read_to_string(root.join("docs/qemu.md")).unwrap();
    assert!(
        page.contains(&listed),
        "replace the table in docs/qemu.md with the output of `qemu/run --list`:\n{listed}"
    );
}
