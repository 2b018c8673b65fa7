//! `mount` of a payload behind a URL.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::server::{After, Server, good, send};
use crate::support::{Image, Ran, cannot_use, lbpayload, noise};

/// A mount that is unmounted on drop.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(url: &str, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = lbpayload();
        command.arg("mount").args(options).arg(url).arg(dir.path());
        Ran::of(&mut command).exits(0);
        Self(dir)
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Ran::when_free(lbpayload().arg("unmount").arg(self.0.path()));
    }
}

fn image() -> Image {
    let file = |n: u64| (format!("f{n:02}").into_bytes(), noise(n, 700_000));
    Image {
        wide: true,
        files: (0..20).map(file).collect(),
    }
}

#[test]
fn mount_shows_a_url_after_reading_only_headers_and_hides_its_query() {
    if cannot_use("/dev/fuse", "no FUSE") {
        return;
    }
    let image = image();
    let sent = Arc::new(AtomicUsize::new(0));
    let (bytes, count) = (image.bytes(), Arc::clone(&sent));
    let server = Server::start(move |request, out| {
        let (first, last) = request.range().unwrap();
        count.fetch_add(
            last.unwrap().min(bytes.len() - 1) - first + 1,
            Ordering::SeqCst,
        );
        good(request, out, &bytes)
    });
    let mounted = Mounted::new(&server.url("/external.img?sig=hunter2"), &[]);
    assert_eq!(std::fs::read_dir(mounted.0.path()).unwrap().count(), 20);
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent <= 21 * 16 * 1024, "{sent} bytes");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(mounts.contains(&server.url("/external.img")), "{mounts}");
    assert!(!mounts.contains("hunter2"));
    for (name, data) in &image.files {
        let path = mounted.at(std::str::from_utf8(name).unwrap());
        assert!(std::fs::read(path).unwrap() == *data);
    }
    // Read in order, nothing is fetched much more often than once.
    assert!(
        server.requests().len() < 20 * 3,
        "{} requests",
        server.requests().len()
    );
}

#[test]
fn announced_reads_are_made_together() {
    use lbpayload::block::{AlignedBuf, Source};
    use lbpayload::net::{HttpOptions, HttpSource};
    let bytes = image().bytes();
    let expected = bytes.clone();
    let server = Server::start(move |request, out| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        good(request, out, &bytes)
    });
    let source = HttpSource::open(&server.url("/x"), HttpOptions::default()).unwrap();
    let offsets = || (1..20).map(|n| n * 700_000);
    offsets().for_each(|offset| source.will_read(offset, 300));
    let mut buf = AlignedBuf::new(4096).unwrap();
    for offset in offsets() {
        let n = source.read_at(&mut buf[..300], offset).unwrap();
        assert_eq!(buf[..n], expected[offset as usize..][..n]);
    }
    assert!(server.most_at_once() > 2, "{}", server.most_at_once());
    // Each was asked for once.
    assert_eq!(server.requests().len(), 20);
}

#[test]
fn mount_with_an_index_shows_the_files() {
    if cannot_use("/dev/fuse", "no FUSE") {
        return;
    }
    let bytes = image().bytes();
    let server = Server::start(move |request, out| good(request, out, &bytes));
    let temp = tempfile::tempdir().unwrap();
    let index = temp.path().join("index");
    let options = ["--index", index.to_str().unwrap()];
    drop(Mounted::new(&server.url("/x"), &options));
    let mounted = Mounted::new(&server.url("/x"), &options);
    assert_eq!(std::fs::metadata(mounted.at("f19")).unwrap().len(), 700_000);
}

#[test]
fn mount_in_the_background_waits_for_what_is_read_ahead() {
    if cannot_use("/dev/fuse", "no FUSE") {
        return;
    }
    // Many small files: the walk reads everything in order, and what is read ahead of it, behind
    // the payload, comes late.
    let file = |n: usize| (format!("f{n:04}").into_bytes(), noise(n as u64, 1000));
    let image = Image {
        wide: true,
        files: (0..4000).map(file).collect(),
    };
    let mut bytes = image.bytes();
    let end = bytes.len();
    bytes.resize(end + 8_000_000, 0);
    let server = Server::start(move |request, out| {
        if request.range().unwrap().0 > end {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        good(request, out, &bytes)
    });
    let mounted = Mounted::new(&server.url("/x"), &[]);
    let late = |request: &crate::server::Request| request.range().unwrap().0 > end;
    assert!(server.requests().iter().any(late), "nothing was read ahead");
    assert_eq!(
        std::fs::read(mounted.at("f3999")).unwrap(),
        image.files[3999].1
    );
}

#[test]
fn mount_heals_a_protected_payload_behind_a_url() {
    if cannot_use("/dev/fuse", "no FUSE") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (input, image) = (temp.path().join("in"), temp.path().join("image"));
    std::fs::create_dir(&input).unwrap();
    let data = noise(3, 3_000_000);
    std::fs::write(input.join("file"), &data).unwrap();
    let mut pack = lbpayload();
    pack.args(["pack", "--protect", "-o"])
        .arg(&image)
        .arg(&input);
    Ran::of(&mut pack).exits(0);
    let mut bytes = std::fs::read(&image).unwrap();
    for byte in &mut bytes[1_000_000..1_000_100] {
        *byte ^= 0xff;
    }
    let server = Server::start(move |request, out| good(request, out, &bytes));
    let mounted = Mounted::new(&server.url("/x"), &[]);
    assert!(std::fs::read(mounted.at("file")).unwrap() == data);
}

#[test]
fn a_server_that_goes_away_gives_eio_and_its_answer_in_the_problem_attribute() {
    if cannot_use("/dev/fuse", "no FUSE") {
        return;
    }
    let image = image();
    let (bytes, gone) = (image.bytes(), Arc::new(AtomicBool::new(false)));
    let is_gone = Arc::clone(&gone);
    let server = Server::start(move |request, out| match is_gone.load(Ordering::SeqCst) {
        false => good(request, out, &bytes),
        true => send(out, "403 Expired", "", b"").map(|_| After::Close),
    });
    let mounted = Mounted::new(&server.url("/x"), &[]);
    gone.store(true, Ordering::SeqCst);
    let error = std::fs::read(mounted.at("f10")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    let problem = attribute(&mounted.at("f10"));
    assert!(problem.contains("403 Forbidden"), "{problem}");
}

fn attribute(path: &Path) -> String {
    let name = "user.lbpayload.problem";
    let mut command = Command::new("getfattr");
    command.args(["--only-values", "-n", name]).arg(path);
    Ran::of(&mut command).stdout
}
