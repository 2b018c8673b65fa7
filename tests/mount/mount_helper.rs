//! The program as a helper of mount(8), for fstab.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Fixture, called, is_mounted, mount_lines, sample, until};
use crate::support::{Lacks, Ran, check, skip, tree};

const NAMES: [&str; 2] = ["mount.lbpayload", "mount.fuse.lbpayload"];

/// A symbolic link in /sbin, where mount(8) looks for its helpers: made for as long
/// as a test runs, and only where nothing has that name.
struct Helper(PathBuf);

impl Helper {
    fn install(name: &str) -> Option<Self> {
        let path = Path::new("/sbin").join(name);
        match std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lbpayload"), &path) {
            Ok(()) => Some(Self(path)),
            Err(e) => {
                // Installed on this machine, or another run of the tests is at it.
                let reason = format!("a helper of mount(8): {}: {e}", path.display());
                skip(Lacks::Machine, &reason);
                None
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Both names in turn: mount(8) finds them in one place for the whole machine.
fn with_helpers(test: impl Fn(&str)) {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    for (name, kind) in NAMES.into_iter().zip(["lbpayload", "fuse.lbpayload"]) {
        if let Some(_helper) = Helper::install(name) {
            test(kind);
        }
    }
}

fn helper(fixture: &Fixture, name: &str, args: &[&str]) -> Ran {
    let mut command = called(name);
    Ran::of(command.arg(&fixture.image).arg(&fixture.point).args(args))
}

#[test]
fn mount_finds_its_helper_and_passes_on_what_is_meant_for_it() {
    needs_fuse!();
    with_helpers(|kind| {
        for options in [
            "ro",
            "rw,uid=7,x-systemd.automount,noatime",
            "nofail,user,uid=7",
        ] {
            let fixture = Fixture::new(&sample());
            let mut mount = Command::new("mount");
            mount.args(["-t", kind, "-o", options]);
            check(mount.arg(&fixture.image).arg(&fixture.point));
            let lines = mount_lines(&fixture.point);
            assert_eq!(lines.len(), 1);
            assert!(lines[0].contains(&"fuse.lbpayload".to_owned()), "{lines:?}");
            assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
            let meta = fixture.file("empty").metadata().unwrap();
            let uid = std::os::unix::fs::MetadataExt::uid(&meta);
            assert_eq!(uid, if options.contains("uid=7") { 7 } else { 0 });
            let server = fixture.server();
            check(Command::new("umount").arg(&fixture.point));
            until("it ends", || !crate::fixture::is_running(server));
            fixture.is_clean();
        }
    });
}

#[test]
fn a_line_in_fstab_mounts_with_mount_a_and_only_once() {
    needs_fuse!();
    with_helpers(|kind| {
        let fixture = Fixture::new(&sample());
        let fstab = fixture.dir().join("fstab");
        let (image, point) = (fixture.image.display(), fixture.point.display());
        let line = format!("{image} {point} {kind} ro,nofail,noatime,umask=077,_netdev 0 0\n");
        std::fs::write(&fstab, line).unwrap();
        for _ in 0..2 {
            check(Command::new("mount").args(["-a", "-T"]).arg(&fstab));
            let lines = mount_lines(&fixture.point);
            if kind == "fuse.lbpayload" {
                assert_eq!(lines.len(), 1, "mount -a sees that it is mounted");
            }
            assert_eq!(tree(&fixture.point).len(), 5);
        }
        let mode = fixture.file("empty").metadata().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
        assert_eq!(mode & 0o777, 0o400);
        while is_mounted(&fixture.point) {
            check(
                Command::new("umount")
                    .args(["-i", "--"])
                    .arg(&fixture.point),
            );
        }
        fixture.is_clean();
    });
}

#[test]
fn mount_tells_what_the_helper_says_and_fails_with_it() {
    needs_fuse!();
    with_helpers(|kind| {
        let fixture = Fixture::new(&sample());
        let mount = |options: &str, image: &Path| {
            let mut mount = Command::new("mount");
            mount.args(["-t", kind, "-o", options]);
            Ran::of(mount.arg(image).arg(&fixture.point))
        };
        let ran = mount("nope=1", &fixture.image);
        assert_ne!(ran.status, Some(0));
        ran.says("`nope=1`");
        let ran = mount("ro", &fixture.dir().join("missing"));
        assert_ne!(ran.status, Some(0));
        assert!(!ran.stderr.is_empty());
        assert!(!is_mounted(&fixture.point));
        fixture.is_clean();
    });
}

#[test]
fn under_both_names_it_takes_what_mount_may_pass() {
    needs_fuse!();
    for name in NAMES {
        for args in [
            &[][..],
            &["-o", "rw"],
            &["-n"],
            &["-v", "-n", "-o", "ro,nosuid"],
            &["-r"],
            &["-nv", "-o", "ro", "-o", "lenient"],
            &["-o", "ro", "-t", "fuse.lbpayload"],
            &["-s", "-o", "ro"],
        ] {
            let fixture = Fixture::new(&sample());
            let ran = helper(&fixture, name, args).exits(0);
            assert_eq!((&*ran.stdout, &*ran.stderr), ("", ""), "{args:?}");
            assert_eq!(tree(&fixture.point).len(), 5, "{args:?}");
            fixture.unmount(&[]).exits(0);
        }
    }
}

#[test]
fn what_it_does_not_know_is_refused_by_name_and_warned_of_where_that_is_asked() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    for (args, named) in [
        (&["-o", "ro,frobnicate"][..], "`frobnicate`"),
        (&["-o", "uid=me"], "`uid=me`"),
        (&["-x"], "'-x'"),
        (&["third"], "'third'"),
    ] {
        helper(&fixture, NAMES[0], args).exits(2).says(named);
        assert!(!is_mounted(&fixture.point));
    }
    let ran = helper(&fixture, NAMES[1], &["-s", "-o", "frobnicate,uid=7"]).exits(0);
    ran.says("warning: ").says("`frobnicate`");
    let meta = fixture.file("empty").metadata().unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&meta);
    assert_eq!(uid, 7, "what stands behind an unknown option counts");
}

#[test]
fn f_mounts_nothing_and_w_says_that_it_cannot_be() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    helper(&fixture, NAMES[0], &["-f"]).exits(0);
    helper(&fixture, NAMES[0], &["-fnv", "-o", "ro"]).exits(0);
    assert!(!is_mounted(&fixture.point));
    helper(&fixture, NAMES[0], &["-f", "-o", "nope"]).exits(2);
    // What would fail fails.
    std::fs::write(&fixture.image, b"no payload").unwrap();
    helper(&fixture, NAMES[0], &["-f"])
        .exits(1)
        .says("not a payload");
    let mut fixture = Fixture::new(&sample());
    fixture.point = fixture.dir().join("missing");
    helper(&fixture, NAMES[0], &["-f"]).exits(0);
    assert!(!fixture.point.exists(), "it could be made, and is not");
    for point in [fixture.dir().join("missing/too"), fixture.image.clone()] {
        fixture.point = point;
        helper(&fixture, NAMES[0], &["-f"])
            .exits(1)
            .says(&format!("`{}`", fixture.point.display()));
    }
    // Nobody would see it, and to unmount it would be to unmount the system.
    for root in ["/", "/proc/.."] {
        fixture.point = root.into();
        helper(&fixture, NAMES[0], &["-f"])
            .exits(1)
            .says("root directory");
    }
    let fixture = Fixture::new(&sample());
    helper(&fixture, NAMES[0], &["-w"])
        .exits(0)
        .says("read-only");
    let line = mount_lines(&fixture.point).concat().join(" ");
    assert!(line.contains(" ro,"), "{line}");
}

#[test]
fn with_a_namespace_it_mounts_there_and_not_here() {
    needs_fuse!();
    with_helpers(|kind| {
        let fixture = Fixture::new(&sample());
        // It begins with a copy of every mount, which would keep other tests' servers.
        let mut other = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .args(["umount -a -t fuse.lbpayload; echo there; exec sleep 1000"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        std::io::Read::read_exact(&mut other.stdout.take().unwrap(), &mut said).unwrap();
        let pid = other.id().to_string();
        let mut mount = Command::new("mount");
        mount.args(["-N", &pid, "-t", kind]);
        check(mount.arg(&fixture.image).arg(&fixture.point));
        assert!(!is_mounted(&fixture.point));
        let within = |words: &[&str]| {
            let mut command = Command::new("nsenter");
            command.args(["--mount", "--target", &pid]).args(words);
            check(command.arg(&fixture.point))
        };
        assert!(within(&["ls"]).contains("z-first"));
        within(&["umount"]);
        fixture.is_clean();
        other.kill().unwrap();
        other.wait().unwrap();
    });
}
