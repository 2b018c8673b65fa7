//! Many mounts in a row, many files, and few open files allowed: nothing is left
//! behind, and memory use is low.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::fixture::{Fixture, is_mounted, sample, until};
use crate::support::Image;

/// The private memory of a process in bytes.
fn own_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.trim().parse::<u64>().unwrap() * 1024
}

/// LBPAYLOAD_MOUNTS sets another number of mounts than 100. The required number is
/// 1000.
#[test]
fn many_mounts_and_unmounts_leave_nothing_behind() {
    needs_fuse!();
    let asked = std::env::var("LBPAYLOAD_MOUNTS").ok();
    let times: u32 = asked.map_or(100, |text| text.parse().unwrap());
    let mut fixture = Fixture::new(&sample());
    let parent = fixture.dir().join("leaks");
    std::fs::create_dir(&parent).unwrap();
    fixture.point = parent.join("made");
    for n in 0..times {
        let options = ["exec", "auto_unmount", "direct_io", "allow_other"][n as usize % 4];
        fixture.mount(&["-o", options]).exits(0);
        assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
        fixture.unmount(&[]).exits(0);
        assert!(
            !is_mounted(&fixture.point) && !fixture.point.exists(),
            "{n}"
        );
    }
    assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 0);
    fixture.is_clean();
}

/// A payload with `count` files of 2 bytes, with names of 20 bytes.
fn numerous(count: u32) -> Image {
    let file = |n: u32| (format!("package-{n:08}.tgz").into_bytes(), b"xy".to_vec());
    Image {
        wide: true,
        files: (0..count).map(file).collect(),
    }
}

fn touch_all(fixture: &Fixture, count: u32) {
    assert_eq!(
        std::fs::read_dir(&fixture.point).unwrap().count(),
        count as usize
    );
    for n in (0..count).step_by(count as usize / 500) {
        let name = format!("package-{n:08}.tgz");
        assert_eq!(std::fs::read(fixture.file(&name)).unwrap(), b"xy");
    }
}

#[test]
fn twenty_thousand_files_need_at_most_5_mib() {
    needs_fuse!();
    let fixture = Fixture::new(&numerous(20_000));
    for options in ["exec", "direct_io"] {
        fixture.mounted(&["-o", options]);
        touch_all(&fixture, 20_000);
        let bytes = own_memory(fixture.server());
        assert!(bytes <= 5 << 20, "{options}: {bytes}");
        fixture.unmount(&[]).exits(0);
    }
}

#[test]
fn memory_is_at_most_5_mib_after_many_large_parallel_reads() {
    needs_fuse!();
    for options in ["exec", "direct_io"] {
        let fixture = Fixture::new(&sample());
        fixture.mounted(&["-o", options]);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| std::fs::read(fixture.file("large")).unwrap());
            }
        });
        let bytes = own_memory(fixture.server());
        assert!(bytes <= 5 << 20, "{options}: {bytes}");
    }
}

#[test]
fn a_million_files_need_less_than_200_bytes_each() {
    needs_fuse!();
    let fixture = Fixture::new(&numerous(1_000_000));
    fixture.mounted(&[]);
    let last: &Path = &fixture.file("package-00999999.tgz");
    assert_eq!(std::fs::read(last).unwrap(), b"xy");
    assert!(!fixture.file("package-01000000.tgz").exists());
    let bytes = own_memory(fixture.server());
    assert!(bytes < 200_000_000, "{bytes}");
}

#[test]
fn output_is_closed_when_the_command_ends_with_few_open_files_allowed() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    for files in 4..16 {
        let mut command = Command::new("sh");
        let script = "ulimit -n $0; \"$@\"; echo $?";
        command.args(["-c", script, &files.to_string()]);
        command.arg(env!("CARGO_BIN_EXE_lbpayload")).arg("mount");
        command.arg(&fixture.image).arg(&fixture.point);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.wait().unwrap();
        let ended = std::thread::spawn(move || child.wait_with_output());
        until("its output ends", || ended.is_finished());
        while is_mounted(&fixture.point) {
            fixture.unmount(&[]).exits(0);
        }
    }
    fixture.is_clean();
}
