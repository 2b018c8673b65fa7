//! `lbpayload pack` reads back what it has written. A device that stores less than it
//! claims is recognized.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lbpayload::Kind;
use lbpayload::pack::{Inputs, Options, OutputDevice, plan, to_device};
use lbpayload::progress::Progress;

use crate::disks::{backing, first_bytes};
use crate::support::{Lacks, Loop, Mounted, Ran, check, lbpayload, noise, run, skip, tree};
use crate::{alone, needs_devices};

/// A plugin for nbdkit: a disk that claims $CLAIMED bytes and stores $REAL. What lies
/// behind goes to the start again (wrap), only reads do (alias), or it is dropped. At
/// $SPOIL, what is written is stored wrong if it has at most $SPOIL_MAX bytes.
const PLUGIN: &str = r#"#!/bin/sh
at() { echo $(($1 % REAL)); }
case $1 in
get_size) echo "$CLAIMED" ;;
can_write | can_flush) exit 0 ;;
thread_model) echo serialize_all_requests ;;
pread)
    if [ "$4" -ge "$REAL" ] && [ "$MODE" = drop ]; then
        head -c "$3" /dev/zero
    else
        dd if="$STORE" iflag=skip_bytes,count_bytes,fullblock skip="$(at "$4")" count="$3" \
            bs=1M status=none
    fi ;;
pwrite)
    if [ "$4" -ge "$REAL" ] && [ "$MODE" != wrap ]; then
        cat > /dev/null
    else
        dd of="$STORE" oflag=seek_bytes iflag=fullblock seek="$(at "$4")" bs=1M \
            conv=notrunc status=none
        if [ "$4" = "$SPOIL" ] && [ "$3" -le "$SPOIL_MAX" ]; then
            printf wrong | dd of="$STORE" oflag=seek_bytes seek="$4" conv=notrunc status=none
        fi
    fi ;;
flush) ;;
*) exit 2 ;;
esac
"#;

/// A faulty disk: a loop device over a file of nbdfuse.
struct Disk {
    device: Option<Loop>,
    file: PathBuf,
    server: Child,
}

const CLAIMED: u64 = 1 << 30;

/// No bytes are spoiled.
const NOTHING: (u64, u64) = (u64::MAX >> 1, 0);

