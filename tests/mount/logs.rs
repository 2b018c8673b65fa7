//! What the server in the background says, and to whom.

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::process::Signal;

use crate::fixture::{Fixture, cannot_mount, data_offset, is_running, kill, sample, until};
use crate::ordinary_user::{script, unavailable};
use crate::support::{Ran, lbpayload};

/// Truncates the image in the middle of the file `large`, and reads that file.
fn cut_and_read(fixture: &Fixture) {
    let cut = data_offset(&sample(), "large") + 1_000_000;
    let image = std::fs::OpenOptions::new().write(true).open(&fixture.image);
    image.unwrap().set_len(cut).unwrap();
    let file = std::fs::File::open(fixture.file("large")).unwrap();
    for _ in 0..3 {
        assert!(file.read_exact_at(&mut [0; 100_000], 2_000_000).is_err());
    }
}

#[test]
fn log_file_gets_each_read_error_once_with_name_offset_and_cause() {
    needs_fuse!();
    for background in [true, false] {
        let fixture = Fixture::new(&sample());
        let log = fixture.dir().join("log");
        std::fs::write(&log, "what was there\n").unwrap();
        let option = format!("log={}", log.display());
        let args = ["-o", &*option];
        let mut server = None;
        if background {
            fixture.mounted(&args);
        } else {
            server = Some(fixture.foreground(&args));
        }
        cut_and_read(&fixture);
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "what was there");
        let errors: Vec<_> = lines.iter().filter(|l| l.contains("error:")).collect();
        assert_eq!(errors.len(), 1, "{text}");
        for part in [
            "lbpayload[",
            "`large`",
            "the source ends here",
            "at offset ",
        ] {
            assert!(errors[0].contains(part), "{part}: {text}");
        }
        fixture.unmount(&[]).exits(0);
        if let Some(server) = &mut server {
            assert_eq!(server.ends(), 0);
        }
        fixture.is_clean();
    }
}

#[test]
fn log_file_that_cannot_be_written_is_an_error_and_nothing_is_mounted() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    for log in [
        "/nonexistent/log",
        fixture.dir().to_str().unwrap(),
        "/dev/log.txt",
    ] {
        let ran = fixture.mount(&["-o", &format!("log={log}")]).exits(1);
        ran.says(log);
    }
    fixture.is_clean();
}

#[test]
fn debug_logs_requests_and_stays_in_the_background() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let log = fixture.dir().join("log");
    fixture.mounted(&["-o", &format!("debug,log={}", log.display())]);
    assert!(!fixture.file("no-such-name").exists());
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("LOOKUP") && text.contains("no-such-name"),
        "{text}"
    );
    fixture.unmount(&[]).exits(0);
    fixture.is_clean();
}

#[test]
fn d_stays_in_the_foreground_and_logs_to_standard_error() {
    needs_fuse!();
    let fixture = Fixture::new(&sample());
    let mut command = lbpayload();
    command
        .args(["mount", "-d", "-s"])
        .arg(&fixture.image)
        .arg(&fixture.point);
    let mut server = crate::fixture::Foreground::start(&mut command, &fixture.point);
    fixture.unmount(&[]).exits(0);
    assert_eq!(server.ends(), 0);
    let mut said = String::new();
    let stderr = server.0.stderr.as_mut().unwrap();
    std::io::Read::read_to_string(stderr, &mut said).unwrap();
    assert!(said.contains("INIT"), "{said}");
    fixture.is_clean();
}

/// The test is the system's log: its socket is mounted over /dev/log, in a mount namespace.
#[test]
fn background_server_logs_to_syslog() {
    if cannot_mount() || unavailable() {
        return;
    }
    let fixture = Fixture::new(&sample());
    let socket = UnixDatagram::bind(fixture.dir().join("syslog")).unwrap();
    let cut = data_offset(&sample(), "large") + 1000;
    let out = script(
        &fixture,
        "",
        &r#"
        mkdir "$dir/ns/dev"
        mount -t tmpfs none "$dir/ns/dev"
        for node in null fuse; do cp -a "/dev/$node" "$dir/ns/dev/"; done
        touch "$dir/ns/dev/log"
        mount --bind "$dir/syslog" "$dir/ns/dev/log"
        mount --rbind "$dir/ns/dev" /dev
        "$lb" mount "$image" "$point"
        truncate -s CUT "$image"
        cat "$point/large" >/dev/null 2>&1 || echo failed
        umount "$point"
        "#
        .replace("CUT", &cut.to_string()),
    );
    assert_eq!(out, "failed\n");
    let mut message = [0; 4096];
    let n = socket.recv(&mut message).unwrap();
    let message = String::from_utf8_lossy(&message[..n]);
    // daemon.err
    assert!(message.starts_with("<27>lbpayload["), "{message}");
    assert!(
        message.contains("]: error: could not read `large`"),
        "{message}"
    );
    socket.set_nonblocking(true).unwrap();
    let mut rest = 0;
    while let Ok(n) = socket.recv(&mut [0; 4096]) {
        rest += usize::from(n > 0);
    }
    assert_eq!(rest, 0, "the error is logged once");
}

fn notified(socket: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let n = socket.recv(&mut message).unwrap();
    String::from_utf8_lossy(&message[..n]).into_owned()
}

fn with_socket(dir: &Path, args: &[&str], image: &Path, point: &Path) -> std::process::Command {
    let mut command = lbpayload();
    command
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .arg("mount")
        .args(args);
    command.arg(image).arg(point);
    command
}

#[test]
fn service_manager_is_told_when_the_mount_answers() {
    needs_fuse!();
    for foreground in [true, false] {
        let fixture = Fixture::new(&sample());
        let socket = UnixDatagram::bind(fixture.dir().join("notify")).unwrap();
        let args: &[&str] = if foreground { &["-f"] } else { &[] };
        let mut command = with_socket(fixture.dir(), args, &fixture.image, &fixture.point);
        let mut server = None;
        if foreground {
            let child = command.spawn().unwrap();
            server = Some(crate::fixture::Foreground(child));
        } else {
            Ran::of(&mut command).exits(0);
        }
        let told = notified(&socket);
        assert_eq!(std::fs::read(fixture.file("z-first")).unwrap(), b"hello");
        let pid = fixture.server();
        assert!(told.contains("READY=1\n"), "{told}");
        assert!(told.contains(&format!("MAINPID={pid}\n")), "{told}");
        let status = format!("STATUS=Serving {}", fixture.point.display());
        assert!(told.contains(&status), "{told}");
        kill(pid, Signal::TERM);
        if let Some(server) = &mut server {
            assert_eq!(server.ends(), 0);
        }
        until("the server ends", || !is_running(pid));
        fixture.is_clean();
    }
}
