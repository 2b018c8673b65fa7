//! `lbpayload fetch` from servers that work.

use std::io::Write;
use std::sync::Barrier;

use crate::fixture::{Files, Place, checkout, json, tries};
use crate::server::{After, Server, head, send};
use crate::support::{Ran, lbpayload, sha256sum, tree};

#[test]
fn fetch_gets_every_file_of_a_list_and_asks_for_none_the_second_time() {
    let place = Place::new(&Files::new(12, 50_000));
    let server = place.files.serve();
    let url = |name: &str| server.url(&format!("/d/{name}"));
    let ran = Ran::of(&mut place.fetch(url, &[])).exits(0);
    assert!(
        ran.stdout.starts_with("fetched 12 files ("),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.stderr, "");
    place.has_all();
    assert_eq!(server.requests().len(), 12);
    let ran = Ran::of(&mut place.fetch(url, &[])).exits(0);
    assert!(
        ran.stdout.starts_with("all 12 files are already in"),
        "{}",
        ran.stdout
    );
    assert_eq!(server.requests().len(), 12);
}

#[test]
fn fetch_replaces_a_file_with_a_wrong_sum_and_keeps_what_it_does_not_know() {
    let place = Place::new(&Files::new(2, 1000));
    let server = place.files.serve();
    std::fs::create_dir(place.dest()).unwrap();
    std::fs::write(place.dest().join("f000.tar.gz"), "old").unwrap();
    std::fs::write(place.dest().join("mine"), "mine").unwrap();
    let report = json(&mut place.fetch_from(&[&server.url("/")], &[]), 0);
    assert_eq!(
        (&report["fetched"], &report["kept"]),
        (&2.into(), &0.into())
    );
    assert_eq!(std::fs::read(place.dest().join("mine")).unwrap(), b"mine");
    std::fs::remove_file(place.dest().join("mine")).unwrap();
    place.has_all();
}

