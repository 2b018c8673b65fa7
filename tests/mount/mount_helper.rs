//! The program as a helper of mount(8), for fstab.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Fixture, called, is_mounted, mount_lines, sample, until};
use crate::support::{Lacks, Ran, check, skip, tree};

const NAMES: [&str; 2] = ["mount.lbpayload", "mount.fuse.lbpayload"];

/// A symbolic link in /sbin, where mount(8) looks for its helpers. It exists only
/// while a test runs, and only if the name was free.
struct Helper(PathBuf);

impl Helper {
    fn install(name: &str) -> Option<Self> {
        let path = Path::new("/sbin").join(name);
        match std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lbpayload"), &path) {
            Ok(()) => Some(Self(path)),
            Err(e) => {
                // It is installed on this machine, or another run of the tests uses
                // it.
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

/// Both names, one after the other: mount(8) looks for them in one directory for the
/// whole machine.
pub(crate) fn with_helpers(test: impl Fn(&str)) {
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
fn mount_finds_the_helper_and_passes_its_options() {
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
            until("the server ends", || !crate::fixture::is_running(server));
            fixture.is_clean();
        }
    });
}

#[test]
fn mount_a_mounts_an_fstab_line_only_once() {
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
                assert_eq!(lines.len(), 1, "mount -a must not mount it again");
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
fn mount_shows_the_error_of_the_helper_and_fails() {
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
fn helper_accepts_all_options_of_mount_under_both_names() {
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
fn unknown_options_are_refused_or_with_s_cause_a_warning() {
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
    assert_eq!(uid, 7, "options after an unknown option must be used");
}

#[test]
fn f_only_checks_and_w_warns_that_the_mount_is_read_only() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    helper(&fixture, NAMES[0], &["-f"]).exits(0);
    helper(&fixture, NAMES[0], &["-fnv", "-o", "ro"]).exits(0);
    assert!(!is_mounted(&fixture.point));
    helper(&fixture, NAMES[0], &["-f", "-o", "nope"]).exits(2);
    // -f fails where a real mount would fail.
    std::fs::write(&fixture.image, b"no payload").unwrap();
    helper(&fixture, NAMES[0], &["-f"])
        .exits(1)
        .says("not a payload");
    let mut fixture = Fixture::new(&sample());
    fixture.point = fixture.dir().join("missing");
    helper(&fixture, NAMES[0], &["-f"]).exits(0);
    assert!(
        !fixture.point.exists(),
        "-f must not create the mount point"
    );
    for point in [fixture.dir().join("missing/too"), fixture.image.clone()] {
        fixture.point = point;
        helper(&fixture, NAMES[0], &["-f"])
            .exits(1)
            .says(&format!("`{}`", fixture.point.display()));
    }
    // The mount would be invisible, and its unmount would unmount the root
    // filesystem.
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
fn namespace_option_mounts_only_in_that_namespace() {
    needs_fuse!();
    with_helpers(|kind| {
        let fixture = Fixture::new(&sample());
        // The namespace starts with a copy of every mount, which would keep the
        // servers of other tests busy.
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

/// What a shutdown does with each mount that it cannot unmount.
#[test]
fn mount_remounts_a_payload_read_only() {
    needs_fuse!();
    with_helpers(|kind| {
        let fixture = Fixture::new(&sample());
        let mut mount = Command::new("mount");
        mount.args(["-t", kind, "-o", "allow_other"]);
        check(mount.arg(&fixture.image).arg(&fixture.point));
        for options in ["remount,ro", "remount,ro,noexec"] {
            if kind == "fuse.lbpayload" {
                check(
                    Command::new("mount")
                        .args(["-o", options])
                        .arg(&fixture.point),
                );
            }
            assert_eq!(mount_lines(&fixture.point).len(), 1);
        }
        assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
        fixture.unmount(&[]).exits(0);
        fixture.is_clean();
    });
}
