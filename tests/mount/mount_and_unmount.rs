//! The commands `mount` and `unmount`, and the server between them.

use std::fs::File;
use std::process::Command;

use rustix::process::Signal;

use crate::fixture::{
    Fixture, Foreground, attribute, called, catches, is_mounted, is_running, kill, mount_lines,
    sample, sh, until,
};
use crate::support::{Ran, check, lbpayload, noise, tree};

#[test]
fn mount_returns_when_the_mount_is_ready_and_leaves_one_process() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
    let server = fixture.server();
    let users = crate::fixture::users_of(fixture.dir());
    assert_eq!(users.len(), 1, "{users:?}");
    assert!(users[0].starts_with(&format!("{server}: ")), "{users:?}");
    // It has released the terminal, the working directory and the standard streams.
    let cwd = std::fs::read_link(format!("/proc/{server}/cwd")).unwrap();
    assert_eq!(cwd.to_str(), Some("/"));
    for fd in 0..3 {
        let open = std::fs::read_link(format!("/proc/{server}/fd/{fd}")).unwrap();
        assert_eq!(open.to_str(), Some("/dev/null"));
    }
    let session = sh("ps", &[&"-o", &"sid=", &"-p", &server.to_string()]);
    assert_eq!(session.trim(), server.to_string());
}

#[test]
fn output_is_closed_when_the_mount_command_returns() {
    needs_fuse!();
    for options in ["exec", "auto_unmount"] {
        let fixture = Fixture::new(&sample());
        // output() waits for the end of both pipes: no background process may hold
        // them.
        fixture.mounted(&["-o", options]);
        fixture.unmount(&[]).exits(0);
        fixture.is_clean();
    }
}

#[test]
fn server_keeps_no_files_of_its_caller_open() {
    needs_fuse!();
    for without_proc in ["", "mount -t tmpfs none /proc && "] {
        let fixture = Fixture::new(&sample());
        // A lock is held until the last process closes the file.
        let script = format!(
            "{without_proc} exec 9>\"$3\" && flock 9 && \
             \"$0\" mount --ready-fd 8 \"$1\" \"$2\" 8>&1 && \
             exec 9>&- && flock --nonblock \"$3\" echo free; \"$0\" unmount \"$2\""
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, env!("CARGO_BIN_EXE_lbpayload")]);
        let lock = fixture.dir().join("lock");
        let ran = Ran::of(command.arg(&fixture.image).arg(&fixture.point).arg(lock));
        // The line feed of --ready-fd may come at any time.
        assert_eq!(ran.exits(0).stdout.trim(), "free", "{without_proc}");
    }
}

#[test]
fn output_is_closed_when_the_mount_command_returns_without_dev_null() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    // In a mount namespace of its own, with only /dev/fuse in /dev.
    let script = "mount -t tmpfs none /dev && mknod /dev/fuse c 10 229 && \
                  \"$1\" mount \"$2\" \"$3\" | cat && \"$1\" unmount \"$3\"";
    let mut command = Command::new("timeout");
    command.args(["60", "unshare", "-m", "sh", "-c", script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_lbpayload"));
    Ran::of(command.arg(&fixture.image).arg(&fixture.point)).exits(0);
    fixture.is_clean();
}

#[test]
fn unmount_returns_after_the_server_has_ended() {
    needs_fuse!();
    for options in ["exec", "auto_unmount"] {
        let fixture = Fixture::new(&sample());
        fixture.mounted(&["-o", options]);
        let server = fixture.server();
        let ran = fixture.unmount(&[]).exits(0);
        assert!(!is_running(server));
        assert!(!is_mounted(&fixture.point));
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
        assert_eq!(tree(&fixture.point), []);
        fixture.is_clean();
    }
}

#[test]
fn missing_mount_point_is_created_and_removed_again() {
    needs_fuse!();
    type Way = fn(&std::path::Path);
    let ways: [Way; 3] = [
        |point| drop(Ran::when_free(lbpayload().arg("unmount").arg(point)).exits(0)),
        |point| drop(check(Command::new("umount").arg(point))),
        |point| drop(check(Command::new("fusermount3").arg("-u").arg(point))),
    ];
    for unmount in ways {
        let mut fixture = Fixture::new(&sample());
        fixture.point = fixture.dir().join("made");
        fixture.mounted(&[]);
        unmount(&fixture.point);
        until("it is removed", || !fixture.point.exists());
        fixture.is_clean();
    }
    // An existing mount point is not removed.
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    fixture.unmount(&[]).exits(0);
    assert!(fixture.point.is_dir());
}

#[test]
fn mount_point_may_be_relative_or_behind_a_symbolic_link() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let link = fixture.dir().join("link");
    std::os::unix::fs::symlink("point", &link).unwrap();
    for (mount, unmount) in [
        ("point", "link"),
        ("link", "point/"),
        ("./point/../point", "./link"),
        ("link/", "link/"),
        ("new", "new"),
    ] {
        let run = |args: &[&str]| {
            let mut command = lbpayload();
            Ran::when_free(command.args(args).current_dir(fixture.dir())).exits(0)
        };
        run(&["mount", "external.img", mount]);
        assert_eq!(
            std::fs::read(fixture.dir().join(mount).join("z-first")).unwrap(),
            b"hello"
        );
        run(&["unmount", unmount]);
        assert!(!is_mounted(&fixture.point), "{mount} {unmount}");
    }
    // A user who reads this path in another directory can find the image.
    let mut command = lbpayload();
    command.args(["mount", "external.img", "point"]);
    Ran::of(command.current_dir(fixture.dir())).exits(0);
    let image = fixture.image.canonicalize().unwrap();
    let image = image.to_str().unwrap();
    let line = &mount_lines(&fixture.point)[0];
    assert!(line.iter().any(|field| field == image), "{line:?}");
    assert_eq!(attribute(&fixture.point, "source").as_deref(), Ok(image));
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}

