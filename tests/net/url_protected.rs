//! A protected payload behind a URL: what is read of it, and what a failing server may hide.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::server::{After, Server, good, send};
use crate::support::{Image, Ran, lbpayload, noise};

/// The number of files.
const FILES: usize = 300;

/// The offset of the header of entry 100.
const HEADER: usize = 16 + 100 * (16 + 8 + 70_000);

/// A protected image of files that are far apart, so that each header is a request of its own, as
/// bytes. The second number is the length of the payload in it.
fn protected(dir: &Path) -> (Vec<u8>, usize) {
    let file = |n: usize| (format!("file-{n:03}").into_bytes(), noise(n as u64, 70_000));
    let image = Image {
        wide: true,
        files: (0..FILES).map(file).collect(),
    };
    let path = dir.join("external.img");
    image.write(&path);
    Ran::of(lbpayload().arg("protect").arg(&path)).exits(0);
    (std::fs::read(path).unwrap(), image.bytes().len())
}

/// The number of requests, and of bytes that they ask for.
fn asked(server: &Server, len: usize) -> (usize, usize) {
    let requests = server.requests();
    let bytes = requests.iter().map(|request| {
        let (first, last) = request.range().unwrap();
        last.unwrap().min(len - 1) + 1 - first
    });
    (requests.len(), bytes.sum())
}

/// A file, at which a mount ends when everything is known, because it is not a directory.
fn no_directory(dir: &Path) -> PathBuf {
    let point = dir.join("file");
    std::fs::write(&point, "").unwrap();
    point
}

#[test]
fn a_protected_payload_is_listed_and_mounted_without_a_request_for_each_header() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = protected(dir.path());
    let len = bytes.len();
    let point = no_directory(dir.path());
    for command in ["list", "mount"] {
        let bytes = bytes.clone();
        let server = Server::start(move |request, out| good(request, out, &bytes));
        let mut words = lbpayload();
        words.arg(command).arg(server.url("/external.img"));
        match command {
            "list" => {
                let listed = Ran::of(&mut words).exits(0).stdout;
                assert!(listed.contains("file-299"), "{listed}");
            }
            _ => drop(Ran::of(words.arg(&point)).exits(1).says("directory")),
        }
        let (requests, sent) = asked(&server, len);
        assert!(requests <= 10, "{command}: {requests} requests");
        assert!(sent < 4 << 20, "{command}: {sent} bytes");
    }
}

#[test]
fn damaged_copies_of_the_headers_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bytes, payload_len) = protected(dir.path());
    let name = b"file-150";
    let is_name = |at: &usize| bytes[*at..].starts_with(name);
    let copies: Vec<usize> = (payload_len..bytes.len() - 8).filter(is_name).collect();
    assert_eq!(copies.len(), 2);
    for copy in copies {
        bytes[copy] = b'F';
    }
    let server = Server::start(move |request, out| good(request, out, &bytes));
    let mut words = lbpayload();
    words.arg("list").arg(server.url("/external.img"));
    let listed = Ran::of(&mut words).exits(0).stdout;
    assert!(listed.contains("file-150") && !listed.contains("File-150"));
    assert!(server.requests().len() >= FILES);
}

#[test]
fn a_server_that_fails_does_not_hide_the_trailer() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, payload_len) = protected(dir.path());
    let trailer = payload_len.next_multiple_of(4096);
    let (len, point) = (bytes.len(), no_directory(dir.path()));
    let bytes = Arc::new(bytes);
    // The second header, the first one, what is behind that, and a header of the payload, which is
    // read because the second header is damaged.
    let places = [len - 4096, trailer, trailer + 8192, HEADER];
    for (number, place) in places.into_iter().enumerate() {
        let mut image = bytes.to_vec();
        if number == 3 {
            image[len - 4000] ^= 1;
        }
        let failed = Arc::new(AtomicBool::new(false));
        let did = Arc::clone(&failed);
        let server = Server::start(move |request, out| {
            let (first, last) = request.range().unwrap();
            // It fails once, and the next commands could read everything.
            if first > 0
                && (first..=last.unwrap()).contains(&place)
                && !did.swap(true, Ordering::SeqCst)
            {
                return send(out, "403 Forbidden", "", b"").map(|_| After::Close);
            }
            good(request, out, &image)
        });
        let url = server.url("/external.img");
        for words in [
            ["list", &url].as_slice(),
            &["mount", &url, point.to_str().unwrap()],
        ] {
            failed.store(false, Ordering::SeqCst);
            let ran = Ran::of(lbpayload().args(words)).exits(1);
            assert!(failed.load(Ordering::SeqCst), "{place} is not read");
            ran.says("403 Forbidden").says("protection trailer");
        }
    }
}
