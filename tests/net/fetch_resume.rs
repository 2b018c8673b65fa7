//! `lbpayload fetch` goes on where an earlier download ended.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;

use crate::fixture::{Files, Place, json, tries};
use crate::server::{After, Request, Server, good, head, send};
use crate::support::{Ran, lbpayload, tree};

const LEN: usize = 400_000;
const HALF: usize = 200_000;

/// Sends the first half and closes the connection.
fn half(body: &[u8], out: &mut TcpStream) -> std::io::Result<After> {
    head(
        out,
        "200 OK",
        &format!("Content-Length: {}\r\n", body.len()),
    )?;
    out.write_all(&body[..HALF])?;
    Ok(After::Close)
}

/// The only partial file in the destination.
fn partial(place: &Place) -> PathBuf {
    let found = tree(&place.dest());
    assert_eq!(found.len(), 1, "{:?}", found[0].0);
    assert!(found[0].0.starts_with(".lbpayload-fetch-"));
    place.dest().join(&found[0].0)
}

/// Fetches half of a file, and then the rest from a server that answers with `rest`. Returns
/// the requests for the rest and the report.
#[track_caller]
fn continued(
    rest: impl Fn(&[u8], &Request, &mut TcpStream) -> std::io::Result<After> + Send + Sync + 'static,
) -> (Vec<Request>, serde_json::Value) {
    let place = half_fetched();
    let files = place.files.clone();
    let server = Server::start(move |request, out| rest(files.of(request).unwrap(), request, out));
    let report = json(&mut place.fetch_from(&[&server.url("/")], &[]), 0);
    place.has_all();
    (server.requests(), report)
}

/// A place with half of a file.
fn half_fetched() -> Place {
    let place = Place::new(&Files::new(1, LEN));
    let files = place.files.clone();
    let server = Server::start(move |request, out| match request.range() {
        None => half(files.of(request).unwrap(), out),
        Some(_) => send(out, "404 Gone", "", b""),
    });
    Ran::of(&mut place.fetch_from(&[&server.url("/")], &[])).exits(1);
    assert_eq!(
        std::fs::metadata(partial(&place)).unwrap().len(),
        HALF as u64
    );
    place
}

#[test]
fn the_next_run_asks_only_for_the_rest() {
    let (requests, report) = continued(|body, request, out| good(request, out, body));
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].range(), Some((HALF, None)));
    let entry = &report["entries"][0];
    assert_eq!(entry["resumed"], HALF);
    assert_eq!(entry["bytes"], LEN - HALF);
}

#[test]
fn the_next_source_gets_only_the_rest() {
    let place = Place::new(&Files::new(1, LEN));
    let files = place.files.clone();
    let first = Server::start(move |request, out| half(files.of(request).unwrap(), out));
    let second = place.files.serve();
    let mirrors = [first.url("/"), second.url("/")];
    let report = json(&mut place.fetch_from(&[&mirrors[0], &mirrors[1]], &[]), 0);
    place.has_all();
    assert_eq!(report["entries"][0]["bytes"], LEN);
    assert_eq!(second.requests()[0].range(), Some((HALF, None)));
}

#[test]
fn the_only_source_is_asked_again_for_the_rest() {
    let place = Place::new(&Files::new(1, LEN));
    let files = place.files.clone();
    let server = Server::start(move |request, out| match request.range() {
        None => half(files.of(request).unwrap(), out),
        Some(_) => files.answer(request, out),
    });
    let report = json(&mut place.fetch_from(&[&server.url("/")], &[]), 0);
    assert_eq!(
        tries(&report, 0),
        "the connection was closed too early, complete"
    );
    place.has_all();
}

#[test]
fn a_server_that_ignores_the_range_sends_everything_again() {
    let (requests, report) = continued(|body, _, out| send(out, "200 OK", "", body));
    assert_eq!(requests.len(), 1);
    assert_eq!(report["entries"][0]["bytes"], LEN);
    assert_eq!(report["entries"][0]["resumed"], 0);
}

