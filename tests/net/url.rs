//! A payload behind a URL, as SRC of the commands.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fixture::Files;
use crate::nginx::{Nginx, is_missing};
use crate::server::{After, Request, Server, good, head, send};
use crate::support::{Image, Ran, lbpayload, run, tree};

/// The image of some files: tiny, small and large ones.
fn image() -> Image {
    let large = crate::support::noise(7, 5_000_000);
    let mut files: Vec<(Vec<u8>, Vec<u8>)> = vec![(b"large".to_vec(), large)];
    for (name, data) in Files::new(40, 30_000).iter() {
        files.push((name.as_bytes().to_vec(), data.to_vec()));
    }
    files.push((b"tiny".to_vec(), b"x".to_vec()));
    Image { wide: true, files }
}

/// Serves `bytes` with an ETag.
fn serve(bytes: Vec<u8>) -> Server {
    Server::start(move |request, out| tagged(request, out, &bytes, "\"1\""))
}

fn tagged(
    request: &Request,
    out: &mut std::net::TcpStream,
    body: &[u8],
    tag: &str,
) -> std::io::Result<After> {
    let matches = request
        .header("if-range")
        .is_none_or(|wanted| wanted == tag);
    let etag = format!("ETag: {tag}\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    match request.range() {
        Some((first, last)) if matches && first < body.len() => {
            let last = last.unwrap_or(usize::MAX).min(body.len() - 1);
            let range = format!("Content-Range: bytes {first}-{last}/{}\r\n", body.len());
            send(
                out,
                "206 Partial Content",
                &(etag + &range),
                &body[first..=last],
            )
        }
        _ => send(out, "200 OK", &etag, body),
    }
}

pub fn command(args: &[&str]) -> std::process::Command {
    let mut command = lbpayload();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command
            .env_remove(name)
            .env_remove(name.to_ascii_lowercase());
    }
    command.args(args);
    command
}

fn as_tree(image: &Image) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = image
        .files
        .iter()
        .map(|(name, data)| (String::from_utf8(name.clone()).unwrap(), data.clone()))
        .collect();
    files.sort();
    files
}

#[test]
fn every_command_reads_a_url_as_it_reads_the_file() {
    let image = image();
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("external.img");
    image.write(&file);
    let server = serve(image.bytes());
    let url = server.url("/external.img");
    let file = file.to_str().unwrap();
    for args in [
        &["list"][..],
        &["verify"],
        &["cat"],
        &["probe", "--all"],
        &["list", "--json"],
        &["verify", "--json"],
        &["probe", "--json"],
    ] {
        let names: &[&str] = if args[0] == "cat" {
            &["large", "tiny", "f003.tar.gz"]
        } else {
            &[]
        };
        let local = run([args, &[file], names].concat()).exits(0);
        let remote = Ran::of(&mut command(&[args, &[&url], names].concat())).exits(0);
        // The table of `probe --all` has columns.
        let same = |text: &str| {
            let text = text.replace(file, "SRC").replace(&url, "SRC");
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(same(&local.stdout), same(&remote.stdout), "{args:?}");
    }
    // Of one local and one remote payload too.
    Ran::of(&mut command(&["diff", file, &url])).exits(0);
    let secret = server.url("/external.img?sig=hunter2");
    let report = Ran::of(&mut command(&["diff", "--json", file, &secret])).exits(0);
    assert!(!report.stdout.contains("hunter2"), "{}", report.stdout);
    let dest = temp.path().join("out");
    let ran = Ran::of(&mut command(&[
        "import",
        "--device",
        &url,
        dest.to_str().unwrap(),
    ]))
    .exits(0);
    assert!(
        ran.stdout.contains(&format!("from {url} into")),
        "{}",
        ran.stdout
    );
    assert_eq!(tree(&dest), as_tree(&image));
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.method == "GET")
    );
}

#[test]
fn an_offset_and_a_small_cache_work_with_a_url() {
    let image = image();
    let bytes = [vec![0; 12_345], image.bytes()].concat();
    let server = serve(bytes);
    let url = server.url("/disk.img");
    let ran = Ran::of(&mut command(&[
        "cat", "--offset", "12345", "--cache", "4M", &url, "large",
    ]));
    assert_eq!(ran.exits(0).stdout_bytes, image.files[0].1);
    Ran::of(&mut command(&["list", &url])).exits(1);
    Ran::of(&mut command(&["list", "--cache", "1M", &url])).exits(2);
}