#[test]
fn failing_mount_gives_a_reason_and_leaves_nothing_behind() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let file = fixture.dir().join("file");
    std::fs::write(&file, b"").unwrap();
    let short = fixture.dir().join("short.img");
    std::fs::write(&short, &sample().bytes()[..1_000_000]).unwrap();
    let other = fixture.dir().join("other.img");
    std::fs::write(&other, noise(1, 5000)).unwrap();
    let made = fixture.dir().join("made");
    let missing = fixture.dir().join("missing");
    let under = missing.join("under");
    let long = fixture.dir().join("x".repeat(300));
    let before = tree(fixture.dir());
    for background in [true, false] {
        for (source, point, reason) in [
            (&fixture.image, &file, "found a regular file"),
            (&fixture.image, &under, "No such file or directory"),
            (&fixture.image, &long, "File name too long"),
            (&fixture.dir().to_path_buf(), &made, "directory"),
            (&missing, &made, "No such file or directory"),
            (&short, &made, "--lenient"),
            (&other, &made, "not a payload"),
        ] {
            let args: &[&str] = if background { &[] } else { &["-f"] };
            let ran = fixture.mount_on(args, source, point).exits(1).says(reason);
            assert!(
                ran.stderr.starts_with("lbpayload: error: "),
                "{}",
                ran.stderr
            );
            assert_eq!(ran.stdout, "");
            assert!(tree(fixture.dir()) == before, "{reason}");
            fixture.is_clean();
        }
    }
}

#[test]
fn mount_refused_by_the_kernel_leaves_no_directory_and_no_process() {
    needs_fuse!();
    let mut fixture = Fixture::new(&sample());
    fixture.point = fixture.dir().join("made");
    // A name that is too long for mount(2).
    let name = format!("fsname={}", "x".repeat(5000));
    for options in [name.clone(), format!("auto_unmount,{name}")] {
        for foreground in [&[][..], &["-f"]] {
            let args = [foreground, &["-o", &options]].concat();
            let point = format!("`{}`", fixture.point.display());
            let ran = fixture.mount(&args).exits(1).says(&point);
            assert!(!fixture.point.exists(), "{}", ran.stderr);
            fixture.is_clean();
        }
    }
}

#[test]
fn missing_dev_fuse_is_reported_with_advice() {
    needs_fuse!();
    let mut fixture = Fixture::new(&sample());
    fixture.point = fixture.dir().join("made");
    // In a mount namespace of its own, where an empty /dev covers the real one.
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_lbpayload")).arg("mount");
    let ran = Ran::of(command.arg(&fixture.image).arg(&fixture.point)).exits(1);
    let ran = ran.says("`/dev/fuse`: No such file or directory");
    ran.says("lbpayload: help: ").says("modprobe fuse");
    assert!(!fixture.point.exists());
    fixture.is_clean();
}

