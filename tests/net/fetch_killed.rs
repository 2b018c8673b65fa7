//! `lbpayload fetch`, killed at random moments and run again.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::fixture::{Files, Place, json};
use crate::server::{After, Server, head};
use crate::support::Ran;

/// The number of runs that are killed. `LBPAYLOAD_KILLS` sets another.
fn kills() -> u64 {
    let set = std::env::var("LBPAYLOAD_KILLS").ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(16)
}

#[test]
fn a_killed_fetch_leaves_no_wrong_file_and_fetches_little_twice() {
    let place = Place::new(&Files::new(8, 1_000_000));
    let total: u64 = place.files.iter().map(|(_, data)| data.len() as u64).sum();
    let sent = Arc::new(AtomicU64::new(0));
    let (files, count) = (place.files.clone(), Arc::clone(&sent));
    // Slow enough that most of what is sent has been read.
    let server = Server::start(move |request, out| {
        let body = files.of(request).unwrap();
        let first = request.range().map_or(0, |(first, _)| first);
        let rest = &body[first..];
        let length = format!("Content-Length: {}\r\n", rest.len());
        match first {
            0 => head(out, "200 OK", &length)?,
            _ => {
                let (last, all) = (body.len() - 1, body.len());
                let range = format!("Content-Range: bytes {first}-{last}/{all}\r\n");
                head(out, "206 Partial Content", &(length + &range))?;
            }
        }
        for piece in rest.chunks(8192) {
            out.write_all(piece)?;
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(After::KeepOpen)
    });
    let mut state = 12345_u64;
    let mut interrupted = 0;
    for round in 0..kills() {
        let mut command = place.fetch_from(&[&server.url("/")], &["-q"]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_millis(20 + (state >> 33) % 60));
        // Every third time as Ctrl-C does.
        let signal = if round % 3 == 0 {
            nix::libc::SIGINT
        } else {
            nix::libc::SIGKILL
        };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal).unwrap()).unwrap();
        let status = child.wait().unwrap();
        interrupted += u64::from(status.signal() == Some(signal));
        assert!(place.has_nothing_wrong(), "round {round}");
    }
    assert!(
        interrupted * 2 > kills(),
        "{interrupted} of {} were killed",
        kills()
    );
    let report = json(&mut place.fetch_from(&[&server.url("/")], &[]), 0);
    place.has_all();
    let twice = sent.load(Ordering::Relaxed).saturating_sub(total);
    assert!(
        twice * 20 < total,
        "{twice} of {total} bytes were sent twice, {report}"
    );
}

#[test]
fn ctrl_c_ends_a_fetch_that_waits_for_a_silent_server() {
    let place = Place::new(&Files::new(3, 100));
    let files = place.files.clone();
    let server = Server::start(move |request, out| {
        // A fetch that has not ended by then leaves what it gets now.
        std::thread::sleep(Duration::from_secs(20));
        files.answer(request, out)
    });
    let mut command = place.fetch_from(&[&server.url("/")], &["--stall-timeout", "3600"]);
    let child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    while server.requests().len() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.signal(), Some(nix::libc::SIGINT));
    assert!(String::from_utf8_lossy(&out.stderr).contains("interrupted"));
    // Nothing came, so nothing is left.
    assert_eq!(std::fs::read_dir(place.dest()).unwrap().count(), 0);
    let good = place.files.serve();
    Ran::of(&mut place.fetch_from(&[&good.url("/")], &[])).exits(0);
    place.has_all();
}