#[test]
fn a_list_reads_little_more_than_the_headers() {
    let files = (0..30).map(|n| (format!("f{n:02}").into_bytes(), vec![n as u8; 400_000]));
    let image = Image {
        wide: true,
        files: files.collect(),
    };
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
    let ran = Ran::of(&mut command(&["list", &server.url("/x")])).exits(0);
    assert_eq!(ran.stdout.lines().count(), 30);
    let requests = server.requests().len();
    assert!(requests <= 31, "{requests} requests for 30 headers");
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent <= 31 * 16 * 1024, "{sent} bytes");
}

#[test]
fn a_server_without_ranges_is_refused_and_nothing_is_downloaded() {
    let bytes = image().bytes();
    let server = Server::start(move |_, out| send(out, "200 OK", "", &bytes));
    let ran = Ran::of(&mut command(&["list", "--json", &server.url("/x")])).exits(1);
    assert!(
        ran.stdout.contains("\"code\": \"no-range\""),
        "{}",
        ran.stdout
    );
    ran.says("the server cannot send a part of a file")
        .says("curl -O");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn an_object_that_changes_meanwhile_is_an_error_that_says_so() {
    let image = image();
    let (bytes, asked) = (image.bytes(), AtomicUsize::new(0));
    let server = Server::start(move |request, out| {
        let tag = if asked.fetch_add(1, Ordering::SeqCst) < 2 {
            "\"1\""
        } else {
            "\"2\""
        };
        tagged(request, out, &bytes, tag)
    });
    let ran = Ran::of(&mut command(&["cat", &server.url("/x"), "large", "tiny"])).exits(1);
    ran.says("it has changed on the server since it was opened");
    let requests = server.requests();
    assert_eq!(requests[0].header("if-range"), None);
    assert_eq!(requests[1].header("if-range"), Some("\"1\""));
    // A server that ignores If-Range.
    let (bytes, asked) = (image.bytes(), AtomicUsize::new(0));
    let server = Server::start(move |request, out| {
        let (first, last) = request.range().unwrap();
        let last = last.unwrap().min(bytes.len() - 1);
        let number = asked.fetch_add(1, Ordering::SeqCst) / 2;
        let range = format!("Content-Range: bytes {first}-{last}/{}\r\n", bytes.len());
        let fields = format!("ETag: W/\"{number}\"\r\n{range}");
        send(out, "206 Partial Content", &fields, &bytes[first..=last])
    });
    Ran::of(&mut command(&["cat", &server.url("/x"), "large"]))
        .exits(1)
        .says("it has changed on the server since it was opened");
    // A server that has no version at all, but another length.
    let (bytes, asked) = (image.bytes(), AtomicUsize::new(0));
    let server = Server::start(move |request, out| {
        let more = asked.fetch_add(1, Ordering::SeqCst).min(1);
        good(request, out, &bytes[..bytes.len() - more])
    });
    Ran::of(&mut command(&["verify", &server.url("/x")]))
        .exits(1)
        .says("it has changed on the server");
}

#[test]
fn a_failing_request_is_made_again() {
    let image = image();
    let (bytes, asked) = (image.bytes(), AtomicUsize::new(0));
    let server = Server::start(
        move |request, out| match asked.fetch_add(1, Ordering::SeqCst) {
            1 => send(out, "503 Busy", "", b""),
            2 => Ok(After::Reset),
            3 | 5 => {
                let (first, last) = request.range().unwrap();
                let last = last.unwrap().min(bytes.len() - 1);
                let len = last - first + 1;
                let range = format!("Content-Range: bytes {first}-{last}/{}\r\n", bytes.len());
                let length = format!("Content-Length: {len}\r\n");
                head(out, "206 Partial Content", &(length + &range))?;
                out.write_all(&bytes[first..first + len / 2])?;
                Ok(After::Close)
            }
            _ => good(request, out, &bytes),
        },
    );
    let dest = tempfile::tempdir().unwrap();
    let out = dest.path().join("out");
    Ran::of(&mut command(&[
        "import",
        "--device",
        &server.url("/x"),
        out.to_str().unwrap(),
    ]))
    .exits(0);
    assert_eq!(tree(&out), as_tree(&image));
}

#[test]
fn a_server_that_fails_for_good_is_given_up_and_its_answer_is_shown() {
    let image = image();
    let (bytes, asked) = (image.bytes(), AtomicUsize::new(0));
    let server = Server::start(
        move |request, out| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => good(request, out, &bytes),
            _ => send(out, "500 Oops", "", b""),
        },
    );
    Ran::of(&mut command(&["verify", &server.url("/x")]))
        .exits(1)
        .says("500 Internal Server Error");
    // Tried five times, and not for each sector again.
    let requests = server.requests().len();
    assert!((6..=60).contains(&requests), "{requests} requests");
}