#[test]
fn a_wrong_content_range_and_a_416_start_over() {
    let (requests, _) = continued(|body, request, out| match request.range() {
        None => good(request, out, body),
        Some(_) => {
            let fields = format!("Content-Range: bytes 0-{}/{LEN}\r\n", LEN - 1);
            send(out, "206 Partial Content", &fields, body)
        }
    });
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].range(), None);
    let (requests, _) = continued(|body, request, out| match request.range() {
        None => good(request, out, body),
        Some(_) => send(out, "416 Range Not Satisfiable", "", b""),
    });
    assert_eq!(requests.len(), 2);
    let (requests, _) = continued(|body, request, out| match request.range() {
        None => good(request, out, body),
        Some((first, _)) => send(out, "206 Partial Content", "", &body[first..]),
    });
    assert_eq!(requests.len(), 2);
}

#[test]
fn garbage_of_an_earlier_run_costs_one_more_download_and_never_a_wrong_file() {
    let place = half_fetched();
    std::fs::write(partial(&place), vec![7; HALF]).unwrap();
    let server = place.files.serve();
    let report = json(&mut place.fetch_from(&[&server.url("/")], &[]), 0);
    place.has_all();
    assert_eq!(tries(&report, 0), "complete");
    assert_eq!(server.requests().len(), 2);
    // More than the whole file, where a server answers 416.
    let place = half_fetched();
    std::fs::write(partial(&place), vec![7; LEN * 2]).unwrap();
    Ran::of(&mut place.fetch_from(&[&server.url("/")], &[])).exits(0);
    place.has_all();
}

#[test]
fn a_complete_partial_file_needs_no_request() {
    let place = half_fetched();
    std::fs::write(partial(&place), place.files.iter().next().unwrap().1).unwrap();
    let server = place.files.serve();
    let report = json(&mut place.fetch_from(&[&server.url("/")], &[]), 0);
    place.has_all();
    assert_eq!(report["entries"][0]["bytes"], 0);
    assert_eq!(report["entries"][0]["resumed"], LEN);
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_finished_run_removes_partial_files_that_nobody_needs_any_more() {
    let place = half_fetched();
    let left = partial(&place);
    for (name, data) in place.files.iter() {
        std::fs::write(place.dest().join(name), data).unwrap();
    }
    Ran::of(&mut place.fetch_from(&[], &[])).exits(0);
    assert!(!left.exists());
    place.has_all();
}

#[test]
fn pack_leaves_a_partial_file_out() {
    let place = half_fetched();
    std::fs::write(place.dest().join("whole"), "x").unwrap();
    let image = place.temp.path().join("image");
    let mut pack = lbpayload();
    pack.arg("pack").arg(place.dest()).arg("-o").arg(&image);
    Ran::of(&mut pack).exits(0);
    let mut list = lbpayload();
    let listed = Ran::of(list.arg("list").arg(&image)).exits(0);
    assert!(listed.stdout.ends_with(" whole\n"), "{}", listed.stdout);
    assert_eq!(listed.stdout.lines().count(), 1);
    assert!(partial_is_there(&place));
}

fn partial_is_there(place: &Place) -> bool {
    let names = tree(&place.dest()).into_iter().map(|(name, _)| name);
    names
        .into_iter()
        .any(|name| name.starts_with(".lbpayload-fetch-"))
}

#[test]
fn two_fetches_into_one_directory_do_not_mix() {
    use nix::fcntl::{Flock, FlockArg};
    let place = Place::new(&Files::new(1, 100));
    std::fs::create_dir(place.dest()).unwrap();
    let dir = std::fs::File::open(place.dest()).unwrap();
    let _lock = Flock::lock(dir, FlockArg::LockExclusiveNonblock).unwrap();
    Ran::of(&mut place.fetch_from(&[], &[]))
        .exits(1)
        .says("another fetch or import is writing to it");
}
