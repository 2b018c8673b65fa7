//! A few of the states that `scripts/crash-states` makes: recorded writes of real jobs, on real file
//! systems.

use std::process::Command;

use crate::support::{Lacks, Ran, skip};

#[test]
fn what_a_power_failure_leaves_is_as_promised() {
    if !rustix::process::geteuid().is_root() {
        return skip(Lacks::Setup, "only root can mount");
    }
    if Command::new("qemu-storage-daemon")
        .arg("--version")
        .output()
        .is_err()
    {
        return skip(Lacks::Setup, "qemu-storage-daemon is not installed");
    }
    let mut command = Command::new("scripts/crash-states");
    command.args(["--seed", "1", "--seconds", "15", "--subsets", "2"]);
    command.args(["--program", env!("CARGO_BIN_EXE_lbpayload")]);
    // Each stands for a kind of job. The first one failed before names were flushed without a journal.
    command.args([
        "import-ext4-no-journal",
        "import-ext4",
        "promote",
        "pack-protect",
        "repair",
    ]);
    let ran = Ran::of(command.current_dir(env!("CARGO_MANIFEST_DIR"))).exits(0);
    let last = ran.stdout.lines().last().unwrap();
    assert!(
        last.ends_with(" 0 failures") && !last.starts_with("0 "),
        "{}",
        ran.stdout
    );
}