#[test]
fn errors_of_a_url_say_what_to_do_and_show_no_secret() {
    let server = Server::start(|request, out| match request.path() {
        "/denied" => send(out, "403 Forbidden", "", b""),
        "/empty" => send(
            out,
            "416 Range Not Satisfiable",
            "Content-Range: bytes */0\r\n",
            b"",
        ),
        "/odd" => send(
            out,
            "206 Partial Content",
            "Content-Range: bytes 0-9/18446744073709551615\r\n",
            b"0123456789",
        ),
        "/huge" => send(
            out,
            "206 Partial Content",
            "Content-Range: bytes 0-999999999999/9999999999999\r\n",
            b"0123456789",
        ),
        _ => crate::server::not_found(out),
    });
    let at = |path: &str| {
        format!(
            "http://user:hunter2@127.0.0.1:{}{path}?sig=hunter2",
            server.port()
        )
    };
    let no_host = "http://no-such-host.invalid/x?sig=hunter2".to_owned();
    for (url, code, help) in [
        (at("/denied"), "http", "signed URL has expired"),
        (at("/none"), "http", "check the URL"),
        (at("/odd"), "http", "later"),
        (at("/huge"), "http", "later"),
        (at("/empty"), "wrong-magic", "is empty"),
        (
            no_host,
            "unreachable",
            "check the name of the host and the network",
        ),
        (
            "http://user:hunter2@host:x/".to_owned(),
            "bad-url",
            "https://HOST/PATH",
        ),
    ] {
        for args in [
            &["list", "--json"][..],
            &["verify", "--json"],
            &["import", "--json", "--device"],
        ] {
            let ran = Ran::of(&mut command(&[args, &[&url, "-vvv"]].concat()));
            let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
            if let Some(found) = report["error"]["code"].as_str() {
                assert_eq!(found, code, "{args:?} {url}: {}", ran.stderr);
            }
            assert!(ran.stderr.contains(help), "{help}: {}", ran.stderr);
            assert!(matches!(ran.status, Some(1 | 2)), "{:?}", ran.status);
            for said in [&ran.stdout, &ran.stderr] {
                assert!(!said.contains("hunter2"), "{said}");
            }
        }
    }
    Ran::of(&mut command(&["import", &at("/x"), "out"]))
        .exits(2)
        .says("is a URL, expected a directory")
        .says("lbpayload import --device URL DIRECTORY");
    assert!(!Path::new("http:").exists());
    let probed = Ran::of(&mut command(&["probe", "--json", &at("/denied")])).exits(3);
    assert!(probed.stdout.contains("unreadable") && !probed.stdout.contains("hunter2"));
}

#[test]
fn a_payload_over_http_that_nothing_checks_gets_a_warning() {
    let image = Image::new(&[("name", b"data")]);
    let server = serve(image.bytes());
    let url = server.url("/x");
    let temp = tempfile::tempdir().unwrap();
    let sums = temp.path().join("sums");
    let sum = crate::support::sha256sum(b"data");
    std::fs::write(&sums, format!("{sum}  name\n")).unwrap();
    let out: PathBuf = temp.path().join("out");
    let (sums, out) = (sums.to_str().unwrap(), out.to_str().unwrap());
    let warning = "comes without encryption and is not checked";
    Ran::of(&mut command(&["cat", &url, "name"]))
        .exits(0)
        .says(warning);
    Ran::of(&mut command(&["import", "--device", &url, out]))
        .exits(0)
        .says(warning);
    let ran = Ran::of(&mut command(&[
        "import",
        "--checksums",
        sums,
        "--device",
        &url,
        out,
    ]));
    assert_eq!(ran.exits(0).stderr, "");
}