#[test]
fn fetch_takes_mirrors_first_then_the_own_url_and_reports_the_source_of_each_file() {
    let place = Place::new(&Files::new(3, 1000));
    let files = place.files.clone();
    let mirror = Server::start(move |request, out| match request.path() {
        "/m/f001.tar.gz" => files.answer(request, out),
        _ => crate::server::not_found(out),
    });
    let own = place.files.serve();
    let mirrors = place.temp.path().join("mirrors");
    std::fs::write(&mirrors, format!("# ours\n{}\n", mirror.url("/m"))).unwrap();
    let mut command = place.fetch(|name| own.url(&format!("/own/{name}")), &["--jobs", "1"]);
    let report = json(command.arg("--mirrors").arg(&mirrors), 0);
    place.has_all();
    assert_eq!(tries(&report, 0), "404 Not Found, complete");
    assert_eq!(tries(&report, 1), "complete");
    let entry = &report["entries"][1];
    assert_eq!(entry["source"], mirror.url("/m/f001.tar.gz"));
    assert_eq!(
        (&entry["bytes"], &entry["resumed"], &entry["state"]),
        (&1001.into(), &0.into(), &"fetched".into())
    );
    assert!(entry["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(report["entries"][2]["source"], own.url("/own/f002.tar.gz"));
}

#[test]
fn fetch_gets_what_a_checkout_needs_and_pack_takes_it() {
    let files = Files::new(3, 3000);
    let place = Place::new(&files);
    let server = files.serve();
    let sums: Vec<String> = files.iter().map(|(_, data)| sha256sum(data)).collect();
    let (mirror, own) = (server.url("/"), server.url("/own/f001.tar.gz"));
    let packages = [
        (
            "early",
            format!("f {} {}\n", server.url("/f000.tar.gz"), sums[0]),
        ),
        (
            "late",
            format!("g git://x {own} {}\nf _ {} f002.tar.gz\n", sums[1], sums[2]),
        ),
    ];
    let manifest = "build: early\nimprove: import_payload\nbuild: late\n";
    let root = checkout(place.temp.path(), manifest, &packages);
    let fetch = |options: &[&str]| {
        let mut command = lbpayload();
        command.args(["fetch", "--live-bootstrap"]).arg(&root);
        Ran::of(command.args(options))
    };
    // Without the mirror, what can be fetched is fetched, and the rest is named.
    fetch(&["--payload-only"])
        .exits(1)
        .says("could not fetch `f002.tar.gz`")
        .says("it has no URL that can be fetched")
        .says("1 of 2 files are missing in");
    assert_eq!(tree(&root.join("distfiles")).len(), 1);
    fetch(&["--payload-only", "--mirror", &mirror]).exits(0);
    assert_eq!(tree(&root.join("distfiles")).len(), 2);
    fetch(&["--mirror", &mirror]).exits(0);
    let wanted: Vec<_> = files
        .iter()
        .map(|(n, d)| (n.to_owned(), d.to_vec()))
        .collect();
    assert_eq!(tree(&root.join("distfiles")), wanted);
    let image = place.temp.path().join("external.img");
    let mut pack = lbpayload();
    pack.args(["pack", "--live-bootstrap"])
        .arg(&root)
        .arg("-o")
        .arg(&image);
    Ran::of(&mut pack).exits(0);
}

#[test]
fn pack_fetches_what_is_missing_first() {
    let files = Files::new(3, 3000);
    let place = Place::new(&files);
    let server = files.serve();
    let sum = |n: usize| sha256sum(files.iter().nth(n).unwrap().1);
    let packages = [
        ("early", format!("f _ {} f000.tar.gz\n", sum(0))),
        (
            "late",
            format!("f _ {} f001.tar.gz\nf _ {} f002.tar.gz\n", sum(1), sum(2)),
        ),
    ];
    let manifest = "build: early\nimprove: import_payload\nbuild: late\n";
    let root = checkout(place.temp.path(), manifest, &packages);
    let image = place.temp.path().join("external.img");
    let pack = |options: &[&str]| {
        let mut command = lbpayload();
        command.args(["pack", "--live-bootstrap"]).arg(&root);
        Ran::of(command.arg("-o").arg(&image).args(options))
    };
    let mirror = server.url("/");
    pack(&["--mirror", &mirror]).exits(2).says("need --fetch");
    pack(&["--fetch", "--dry-run", "--mirror", &mirror]).exits(1);
    assert_eq!(server.requests().len(), 0);
    pack(&["--fetch"])
        .exits(1)
        .says("could not fetch `f001.tar.gz`")
        .says("2 of 2 files are missing in");
    assert!(!image.exists());
    let packed = pack(&["--fetch", "--mirror", &mirror, "--json"]).exits(0);
    assert!(packed.stdout.starts_with('{'), "{}", packed.stdout);
    packed.says("fetched 2 files");
    let mut list = lbpayload();
    let listed = Ran::of(list.arg("list").arg(&image)).exits(0);
    assert_eq!(listed.stdout.lines().count(), 2);
    // Nothing is missing now, and nothing is said of it.
    let again = pack(&["--fetch"]).exits(0);
    assert!(!again.stderr.contains("fetched"), "{}", again.stderr);
}

#[test]
fn fetch_offline_lists_all_missing_files_and_asks_nobody() {
    let place = Place::new(&Files::new(4, 100));
    let server = place.files.serve();
    let url = |name: &str| server.url(&format!("/{name}?token=secret"));
    let ran = Ran::of(&mut place.fetch(url, &["--offline"])).exits(1);
    let wanted = |n| format!("f00{n}.tar.gz {}\n", server.url(&format!("/f00{n}.tar.gz")));
    assert_eq!(ran.stdout, (0..4).map(wanted).collect::<String>());
    ran.says("4 of 4 files are missing in")
        .says("without --offline");
    assert!(!place.dest().exists());
    let (name, data) = place.files.iter().next().unwrap();
    std::fs::create_dir(place.dest()).unwrap();
    std::fs::write(place.dest().join(name), data).unwrap();
    let report = json(&mut place.fetch(url, &["--offline"]), 1);
    assert_eq!(
        (&report["missing"], &report["kept"]),
        (&3.into(), &1.into())
    );
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn fetch_reads_mirrors_that_are_directories() {
    let place = Place::new(&Files::new(3, 70_000));
    let mirror = place.temp.path().join("my mirror");
    std::fs::create_dir(&mirror).unwrap();
    for (name, data) in place.files.iter() {
        std::fs::write(mirror.join(name), data).unwrap();
    }
    std::fs::write(mirror.join("f001.tar.gz"), "wrong").unwrap();
    std::fs::remove_file(mirror.join("f002.tar.gz")).unwrap();
    let server = place.files.serve();
    let url = format!("file://{}", mirror.display()).replace(' ', "%20");
    // With more jobs, the third file would be taken from the server while the mirror is busy.
    let mirrors = [url.as_str(), &server.url("/")];
    let report = json(&mut place.fetch_from(&mirrors, &["--jobs", "1"]), 0);
    place.has_all();
    assert_eq!(tries(&report, 0), "complete");
    assert!(tries(&report, 1).starts_with("wrong checksum"));
    assert_eq!(tries(&report, 2), "not there, complete");
}

#[test]
fn fetch_opens_at_most_two_connections_to_a_host_and_uses_others_meanwhile() {
    let place = Place::new(&Files::new(12, 500));
    // Four requests must be under way at once, two on each server, or this never ends.
    let barrier = std::sync::Arc::new(Barrier::new(4));
    let slow = || {
        let (files, barrier) = (place.files.clone(), barrier.clone());
        Server::start(move |request, out| {
            barrier.wait();
            files.answer(request, out)
        })
    };
    let (first, second) = (slow(), slow());
    Ran::of(&mut place.fetch_from(&[&first.url("/"), &second.url("/")], &[])).exits(0);
    place.has_all();
    assert_eq!((first.most_at_once(), second.most_at_once()), (2, 2));
}

#[test]
fn fetch_reads_chunked_bodies_and_http_1_0_and_follows_redirects() {
    let place = Place::new(&Files::new(3, 200_000));
    let files = place.files.clone();
    let server = Server::start(move |request, out| {
        let body = files.of(request).unwrap();
        match request.path() {
            "/d/f000.tar.gz" => {
                head(out, "200 OK", "Transfer-Encoding: chunked\r\n")?;
                for piece in body.chunks(70_000) {
                    out.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                    out.write_all(piece)?;
                    out.write_all(b"\r\n")?;
                }
                out.write_all(b"0\r\n\r\n")?;
                Ok(After::KeepOpen)
            }
            "/d/f001.tar.gz" => {
                out.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
                out.write_all(body)?;
                Ok(After::Close)
            }
            "/d/f002.tar.gz" => send(out, "302 Found", "Location: ../e/f002.tar.gz?x=1\r\n", b""),
            "/d/../e/f002.tar.gz" => send(
                out,
                "307 Temporary Redirect",
                "Location: /z/f002.tar.gz\r\n",
                b"",
            ),
            _ => files.answer(request, out),
        }
    });
    Ran::of(&mut place.fetch_from(&[&server.url("/d")], &[])).exits(0);
    place.has_all();
}

#[test]
fn fetch_sends_the_password_of_a_url_and_shows_it_nowhere() {
    let place = Place::new(&Files::new(1, 1000));
    let files = place.files.clone();
    let other = Server::start(|request, out| {
        assert_eq!(request.header("authorization"), None);
        send(out, "500 Oops", "", b"")
    });
    let elsewhere = other.url("/x?signature=hunter2");
    let server = Server::start(move |request, out| {
        // "user:hunter2"
        match request.header("authorization") {
            Some("Basic dXNlcjpodW50ZXIy") if request.target == "/f000.tar.gz?key=hunter2" => {
                files.answer(request, out)
            }
            Some(_) => send(out, "302 Found", &format!("Location: {elsewhere}\r\n"), b""),
            None => send(out, "401 Unauthorized", "", b""),
        }
    });
    let port = server.port();
    let at = |user: &str, query: &str| {
        let url = format!("http://{user}127.0.0.1:{port}/f000.tar.gz{query}");
        let mut command = place.fetch(|_| url.clone(), &["-vvv", "--json"]);
        Ran::of(command.env("RUST_LOG", "trace"))
    };
    let denied = at("", "").exits(1).says("401 Unauthorized");
    let redirected = at("user:hunter2@", "").exits(1).says("500");
    let fetched = at("user:hunter2@", "?key=hunter2").exits(0);
    place.has_all();
    for ran in [denied, redirected, fetched] {
        for said in [ran.stdout, ran.stderr] {
            for secret in ["hunter2", "dXNlcjpodW50ZXIy"] {
                assert!(!said.contains(secret), "{said}");
            }
        }
    }
}

#[test]
fn fetch_gets_two_files_with_the_same_content() {
    let place = Place::new(&Files::new(1, 300_000));
    let server = place.files.serve();
    let (name, data) = place.files.iter().next().unwrap();
    let sum = sha256sum(data);
    let list = place.temp.path().join("twins");
    let url = server.url(&format!("/{name}"));
    std::fs::write(&list, format!("{url} {sum} a\n{url} {sum} b\n")).unwrap();
    let mut command = lbpayload();
    command.args(["fetch", "--list"]).arg(&list);
    Ran::of(command.arg("--dest").arg(place.dest())).exits(0);
    let both = [
        ("a".to_owned(), data.to_vec()),
        ("b".to_owned(), data.to_vec()),
    ];
    assert_eq!(tree(&place.dest()), both);
}
