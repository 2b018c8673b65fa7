//! `lbpayload fetch` keeps no file in memory.

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::fixture::{Files, Place};
use crate::server::{After, Server, head};
use crate::url::command;

/// The size of each file, and the memory that all of them together may take.
const LEN: usize = 96 << 20;
const LIMIT: usize = 64 << 20;

/// The most memory that a process has had until now, in bytes.
fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[test]
fn the_memory_of_fetch_does_not_grow_with_the_files() {
    // Two files of 96 MiB of zeros. Their checksum is that of `head -c 96M /dev/zero`.
    let sum = "425382d5857f04fc49585cabbdef6fc647472ee26f52c54caaaeaad17320b3f8";
    let place = Place::new(&Files::new(0, 0));
    let pid = Arc::new(AtomicU32::new(0));
    let peaks = Arc::new(Mutex::new(Vec::new()));
    let (known, seen) = (Arc::clone(&pid), Arc::clone(&peaks));
    let server = Server::start(move |_, out| {
        head(out, "200 OK", &format!("Content-Length: {LEN}\r\n"))?;
        let piece = vec![0; 1 << 20];
        for _ in 0..LEN / piece.len() - 1 {
            out.write_all(&piece)?;
        }
        // All but the last piece has been read, or is in the buffers of the socket.
        seen.lock()
            .unwrap()
            .push(peak(known.load(Ordering::SeqCst)));
        out.write_all(&piece)?;
        Ok(After::KeepOpen)
    });
    let list = place.temp.path().join("list");
    let line = |name: &str| format!("{} {sum} {name}\n", server.url(&format!("/{name}")));
    std::fs::write(&list, line("a") + &line("b")).unwrap();
    let mut child = command(&["-q", "fetch", "--list"])
        .arg(&list)
        .arg("--dest")
        .arg(place.dest())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    pid.store(child.id(), Ordering::SeqCst);
    assert!(child.wait().unwrap().success());
    let peaks = peaks.lock().unwrap();
    assert_eq!(peaks.len(), 2);
    assert!(peaks.iter().all(|peak| *peak < LIMIT), "{peaks:?}");
}