#[test]
fn advice_for_too_many_open_files_does_not_mention_modprobe() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let whose = "`/dev/fuse`: Too many open files";
    // Tries file limits from low to high. The first limit with which the program gets
    // this far does not allow it to open /dev/fuse.
    let said = (4..20).find_map(|files| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n $0; exec \"$@\""]);
        command.arg(files.to_string());
        command.arg(env!("CARGO_BIN_EXE_lbpayload")).arg("mount");
        let ran = Ran::of(command.arg(&fixture.image).arg(&fixture.point));
        ran.stderr.contains(whose).then_some(ran.stderr)
    });
    let said = said.unwrap();
    assert!(!said.contains("modprobe"), "{said}");
    assert!(said.contains("ulimit -n"), "{said}");
    fixture.is_clean();
}

#[test]
fn unmount_refuses_a_busy_mount_and_lazy_detaches_it() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let server = fixture.server();
    let file = File::open(fixture.file("large")).unwrap();
    fixture
        .unmount_in_use(&[])
        .exits(1)
        .says("busy")
        .says("--lazy");
    assert!(is_mounted(&fixture.point) && is_running(server));
    fixture.unmount_in_use(&["--lazy"]).exits(0);
    assert!(!is_mounted(&fixture.point) && is_running(server));
    assert_eq!(tree(&fixture.point), []);
    // A process that has the file open can still read it.
    let mut last = [0; 10];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, 2_400_000).unwrap();
    assert_eq!(last, noise(1, 2_500_001)[2_400_000..2_400_010]);
    drop(file);
    until("the server ends", || !is_running(server));
    fixture.is_clean();
}

#[test]
fn unmount_refuses_other_filesystems() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    std::fs::write(fixture.point.join("file"), b"mine").unwrap();
    let nothing = fixture
        .unmount(&[])
        .exits(1)
        .says("no payload is mounted there");
    assert!(nothing.stderr.contains(fixture.point.to_str().unwrap()));
    check(
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&fixture.point),
    );
    for args in [&[][..], &["--lazy"]] {
        fixture
            .unmount(args)
            .exits(1)
            .says("no payload is mounted there");
        assert!(is_mounted(&fixture.point));
    }
    check(Command::new("umount").arg(&fixture.point));
    let missing = fixture.dir().join("missing");
    let ran = Ran::when_free(lbpayload().arg("unmount").arg(&missing)).exits(1);
    ran.says(&format!("`{}`", missing.display()));
    fixture.mounted(&[]);
    let file = fixture.file("medium");
    let ran = Ran::when_free(lbpayload().arg("unmount").arg(&file)).exits(1);
    ran.says("no payload is mounted there");
    assert!(is_mounted(&fixture.point));
    fixture.unmount(&[]).exits(0);
    assert_eq!(std::fs::read(fixture.point.join("file")).unwrap(), b"mine");
}

#[test]
fn two_mounts_on_one_directory_are_unmounted_one_by_one() {
    needs_fuse!();
    let mut fixture = Fixture::new(&sample());
    fixture.point = fixture.dir().join("made");
    fixture.mounted(&[]);
    let first = fixture.server();
    fixture.mounted(&["-o", "fsname=second"]);
    let second = fixture.server();
    assert_ne!(first, second);
    assert_eq!(mount_lines(&fixture.point).len(), 2);
    fixture.unmount(&[]).exits(0);
    assert!(is_running(first) && !is_running(second));
    assert_eq!(fixture.server(), first);
    assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
    fixture.unmount(&[]).exits(0);
    assert!(!is_running(first));
    assert!(!fixture.point.exists());
}

#[test]
fn image_can_be_mounted_several_times_and_a_mount_can_contain_an_image() {
    needs_fuse!();
    let inner = sample();
    let fixture = Fixture::new(&crate::support::Image::new(&[(
        "inner.img",
        &inner.bytes(),
    )]));
    fixture.mounted(&[]);
    let (again, nested) = (fixture.dir().join("again"), fixture.dir().join("nested"));
    fixture.mount_on(&[], &fixture.image, &again).exits(0);
    fixture
        .mount_on(&[], &fixture.file("inner.img"), &nested)
        .exits(0);
    assert_eq!(
        std::fs::read(nested.join("medium")).unwrap(),
        noise(2, 70_003)
    );
    fixture.unmount_in_use(&[]).exits(1).says("busy");
    for point in [&nested, &again, &fixture.point] {
        Ran::when_free(lbpayload().arg("unmount").arg(point)).exits(0);
    }
    fixture.is_clean();
}

