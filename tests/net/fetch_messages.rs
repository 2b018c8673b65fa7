//! What `lbpayload fetch` says when it cannot do what it was asked for.

use crate::fixture::{Files, Place, checkout, json};
use crate::server::{Server, not_found, send};
use crate::support::{Ran, lbpayload, run};

#[test]
fn every_missing_file_is_named_with_the_answer_of_every_source() {
    let place = Place::new(&Files::new(5, 500));
    let empty = Server::start(|_, out| not_found(out));
    let broken = Server::start(|_, out| send(out, "500 Oops", "", b""));
    let mirrors = [empty.url("/a"), broken.url("/b")];
    let ran = Ran::of(&mut place.fetch_from(&[&mirrors[0], &mirrors[1]], &["-q"])).exits(1);
    assert_eq!(ran.stdout, "");
    for n in 0..5 {
        let name = format!("f00{n}.tar.gz");
        for line in [
            format!("lbpayload: error: could not fetch `{name}`\n"),
            format!("lbpayload: note: {}/{name}: 404 Not Found\n", mirrors[0]),
            format!(
                "lbpayload: note: {}/{name}: 500 Internal Server Error\n",
                mirrors[1]
            ),
        ] {
            assert!(ran.stderr.contains(&line), "{line}{}", ran.stderr);
        }
    }
    ran.says("lbpayload: error: 5 of 5 files are missing in ")
        .says("lbpayload: help: name a mirror that has them (--mirror URL)");
    assert_eq!(std::fs::read_dir(place.dest()).unwrap().count(), 0);
    let report = json(&mut place.fetch_from(&[&mirrors[0]], &[]), 1);
    assert_eq!(report["missing"], 5);
    assert_eq!(report["entries"][4]["state"], "missing");
}

#[test]
fn no_network_is_explained() {
    let place = Place::new(&Files::new(1, 500));
    // A namespace without a network, where not even 127.0.0.1 can be reached.
    let fetch = place.fetch(|name| format!("http://198.51.100.1/{name}"), &[]);
    let mut command = std::process::Command::new("unshare");
    command
        .arg("--net")
        .arg("--map-root-user")
        .arg(fetch.get_program())
        .args(fetch.get_args());
    Ran::of(&mut command)
        .exits(1)
        .says("could not connect (Network is unreachable)")
        .says("help: check the network, and the proxy if you need one");
    let mut command = place.fetch(|name| format!("http://no-such-host.invalid/{name}"), &[]);
    Ran::of(&mut command)
        .exits(1)
        .says("the host was not found");
}

#[test]
fn a_wrong_mirror_is_refused_without_its_password() {
    let place = Place::new(&Files::new(1, 500));
    let bad = "ftp://user:hunter2@host/";
    let ran = Ran::of(&mut place.fetch_from(&[bad], &[])).exits(2);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    ran.says("--mirror: expected a URL with http://, https:// or file://");
    let mirrors = place.temp.path().join("mirrors");
    std::fs::write(&mirrors, "\nhttp://good/\nnonsense\n").unwrap();
    let mut command = place.fetch_from(&[], &[]);
    Ran::of(command.arg("--mirrors").arg(&mirrors))
        .exits(1)
        .says("line 3: no URL, expected http://");
}

#[test]
fn fetch_needs_to_know_what_and_where_to() {
    for (args, said) in [
        (&["fetch"][..], "--live-bootstrap <DIR>|--list <FILE>"),
        (&["fetch", "--list", "x"], "--dest"),
        (
            &[
                "fetch",
                "--list",
                "x",
                "--live-bootstrap",
                "y",
                "--dest",
                "z",
            ],
            "cannot be used with",
        ),
        (
            &["fetch", "--list", "x", "--dest", "z", "--payload-only"],
            "cannot be used with",
        ),
        (
            &["fetch", "--live-bootstrap", "x", "--jobs", "0"],
            "from 1 to 64",
        ),
        (
            &["fetch", "--live-bootstrap", "x", "--stall-timeout", "0"],
            "--stall-timeout",
        ),
    ] {
        run(args).exits(2).says(said);
    }
    run(["fetch", "--live-bootstrap", "/nonexistent"])
        .exits(1)
        .says("give the directory of a live-bootstrap checkout");
    run(["fetch", "--list", "/nonexistent", "--dest", "/tmp"])
        .exits(1)
        .says("/nonexistent");
}

#[test]
fn a_destination_that_is_no_directory_or_holds_one_under_a_name_is_refused() {
    let place = Place::new(&Files::new(1, 500));
    std::fs::write(place.dest(), "file").unwrap();
    Ran::of(&mut place.fetch_from(&[], &[]))
        .exits(1)
        .says("expected a directory, found a regular file");
    std::fs::remove_file(place.dest()).unwrap();
    std::fs::create_dir_all(place.dest().join("f000.tar.gz")).unwrap();
    Ran::of(&mut place.fetch_from(&[], &[]))
        .exits(1)
        .says("expected a file, found a directory");
    let mut command = lbpayload();
    command.args(["fetch", "--dest", "/dev/lbpayload-test", "--list"]);
    Ran::of(command.arg(place.list(|_| "_".into())))
        .exits(1)
        .says("/dev");
}

#[test]
fn a_checkout_with_a_bad_url_loses_only_that_url() {
    let files = Files::new(1, 100);
    let place = Place::new(&files);
    let sum = crate::support::sha256sum(files.iter().next().unwrap().1);
    let sources = format!("f http://bad:port/f000.tar.gz {sum}\n");
    let root = checkout(place.temp.path(), "build: a\n", &[("a", sources)]);
    let server = files.serve();
    let mut command = lbpayload();
    command
        .args(["fetch", "--mirror", &server.url("/"), "--live-bootstrap"])
        .arg(&root);
    Ran::of(&mut command)
        .exits(0)
        .says("its URL is left out: the URL has no valid port");
}
