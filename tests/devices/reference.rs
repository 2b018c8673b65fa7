//! The drop-in replacement: called as `payload-import`, the program behaves as the
//! reference importer does.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disks::{Model, assert_holds, disk, image};
use crate::mount_namespace::{Listing, View};
use crate::support::{Image, Loop, Ran, TempDir, noise};
use crate::{alone, needs_devices};

/// A symbolic link `payload-import`, and a directory for a test's files.
struct DropIn {
    dir: TempDir,
    program: PathBuf,
}

impl DropIn {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("payload-import");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lbpayload"), &program).unwrap();
        Self { dir, program }
    }

    #[track_caller]
    fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(
            Command::new(&self.program)
                .args(args)
                .env_remove("RUST_LOG"),
        )
    }

    fn disk(&self, name: &str, model: &Model) -> Loop {
        disk(self.dir.path(), name, &image(model).bytes(), 512)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn model() -> Model {
    let file = |seed, len| (format!("file {seed}.tar.gz"), noise(seed, len));
    [file(1, 10), file(2, 0), file(3, 300_000), file(4, 512)].into()
}

/// What the reference importer prints.
fn lines(device: &Path, model: &Model) -> String {
    let mut text = format!(
        "payload-import: reading {} files from {}\n",
        model.len(),
        device.display()
    );
    for (name, _) in image(model).files {
        text += &format!("payload-import: {}\n", String::from_utf8(name).unwrap());
    }
    text
}

#[test]
fn probe_prints_nothing_and_sets_the_exit_status() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let payload = drop_in.disk("payload", &model());
    let blank = disk(drop_in.dir.path(), "blank", &[], 512);
    // It checks only the magic and nothing after it.
    let broken = disk(
        drop_in.dir.path(),
        "broken",
        b"LBPAYLD1\xff\xff\xff\xff",
        512,
    );
    let missing = PathBuf::from("/dev/no-such");
    for (device, status) in [
        (&payload.path, 0),
        (&broken.path, 0),
        (&blank.path, 1),
        (&missing, 1),
    ] {
        let ran = drop_in.run([Path::new("--probe"), device]).exits(status);
        assert_eq!(
            (ran.stdout.as_str(), ran.stderr.as_str()),
            ("", ""),
            "{device:?}"
        );
    }
}

#[test]
fn device_copies_all_files_and_prints_them() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let payload = drop_in.disk("payload", &model());
    let dest = drop_in.path("dest");
    let ran = drop_in
        .run([Path::new("--device"), &payload.path, &dest])
        .exits(0);
    assert_eq!(
        (ran.stdout, ran.stderr),
        (lines(&payload.path, &model()), String::new())
    );
    assert_holds(&dest, &model());
    assert_eq!(
        fs::metadata(&dest).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    // Again, over existing files: the same lines.
    let ran = drop_in
        .run([Path::new("--device"), &payload.path, &dest])
        .exits(0);
    assert_eq!(ran.stdout, lines(&payload.path, &model()));
}

#[test]
fn existing_files_are_overwritten_and_lines_are_in_payload_order() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let payload = drop_in.disk("payload", &model());
    let dest = drop_in.path("dest");
    drop_in
        .run([Path::new("--device"), &payload.path, &dest])
        .exits(0);
    fs::write(dest.join("file 3.tar.gz"), "different").unwrap();
    let ran = drop_in
        .run([Path::new("--device"), &payload.path, &dest])
        .exits(0);
    assert_holds(&dest, &model());
    assert_eq!(ran.stdout, lines(&payload.path, &model()));
}

#[test]
fn failing_device_import_exits_with_1_and_creates_no_parent_directory() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let payload = drop_in.disk("payload", &model());
    let blank = disk(drop_in.dir.path(), "blank", &[], 512);
    let (dest, orphan) = (drop_in.path("dest"), drop_in.path("no/such/dest"));
    let cases: [(&Path, &Path); 3] = [
        (&blank.path, &dest),
        (Path::new("/dev/no-such"), &dest),
        (&payload.path, &orphan),
    ];
    for (device, dest) in cases {
        let ran = drop_in.run([Path::new("--device"), device, dest]).exits(1);
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.starts_with("payload-import: "), "{}", ran.stderr);
    }
    assert!(
        !orphan.exists() && !drop_in.path("no").exists(),
        "a parent directory was created"
    );
    let cut = Image::new(&[("a", b"b"), ("c", &noise(1, 100_000))]).bytes();
    fs::write(drop_in.path("cut"), &cut[..51_200]).unwrap();
    let cut = Loop::attach(&drop_in.path("cut"), 512);
    drop_in
        .run([Path::new("--device"), &cut.path, &dest])
        .exits(1)
        .says("`c`");
}

