//! A payload behind a URL, on servers that do things in their own ways.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lbpayload::block::{AlignedBuf, Source};
use lbpayload::net::{HttpOptions, HttpSource};

use crate::server::{After, Request, Server, good, head, not_found, send};
use crate::support::{Image, Ran, noise};
use crate::url::command;

fn image() -> Image {
    let file = |n: u64| (format!("f{n:02}").into_bytes(), noise(n, 150_000));
    Image {
        wide: true,
        files: (0..20).map(file).collect(),
    }
}

/// Verifies the payload behind the answers of `answer`, which gets the image.
#[track_caller]
fn is_read(
    path: &str,
    answer: impl Fn(&[u8], &Request, &mut TcpStream) -> std::io::Result<After> + Send + Sync + 'static,
) -> Vec<Request> {
    let bytes = image().bytes();
    let server = Server::start(move |request, out| answer(&bytes, request, out));
    let url = server.url(path);
    let ran = Ran::of(&mut command(&["verify", &url])).exits(0);
    ran.says("20 files");
    server.requests()
}

/// The part that a request asks for, and its Content-Range.
fn part<'a>(bytes: &'a [u8], request: &Request) -> (&'a [u8], String) {
    let (first, last) = request.range().unwrap();
    let last = last.unwrap().min(bytes.len() - 1);
    let fields = format!("Content-Range: bytes {first}-{last}/{}\r\n", bytes.len());
    (&bytes[first..=last], fields)
}

#[test]
fn http_1_0_without_a_length_is_read() {
    is_read("/x", |bytes, request, out| {
        let (body, fields) = part(bytes, request);
        out.write_all(format!("HTTP/1.0 206 Partial Content\r\n{fields}\r\n").as_bytes())?;
        out.write_all(body)?;
        Ok(After::Close)
    });
}

#[test]
fn chunked_ranges_are_read() {
    is_read("/x", |bytes, request, out| {
        let (body, fields) = part(bytes, request);
        let fields = format!("Transfer-Encoding: chunked\r\n{fields}");
        head(out, "206 Partial Content", &fields)?;
        for piece in body.chunks(70_000) {
            out.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
            out.write_all(piece)?;
            out.write_all(b"\r\n")?;
        }
        out.write_all(b"0\r\n\r\n")?;
        Ok(After::KeepOpen)
    });
}

#[test]
fn what_a_server_calls_compressed_is_read_as_it_is() {
    let requests = is_read("/x", |bytes, request, out| {
        let (body, fields) = part(bytes, request);
        let fields = format!("Content-Encoding: gzip\r\n{fields}");
        send(out, "206 Partial Content", &fields, body)
    });
    for request in requests {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
}

#[test]
fn redirects_are_followed_for_each_range() {
    let requests = is_read("/old", |bytes, request, out| match request.path() {
        "/old" => send(out, "302 Found", "Location: /new/x?token=1\r\n", b""),
        "/new/x" => good(request, out, bytes),
        _ => not_found(out),
    });
    assert!(requests.iter().any(|r| r.target == "/new/x?token=1"));
}

#[test]
fn user_and_password_of_a_url_open_it() {
    let bytes = image().bytes();
    let server = Server::start(move |request, out| match request.header("authorization") {
        // "user:hunter2"
        Some("Basic dXNlcjpodW50ZXIy") => good(request, out, &bytes),
        _ => send(out, "401 Unauthorized", "", b""),
    });
    let port = server.port();
    Ran::of(&mut command(&["list", &server.url("/x")]))
        .exits(1)
        .says("401 Unauthorized")
        .says("https://USER:PASSWORD@HOST/");
    let url = format!("http://user:hunter2@127.0.0.1:{port}/x");
    let ran = Ran::of(&mut command(&["verify", "-vvv", &url])).exits(0);
    for said in [&ran.stdout, &ran.stderr] {
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_server_that_asks_to_wait_is_asked_again() {
    let asked = AtomicUsize::new(0);
    is_read("/x", move |bytes, request, out| {
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 | 2 => send(out, "429 Slow Down", "Retry-After: 1\r\n", b""),
            _ => good(request, out, bytes),
        }
    });
}

#[test]
fn a_server_that_stalls_is_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let bytes = image().bytes();
    let expected = bytes.clone();
    let server = Server::start(move |request, out| {
        if count.fetch_add(1, Ordering::SeqCst) == 1 {
            let (body, fields) = part(&bytes, request);
            let fields = format!("Content-Length: {}\r\n{fields}", body.len());
            head(out, "206 Partial Content", &fields)?;
            out.write_all(&body[..body.len() / 2])?;
            // Longer than the client waits.
            std::thread::sleep(Duration::from_secs(20));
            return Ok(After::Close);
        }
        good(request, out, &bytes)
    });
    let options = HttpOptions {
        stall: Duration::from_millis(500),
        ..HttpOptions::default()
    };
    let source = HttpSource::open(&server.url("/x"), options).unwrap();
    let mut buf = AlignedBuf::new(4096).unwrap();
    let n = source.read_at(&mut buf[..3000], 1_000_000).unwrap();
    assert_eq!(buf[..n], expected[1_000_000..][..n]);
    assert!(asked.load(Ordering::SeqCst) > 2);
}