#[test]
fn nginx_serves_a_payload_over_tls_and_is_refused_without_ranges() {
    if is_missing() {
        return;
    }
    let image = image();
    let nginx = Nginx::start();
    image.write(&nginx.root().join("external.img"));
    let temp = tempfile::tempdir().unwrap();
    let dest = temp.path().join("out");
    let tls = format!("https://localhost:{}/external.img", nginx.tls);
    let trusting = |args: &[&str]| {
        let mut command = command(args);
        command.env("SSL_CERT_FILE", nginx.authority());
        Ran::of(&mut command)
    };
    trusting(&["verify", &tls]).exits(0);
    let ran = trusting(&["import", "--device", &tls, dest.to_str().unwrap()]).exits(0);
    assert_eq!(ran.stderr, "");
    assert_eq!(tree(&dest), as_tree(&image));
    Ran::of(&mut command(&["list", &tls]))
        .exits(1)
        .says("unknown authority")
        .says("SSL_CERT_FILE");
    let expired = format!("https://localhost:{}/external.img", nginx.expired);
    trusting(&["list", &expired])
        .exits(1)
        .says("its certificate has expired");
    let without = format!("http://127.0.0.1:{}/external.img", nginx.without_ranges);
    trusting(&["list", &without])
        .exits(1)
        .says("cannot send a part of a file");
}

/// An image of files that are far apart, so that each header is a request of its own.
fn scattered(files: usize) -> Image {
    let files = (0..files).map(|n| (format!("file-{n:03}").into_bytes(), vec![n as u8; 70_000]));
    Image {
        wide: true,
        files: files.collect(),
    }
}

#[test]
fn an_import_keeps_many_requests_under_way_and_reads_nothing_twice() {
    let data = crate::support::noise(7, 60_000_000);
    let image = Image {
        wide: true,
        files: vec![(b"large".to_vec(), data.clone())],
    };
    let (bytes, sent) = (image.bytes(), Arc::new(AtomicUsize::new(0)));
    let (len, count) = (bytes.len(), Arc::clone(&sent));
    let server = Server::start(move |request, out| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let (first, last) = request.range().unwrap();
        let length = last.unwrap().min(bytes.len() - 1) + 1 - first;
        count.fetch_add(length, Ordering::SeqCst);
        good(request, out, &bytes)
    });
    let temp = tempfile::tempdir().unwrap();
    for (cache, at_once) in [("64M", 6), ("4M", 2)] {
        let dest = temp.path().join(cache);
        sent.store(0, Ordering::SeqCst);
        let url = server.url("/external.img");
        let args = ["import", "--cache", cache, "--device", &url];
        Ran::of(command(&args).arg(&dest)).exits(0);
        assert!(std::fs::read(dest.join("large")).unwrap() == data);
        let most = server.most_at_once();
        assert!(most >= at_once, "{most} requests at once");
        let sent = sent.load(Ordering::SeqCst);
        assert!(sent < len + (1 << 20), "{cache}: {sent} of {len} bytes");
    }
}

#[test]
fn headers_are_read_once_although_the_trailer_is_looked_for() {
    let files = 150;
    let server = serve(scattered(files).bytes());
    let url = server.url("/external.img");
    // The cache keeps 64 headers.
    Ran::of(&mut command(&["list", "--cache", "4M", &url])).exits(0);
    let requests = server.requests().len();
    assert!(requests <= files + 4, "{requests} requests");
}

#[test]
fn mount_with_an_index_reads_no_header_to_find_the_trailer() {
    let files = 300;
    let server = serve(scattered(files).bytes());
    let url = server.url("/external.img");
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    // It ends when everything is known, because this is not a directory.
    let point = dir.path().join("file");
    std::fs::write(&point, "").unwrap();
    let (index, point) = (index.to_str().unwrap(), point.to_str().unwrap());
    let mount = || {
        let before = server.requests().len();
        let args = ["mount", "--index", index, &url, point];
        Ran::of(&mut command(&args)).exits(1);
        server.requests().len() - before
    };
    assert!(mount() >= files);
    // A sample of 64 headers is compared.
    let requests = mount();
    assert!(requests <= 70, "{requests} requests");
    // An index of another payload is of no use.
    let other = serve(scattered(files + 1).bytes());
    let args = ["mount", "--index", index, &other.url("/x.img"), point];
    Ran::of(&mut command(&args)).exits(1);
    let requests = other.requests().len();
    assert!(
        (files..files + 10).contains(&requests),
        "{requests} requests"
    );
}
