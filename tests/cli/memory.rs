//! Imports with little memory.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Image, Lacks, Ran, sha256sum, skip};

/// Runs the program with an address space of at most `kib` KiB.
fn with_addresses(kib: u64, args: &[&Path]) -> Ran {
    let script = format!("ulimit -v {kib}; exec \"$0\" import \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_lbpayload")]);
    Ran::of(command.args(args))
}

/// `count` files of a few bytes each.
fn tiny_files(count: usize, path: &Path) {
    let name = |n| format!("f{n:06}").into_bytes();
    let image = Image {
        wide: true,
        files: (0..count).map(|n| (name(n), vec![b'x'; n % 40])).collect(),
    };
    image.write(path);
}

/// A memory cgroup with a limit. It is removed on drop.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("lbpayload-test-{}", std::process::id());
        let roots = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        roots.into_iter().find_map(|(root, limit)| {
            let group = Self(Path::new(root).join(&name));
            std::fs::create_dir(&group.0).ok()?;
            std::fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            // ext4 cannot make room itself while it creates a file. Below the limit, the kernel does
            // that between two calls. Older kernels have no such mark.
            let _ = std::fs::write(group.0.join("memory.high"), (bytes / 4 * 3).to_string());
            Some(group)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_memory_limit_below_4m_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (memory, status) in [("1M", 2), ("4095K", 2), ("4194303", 2), ("4M", 1)] {
        let device = dir.path().join("none");
        lb![
            "import",
            "--memory",
            memory,
            "--device",
            &device,
            dir.path()
        ]
        .exits(status);
    }
}

#[test]
fn tiny_files_are_imported_in_a_memory_cgroup_of_16_mib() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    tiny_files(20_000, &image);
    let Some(group) = Cgroup::new(16 << 20) else {
        return skip(Lacks::Machine, "no memory cgroup can be made here");
    };
    let dest = dir.path().join("dest");
    let mut command = Command::new("sh");
    let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_lbpayload")]);
    command.arg(&group.0);
    command.args(["import", "--memory", "8M", "--device"]);
    command.arg(&image).arg(&dest);
    // While other tests keep the disk busy, the kernel sometimes kills a process although most of
    // its group's memory could be freed. Three times in a row would be our fault.
    let mut ran = Ran::of(&mut command);
    for _ in 0..2 {
        if ran.status.is_none() {
            ran = Ran::of(&mut command);
        }
    }
    ran.exits(0);
    assert_eq!(std::fs::read_dir(&dest).unwrap().count(), 20_000);
}

#[test]
fn many_files_are_imported_with_a_small_address_space() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let [image, sums, dest] = ["image", "sums", "dest"].map(|name| dir.path().join(name));
    tiny_files(20_000, &image);
    let sum: Vec<String> = (0..40).map(|n| sha256sum(&vec![b'x'; n])).collect();
    let lines = (0..20_000).map(|n| format!("{}  f{n:06}\n", sum[n % 40]));
    std::fs::write(&sums, lines.collect::<String>()).unwrap();
    let options = ["--checksums", "--device"].map(Path::new);
    with_addresses(70_000, &[options[0], &sums, options[1], &image, &dest]).exits(0);
}

#[test]
fn too_little_memory_for_the_checksums_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (image, sums) = (dir.path().join("image"), dir.path().join("sums"));
    tiny_files(1, &image);
    let sum = "0".repeat(64);
    let lines = (0..120_000).map(|n| format!("{sum}  {n:0250}\n"));
    std::fs::write(&sums, lines.collect::<String>()).unwrap();
    let dest = dir.path().join("dest");
    let args = [
        Path::new("--checksums"),
        &sums,
        Path::new("--device"),
        &image,
        &dest,
    ];
    with_addresses(40_000, &args).exits(1);
    assert!(!dest.exists());
}