#[test]
fn foreground_server_runs_until_the_unmount() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mut server = fixture.foreground(&[]);
    assert_eq!(fixture.server(), server.pid());
    assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
    check(Command::new("umount").arg(&fixture.point));
    assert_eq!(server.ends(), 0);
    fixture.is_clean();
}

#[test]
fn ready_fd_gets_a_line_when_the_mount_is_ready_and_is_closed() {
    needs_fuse!();
    for how in ["", "-f", "-o auto_unmount", "-f -o auto_unmount"] {
        let fixture = Fixture::new(&sample());
        // cat ends at the end of the pipe. If a process kept the pipe open, the test
        // would hang.
        let end = if how.contains("-f") { "&" } else { ";" };
        let script = format!(
            "{{ \"$0\" mount --ready-fd 7 $4 \"$1\" \"$2\" 7>&1 >/dev/null 2>&1 {end} }} | \
             {{ cat; cat \"$3\"; }}"
        );
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "30", "sh", "-c", &script]);
        command.arg(env!("CARGO_BIN_EXE_lbpayload"));
        command.arg(&fixture.image).arg(&fixture.point);
        let out = check(command.arg(fixture.file("z-first")).arg(how));
        assert_eq!(out, "\nhello", "{how}");
        fixture.unmount(&[]).exits(0);
        fixture.is_clean();
    }
}

#[test]
fn ready_fd_gets_nothing_when_the_mount_fails() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let script = "exec \"$0\" mount --ready-fd 7 \"$1\" \"$2\" 7>&1 >/dev/null";
    for (image, status) in [("/nonexistent", 1), ("/dev/null", 1)] {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_lbpayload"), image]);
        let ran = Ran::of(command.arg(&fixture.point)).exits(status);
        assert_eq!(ran.stdout, "");
    }
    for bad in ["0", "2", "999", "-1", "x"] {
        let ran = fixture.mount(&["--ready-fd", bad]).exits(2);
        assert!(ran.stderr.contains(bad), "{}", ran.stderr);
        assert!(!is_mounted(&fixture.point));
    }
    let script = "exec \"$0\" mount --ready-fd 7 \"$1\" \"$2\" 7</dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_lbpayload")]);
    let ran = Ran::of(command.arg(&fixture.image).arg(&fixture.point)).exits(2);
    ran.says("descriptor 7").says("open for writing");
    assert!(!is_mounted(&fixture.point));
}

#[test]
fn mount_works_on_a_terminal_with_progress() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let program = env!("CARGO_BIN_EXE_lbpayload");
    let (image, point) = (fixture.image.display(), fixture.point.display());
    let line = format!("{program} mount {image} {point}");
    sh("script", &[&"-qec", &line, &"/dev/null"]);
    assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
    fixture.unmount(&[]).exits(0);
    Ran::of(
        lbpayload()
            .args(["--progress", "json", "mount"])
            .arg(&fixture.image)
            .arg(&fixture.point),
    )
    .exits(0);
    fixture.unmount(&[]).exits(0);
}

#[test]
fn signals_are_handled_as_soon_as_the_command_has_returned() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    fixture.mounted(&[]);
    let server = fixture.server();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        assert!(catches(server, signal));
    }
    kill(server, Signal::TERM);
    until("the server ends", || !is_running(server));
    fixture.is_clean();
    let mut command = called("lbpayload");
    command
        .args(["mount", "-f"])
        .arg(&fixture.image)
        .arg(&fixture.point);
    drop(Foreground::start(&mut command, &fixture.point));
}

#[test]
fn unmount_does_not_wait_for_a_server_in_another_pid_namespace() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    // The first process of the namespace keeps running, and so does the namespace.
    let script = "\"$0\" mount \"$1\" \"$2\" && echo mounted && exec sleep 1000";
    let mut namespace = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "sh", "-c", script])
        .arg(env!("CARGO_BIN_EXE_lbpayload"))
        .args([&fixture.image, &fixture.point])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 8];
    std::io::Read::read_exact(&mut namespace.stdout.take().unwrap(), &mut said).unwrap();
    // Here the number belongs to another process. Waiting for that process would
    // never end.
    let mut unmount = Command::new("timeout");
    unmount.arg("60").arg(env!("CARGO_BIN_EXE_lbpayload"));
    let ran = Ran::when_free(unmount.arg("unmount").arg(&fixture.point)).exits(0);
    ran.says("of another PID namespace");
    assert!(!is_mounted(&fixture.point));
    namespace.kill().unwrap();
    namespace.wait().unwrap();
}
