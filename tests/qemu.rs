//! docs/qemu.md tells of the cases that qemu/run has. (They run by scripts/test.)

#[path = "support/skip.rs"]
mod skip;

use std::path::Path;
use std::process::Command;

use skip::{Lacks, skip};

#[test]
fn the_page_has_the_table_that_qemu_run_lists() {
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
        "put the output of `qemu/run --list` in place of the table in docs/qemu.md:\n{listed}"
    );
}
