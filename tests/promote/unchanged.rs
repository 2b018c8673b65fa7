//! Files that are known to be unchanged are neither read nor flushed again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::needs_root;
use crate::refusals::failed;
use crate::support::check;
use crate::workspace::{MODULES, Workspace};

/// Waits until every source is old enough to be recorded as unchanged: older than one
/// tick of the file system clock.
fn let_age(it: &Workspace) {
    let tick = std::time::Duration::from_millis(25);
    let out = it.path("Source/bsp_sources/out");
    let files = fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let changed = |path: &Path| {
        let meta = path.metadata().unwrap();
        let nanoseconds = u32::try_from(meta.ctime_nsec()).unwrap();
        std::time::Duration::new(u64::try_from(meta.ctime()).unwrap(), nanoseconds)
    };
    let overlay = it.overlay().join("bootloader/board.conf");
    let newest = files.chain([overlay]).map(|path| changed(&path)).max();
    let old = std::time::SystemTime::UNIX_EPOCH + newest.unwrap() + tick;
    while std::time::SystemTime::now() <= old {
        std::thread::yield_now();
    }
}

/// Changes a byte of a file but not its size or modification time.
fn edit_keeping_size_and_time(path: &Path) {
    let meta = path.metadata().unwrap();
    let mut text = fs::read(path).unwrap();
    text[0] ^= 1;
    let file = fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &text, 0).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    let now = path.metadata().unwrap();
    assert_eq!(
        (now.len(), now.modified().unwrap()),
        (meta.len(), meta.modified().unwrap())
    );
}

#[test]
fn edit_that_keeps_size_and_time_is_detected_in_source_and_destination() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    assert!(it.l4t(".lbpayload/stamps.json").exists());
    edit_keeping_size_and_time(&it.l4t("rootfs/usr/lib/modules/6.8.12-tegra/updates/nv.ko"));
    edit_keeping_size_and_time(&it.l4t("kernel/dtb/board.dtb"));
    let ran = it.promote(&[]).exits(0);
    assert!(
        ran.stdout.contains("manifest files: 2 copied, 2 identical"),
        "{}",
        ran.stdout
    );
    assert_eq!(it.read("kernel/dtb/board.dtb"), "new dtb\n");
    let built = fs::read_dir(it.path("Source/bsp_sources/out")).unwrap();
    for entry in built {
        edit_keeping_size_and_time(&entry.unwrap().path());
    }
    let ran = it.promote(&[]).exits(0);
    assert!(
        ran.stdout.contains("manifest files: 4 copied, 0 identical"),
        "{}",
        ran.stdout
    );
    assert_eq!(it.read("kernel/dtb/board.dtb"), "oew dtb\n");
}

#[test]
fn identical_files_are_flushed_once() {
    needs_root!();
    let it = Workspace::new();
    let_age(&it);
    it.promote(&[]).exits(0);
    let flushes = || {
        let command = it.command();
        let log = it.path("flushes");
        let out = std::process::Command::new("strace")
            .args(["-qq", "-e", "trace=syncfs", "-o"])
            .arg(&log)
            .arg(command.get_program())
            .args(command.get_args())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(out.status.success());
        let text = fs::read_to_string(log).unwrap();
        text.lines().filter(|l| l.starts_with("syncfs")).count()
    };
    // The run that wrote the files recorded that they were flushed.
    assert_eq!(flushes(), 0);
    // This is the state after a run that was killed right after its last rename.
    fs::remove_file(it.l4t(".lbpayload/stamps.json")).unwrap();
    assert_eq!(flushes(), 2);
}

#[test]
fn recheck_reads_everything_and_a_broken_stamps_file_is_not_an_error() {
    needs_root!();
    let it = Workspace::new();
    let_age(&it);
    it.promote(&[]).exits(0);
    let once = it.everything_and_when();
    // strace shows which modules are opened for reading.
    let opened = |args: &[&str]| {
        let command = it.command();
        let log = it.path("opened");
        let out = std::process::Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=openat,openat2", "-o"])
            .arg(&log)
            .arg(command.get_program())
            .args(command.get_args())
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(out.status.success());
        let text = fs::read_to_string(log).unwrap();
        text.lines()
            .filter(|l| l.contains("nv.ko") && !l.contains("O_PATH"))
            .count()
    };
    assert_eq!(opened(&[]), 0);
    assert_eq!(opened(&["--recheck"]), 1);
    assert_eq!(it.everything_and_when(), once);
    fs::write(it.l4t(".lbpayload/stamps.json"), "[{").unwrap();
    let ran = it.promote(&[]).exits(0);
    assert!(
        ran.stdout.contains("manifest files: 0 copied, 4 identical"),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.contains("stamps.json"), "{}", ran.stderr);
}

#[test]
fn run_with_nothing_to_do_does_not_read_the_records() {
    needs_root!();
    let it = Workspace::new();
    it.promote(&[]).exits(0);
    let record = it.l4t(".lbpayload/journal/000001.jsonl");
    fs::write(&record, "no record\n").unwrap();
    it.promote(&[]).exits(0);
    it.promote(&["--dry-run"]).exits(0);
    // What the overlay no longer has is found in the records.
    it.git(&it.overlay(), &["rm", "-q", "bootloader/board.conf"]);
    it.git(&it.overlay(), &["commit", "-qm", "gone"]);
    failed(it.promote(&["--json"]), "bad-record", "000001.jsonl");
}

#[test]
fn run_with_nothing_to_do_takes_at_most_five_system_calls_for_an_artifact() {
    needs_root!();
    let it = Workspace::new();
    let calls = |artifacts: usize| {
        let dst = |n| format!("{MODULES}/kernel/drivers/net/{n}.ko");
        let names: Vec<String> = (0..artifacts).map(dst).collect();
        let built: Vec<_> = names
            .iter()
            .map(|dst| (&**dst, "in_tree_module", "m"))
            .collect();
        it.manifest(&built);
        let_age(&it);
        it.promote(&[]).exits(0);
        let command = it.command();
        let log = it.path("calls");
        let mut strace = std::process::Command::new("strace");
        strace.args(["-qq", "-o"]).arg(&log);
        strace.arg(command.get_program()).args(command.get_args());
        check(strace.env("GIT_CONFIG_GLOBAL", "/dev/null"));
        fs::read_to_string(log).unwrap().lines().count()
    };
    let (some, more) = (calls(50), calls(250));
    let each = more.saturating_sub(some) / 200;
    assert!(each <= 5, "{each}: {some} for 50, {more} for 250");
}