#[test]
fn wrong_arguments_exit_with_1_and_print_the_usage_on_standard_error() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    for args in [
        &[][..],
        &["--probe"],
        &["--device", "x"],
        &["--from-proc"],
        &["--what", "x"],
    ] {
        let ran = drop_in.run(args).exits(1);
        assert_eq!(ran.stdout, "");
        assert!(
            ran.stderr.contains("payload-import --from-proc <dest-dir>"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn from_proc_imports_the_first_payload_in_the_list() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let other: Model = [("other".into(), noise(9, 9))].into();
    let (low, high) = (drop_in.disk("low", &other), drop_in.disk("high", &model()));
    let blank = disk(drop_in.dir.path(), "blank", &[], 512);
    // The second device comes first in the list, and the order of the list counts.
    for call in [&["--from-proc"][..], &[]] {
        for nodes in [true, false] {
            let mut view = View::of(&[&blank.path, &high.path, &low.path], Listing::Proc);
            if !nodes {
                view = view.without_nodes();
            }
            let dest = drop_in.path(&format!("{}{nodes}", call.len()));
            let args = call.iter().map(Path::new).chain([&*dest]);
            let ran = view.run_program(&drop_in.program, args).exits(0);
            assert_eq!(ran.stdout, lines(&high.path, &model()));
            assert_holds(&dest, &model());
        }
    }
}

#[test]
fn from_proc_creates_missing_nodes_of_partitions() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let bytes = image(&model()).bytes();
    let parted = crate::disks::Partitioned::make(drop_in.dir.path(), "dos", 512, &bytes);
    let devices = [&*parted.disk.path, &parted.first, &parted.second];
    let view = View::of(&devices, Listing::Proc).without_nodes();
    let dest = drop_in.path("dest");
    let ran = view
        .run_program(&drop_in.program, [Path::new("--from-proc"), &dest])
        .exits(0);
    assert_eq!(ran.stdout, lines(&parted.second, &model()));
    assert_holds(&dest, &model());
}

#[test]
fn from_proc_exits_with_2_when_no_device_has_a_payload() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let blank = disk(drop_in.dir.path(), "blank", &[], 512);
    let dest = drop_in.path("dest");
    let view = View::of(&[&blank.path], Listing::Proc);
    for call in [&["--from-proc"][..], &[]] {
        let args = call.iter().map(Path::new).chain([&*dest]);
        assert_eq!(view.run_program(&drop_in.program, args).exits(2).stdout, "");
    }
    let view = View::of(&[&blank.path], Listing::Dev).without("sys_admin");
    assert_eq!(
        view.run_program(&drop_in.program, [&dest]).exits(2).stdout,
        ""
    );
}

#[test]
fn from_proc_probes_the_nodes_in_dev_without_proc() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let payload = drop_in.disk("payload", &model());
    let blank = disk(drop_in.dir.path(), "blank", &[], 512);
    // Without the capability to mount /proc.
    let view = View::of(&[&blank.path, &payload.path], Listing::Dev).without("sys_admin");
    let dest = drop_in.path("dest");
    let ran = view.run_program(&drop_in.program, [&dest]).exits(0);
    assert_eq!(ran.stdout, lines(&payload.path, &model()));
    assert_holds(&dest, &model());
    let ran = view
        .run_program(&drop_in.program, [Path::new("--from-proc"), &dest])
        .exits(1);
    assert!(ran.stderr.contains("/proc"), "{}", ran.stderr);
}

#[test]
fn from_proc_mounts_proc_when_it_is_missing() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let payload = drop_in.disk("payload", &model());
    // The list then has devices of other tests too, which have no node here.
    for call in [&["--from-proc"][..], &[]] {
        let view = View::of(&[&payload.path], Listing::Dev).without("mknod");
        let dest = drop_in.path(&format!("dest{}", call.len()));
        let args = call.iter().map(Path::new).chain([&*dest]);
        let ran = view.run_program(&drop_in.program, args).exits(0);
        assert_eq!(ran.stdout, lines(&payload.path, &model()));
        assert_holds(&dest, &model());
    }
}

#[test]
fn mount_proc_mounts_it_once() {
    needs_devices!();
    let _alone = alone();
    let drop_in = DropIn::make();
    let view = View::of(&[], Listing::Dev);
    let script = "ls /proc; $1 --mount-proc && $1 --mount-proc && grep -c ' /proc ' /proc/mounts; \
                  head -n 1 /proc/partitions";
    let ran = view.script(script, [&drop_in.program]).exits(0);
    // The tmpfs that hides it, and the mount under it: one more than before.
    let beneath = fs::read_to_string("/proc/mounts")
        .unwrap()
        .matches(" /proc ")
        .count();
    assert_eq!(
        ran.stdout,
        format!("{}\nmajor minor  #blocks  name\n", beneath + 2)
    );
    assert_eq!(ran.stderr, "");
    let view = View::of(&[], Listing::Dev).without("sys_admin");
    let ran = view
        .run_program(&drop_in.program, ["--mount-proc"])
        .exits(1);
    assert!(
        ran.stdout.is_empty() && ran.stderr.contains("`/proc`"),
        "{}",
        ran.stderr
    );
}
