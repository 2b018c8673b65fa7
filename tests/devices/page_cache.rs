//! The page cache: a probe is not misled by stale data in it, and an import does not
//! fill it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::disks::{Model, assert_holds, backing, image, read_buffered};
use crate::support::{Loop, Mounted, check, lbpayload, noise, run};
use crate::{alone, needs_devices};

fn model() -> Model {
    [
        ("a".into(), noise(1, 5000)),
        ("b".into(), noise(2, 300_000)),
    ]
    .into()
}

/// A loop device whose page cache holds `old` while the device holds `new`. The cache
/// stays valid as long as the returned file is open.
fn stale(dir: &Path, old: &[u8], new: &[u8]) -> (Loop, File) {
    let file = backing(dir, "disk", old, 1 << 20);
    let device = Loop::with(&file, &["--direct-io=on"]);
    let cached = File::open(&device.path).unwrap();
    let before = read_buffered(&cached, 1 << 20);
    let beneath = OpenOptions::new().write(true).open(&file).unwrap();
    beneath.write_all_at(new, 0).unwrap();
    beneath.sync_all().unwrap();
    assert!(
        read_buffered(&cached, 1 << 20) == before,
        "the cache is not stale: no test"
    );
    (device, cached)
}

#[test]
fn probe_finds_a_payload_despite_a_stale_page_cache() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (device, _cached) = stale(dir.path(), b"something else", &image(&model()).bytes());
    let ran = run([Path::new("probe"), &device.path]).exits(0);
    assert_eq!(ran.stdout, format!("{}\n", device.path.display()));
    run([Path::new("list"), &device.path]).exits(0);
    run([Path::new("verify"), &device.path]).exits(0);
    let ran = run([Path::new("cat"), &device.path, Path::new("b")]).exits(0);
    assert!(ran.stdout_bytes == model()["b"]);
    let dest = dir.path().join("dest");
    run([
        Path::new("import"),
        Path::new("--device"),
        &device.path,
        &dest,
    ])
    .exits(0);
    assert_holds(&dest, &model());
}

#[test]
fn probe_ignores_a_payload_that_is_only_in_the_page_cache() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (device, _cached) = stale(dir.path(), &image(&model()).bytes(), &[0; 4096]);
    let ran = run([Path::new("probe"), &device.path]).exits(3);
    assert_eq!(ran.stdout, "");
    for command in ["list", "verify"] {
        run([Path::new(command), &device.path])
            .exits(1)
            .says("not a payload");
    }
}

#[test]
fn verify_finds_damage_despite_a_stale_page_cache() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let good = image(&model()).bytes();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    let sums = dir.path().join("sums");
    let lines = model()
        .iter()
        .map(|(n, b)| format!("{}  {n}\n", crate::support::sha256sum(b)))
        .collect::<String>();
    fs::write(&sums, lines).unwrap();
    let (device, _cached) = stale(dir.path(), &good, &bad);
    let args = [
        Path::new("verify"),
        Path::new("--checksums"),
        &sums,
        &device.path,
    ];
    let ran = run(args).exits(1);
    // The last entry of the image is the one with the lower name.
    assert_eq!(ran.stdout, "b: OK\na: FAILED\n");
}

/// Size of the page cache from /proc/meminfo in bytes, for files and devices, without
/// shared memory.
fn page_cache() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let kib = |key: &str| -> i64 {
        let line = text
            .lines()
            .find(|l| l.starts_with(&format!("{key}:")))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (kib("Cached") + kib("Buffers") - kib("Shmem")) * 1024
}

/// Runs the program and returns its peak resident memory in bytes.
fn peak_of(args: &[&Path]) -> u64 {
    let mut child = lbpayload()
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    // getrusage(2) would include the memory of this process before the exec. The
    // high-water mark in /proc is only of the program, and it never decreases.
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = text.lines().find(|l| l.starts_with("VmHWM:")) {
            peak = line
                .split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
                * 1024;
        }
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(ended.success());
    assert!(
        peak > 1 << 20,
        "memory use was not measured while the program ran"
    );
    peak
}

#[test]
fn import_of_200_mib_bypasses_the_page_cache_and_uses_little_memory() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    // The loop devices are backed by memory, which does not count.
    let memory = Mounted::tmpfs(dir.path(), 2 << 30);
    let source = memory.path.join("source");
    let mut out = File::create(&source).unwrap();
    let (files, each) = (10_u64, 20_u64 << 20);
    out.write_all(b"LBPAYLD1").unwrap();
    out.write_all(&files.to_le_bytes()).unwrap();
    let chunk = noise(1, 1 << 20);
    for index in 0..files {
        out.write_all(&1_u64.to_le_bytes()).unwrap();
        out.write_all(&each.to_le_bytes()).unwrap();
        out.write_all(index.to_string().as_bytes()).unwrap();
        for _ in 0..each >> 20 {
            out.write_all(&chunk).unwrap();
        }
    }
    out.set_len((files * each).next_multiple_of(4096) + 4096)
        .unwrap();
    drop(out);
    let device = Loop::attach(&source, 4096);
    let ext4 = Mounted::make("ext4", &memory.path, 1 << 30);
    let mut least = i64::MAX;
    let mut peak = 0;
    for attempt in 0..3 {
        let dest = ext4.path.join(format!("dest{attempt}"));
        check(std::process::Command::new("sync").arg("-f").arg(&ext4.path));
        let before = page_cache();
        peak = peak_of(&[
            Path::new("import"),
            Path::new("--device"),
            &device.path,
            &dest,
        ])
        .max(peak);
        least = least.min(page_cache() - before);
        let written = fs::read(dest.join("9")).unwrap();
        assert!(written.len() as u64 == each && written[..1 << 20] == chunk);
        fs::remove_dir_all(&dest).unwrap();
    }
    assert!(least < 64 << 20, "the page cache grew by {least} bytes");
    assert!(peak < 64 << 20, "the program took {peak} bytes");
}