impl Disk {
    /// `spoil` is the offset of the wrong bytes, and the largest write that they come from.
    fn make(dir: &Path, real: u64, mode: &str, spoil: (u64, u64)) -> Self {
        let (plugin, store, file) = (dir.join("plugin"), dir.join("store"), dir.join("disk"));
        fs::write(&plugin, PLUGIN).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        File::create(&store).unwrap().set_len(real).unwrap();
        File::create(&file).unwrap();
        let server = Command::new("nbdfuse")
            .arg(&file)
            // No request crosses a multiple of 128 KiB, and so none crosses the real size.
            .args(["[", "nbdkit", "--filter=blocksize", "sh"])
            .args([plugin.as_os_str(), "maxdata=128K".as_ref()])
            .arg("]")
            .env("CLAIMED", CLAIMED.to_string())
            .env("REAL", real.to_string())
            .env("MODE", mode)
            .env("SPOIL", spoil.0.to_string())
            .env("SPOIL_MAX", spoil.1.to_string())
            .env("STORE", &store)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdfuse of libnbd-bin");
        let mut disk = Self {
            device: None,
            file,
            server,
        };
        while fs::metadata(&disk.file).map_or(0, |meta| meta.len()) != CLAIMED {
            assert!(disk.server.try_wait().unwrap().is_none(), "nbdfuse ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        // Otherwise the page cache of the file hides the faults.
        disk.device = Some(Loop::with(&disk.file, &["--direct-io=on"]));
        disk
    }

    fn path(&self) -> &Path {
        &self.device.as_ref().unwrap().path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.device = None;
        let _ = Ran::when_free(Command::new("fusermount3").arg("-u").arg(&self.file));
        let _ = self.server.wait();
    }
}

fn cannot_serve() -> bool {
    let missing = ["nbdkit", "nbdfuse"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_err());
    if let Some(name) = missing {
        skip(Lacks::Setup, &format!("no {name}"));
    }
    missing.is_some()
}

fn pack(device: &Path, options: &[&str], input: &Path) -> Ran {
    let mut command = lbpayload();
    command.args(["pack", "--json", "--force"]).args(options);
    Ran::of(command.arg("-o").arg(device).arg(input))
}

/// Two files, of 3 MiB together.
fn inputs(dir: &Path) -> PathBuf {
    let inputs = dir.join("in");
    fs::create_dir(&inputs).unwrap();
    fs::write(inputs.join("first"), noise(1, 1 << 20)).unwrap();
    fs::write(inputs.join("second"), noise(2, 2 << 20)).unwrap();
    inputs
}

#[test]
fn a_device_that_is_smaller_than_it_claims_is_called_so() {
    needs_devices!();
    if cannot_serve() {
        return;
    }
    let _alone = alone();
    // The odd size is no multiple of the blocks that pack writes.
    let (even, odd) = ((2 << 20, "2.0 MiB"), ((1 << 20) + (128 << 10), "1.1 MiB"));
    for (mode, (real, human), does) in [
        ("wrap", even, "repeats"),
        ("wrap", odd, "repeats"),
        ("alias", odd, "repeats"),
        ("drop", odd, "drops"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let inputs = inputs(dir.path());
        let disk = Disk::make(dir.path(), real, mode, NOTHING);
        let claim = format!("is smaller than it claims, it {does} what is behind {human}\n");
        let ran = pack(disk.path(), &[], &inputs).exits(1).says(&claim);
        let ran = ran.says(&format!("it stores only {real} bytes"));
        let error = ran.with_code("fake-size").json_error();
        assert_eq!(error["path"], disk.path().to_str().unwrap());
        assert_ne!(first_bytes(disk.path(), 8), b"LBPAYLD1");
    }
}

#[test]
fn a_device_that_is_large_enough_for_the_payload_is_packed() {
    needs_devices!();
    if cannot_serve() {
        return;
    }
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let disk = Disk::make(dir.path(), 4 << 20, "drop", NOTHING);
    let ran = pack(disk.path(), &[], &inputs).exits(0);
    ran.says("read back and compared\n");
    run([Path::new("verify"), disk.path()]).exits(0);
}

#[test]
fn wrong_bytes_are_found_and_their_place_is_named() {
    needs_devices!();
    if cannot_serve() {
        return;
    }
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let disk = Disk::make(dir.path(), CLAIMED, "wrap", (2 << 20, CLAIMED));
    let ran = pack(disk.path(), &[], &inputs).exits(1);
    let ran = ran
        .says("does not return what was written to it\n")
        .says("at offset 2097152, the first wrong byte is in 1.0 MiB that begin in `second`\n");
    assert_eq!(ran.json_error()["code"], "read-back");
    run([Path::new("probe"), disk.path()]).exits(3);
    // With a trailer, the payload could be healed, and it must not be found by it.
    let ran = pack(disk.path(), &["--protect"], &inputs).exits(1);
    ran.with_code("read-back");
    run([Path::new("verify"), disk.path()])
        .exits(1)
        .says("no payload");
    let ran = pack(disk.path(), &["--no-verify"], &inputs).exits(0);
    assert!(!ran.stderr.contains("read back"), "{}", ran.stderr);
    run([Path::new("probe"), disk.path()]).exits(0);
}

#[test]
fn a_wrong_first_sector_is_found_and_leaves_no_payload() {
    needs_devices!();
    if cannot_serve() {
        return;
    }
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let disk = Disk::make(dir.path(), CLAIMED, "wrap", (0, 4096));
    let ran = pack(disk.path(), &[], &inputs).exits(1);
    ran.with_code("read-back");
    assert_ne!(first_bytes(disk.path(), 8), b"LBPAYLD1");
}

#[test]
fn pack_reads_past_the_page_cache_of_the_device() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let device = Loop::attach(&backing(dir.path(), "disk", &[], 16 << 20), 512);
    let trace = dir.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-e", "trace=openat", "-o"]).arg(&trace);
    command.arg(lbpayload().get_program());
    command.args(["pack", "--force", "-o"]).arg(&device.path);
    check(command.arg(&inputs));
    let trace = fs::read_to_string(&trace).unwrap();
    let name = format!("\"{}\", O_R", device.path.display());
    let opened: Vec<&str> = trace.lines().filter(|line| line.contains(&name)).collect();
    assert_eq!(opened.len(), 3, "{trace}");
    assert!(
        opened.iter().all(|line| line.contains("O_DIRECT")),
        "{opened:?}"
    );
}

#[test]
fn pack_checks_the_room_for_a_file_before_it_writes() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let full = Mounted::tmpfs(dir.path(), 2 << 20);
    let out = full.path.join("out.img");
    fs::write(&out, "old").unwrap();
    for options in [&[][..], &["--dry-run"]] {
        let ran = pack(&out, options, &inputs).exits(1);
        let ran = ran.says("the image needs 3145787 bytes, the file system has room for ");
        assert_eq!(ran.json_error()["code"], "no-space");
    }
    let left = tree(&full.path);
    assert_eq!(left, [("out.img".to_owned(), b"old".to_vec())]);
}

/// Asks to stop when a phase begins.
struct StopAt(&'static str, AtomicBool);

impl Progress for StopAt {
    fn begin(&self, phase: &str, _total_bytes: u64) {
        self.1.store(phase == self.0, Ordering::Relaxed);
    }
    fn advance(&self, _bytes: u64) {}
    fn file_done(&self, _name: &str) {}
    fn end(&self) {}
    fn cancelled(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}

#[test]
fn a_pack_that_is_stopped_before_everything_is_compared_leaves_no_payload() {
    needs_devices!();
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::Paths(vec![inputs(dir.path())]);
    let device = Loop::attach(&backing(dir.path(), "disk", &[], 16 << 20), 512);
    let pack = |stop: &'static str| {
        let plan = plan(&inputs, Options::default()).unwrap();
        let output = OutputDevice::open(&device.path).unwrap();
        to_device(&plan, output, &StopAt(stop, AtomicBool::new(false)))
    };
    for phase in ["packing", "reading back"] {
        let error = pack(phase).unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted, "{phase}: {error}");
        assert_eq!(first_bytes(&device.path, 512), [0; 512], "{phase}");
    }
    assert!(pack("no phase").unwrap().verified);
    assert_eq!(first_bytes(&device.path, 8), b"LBPAYLD1");
}
