//! `lbpayload fetch` from mirrors that are broken in every way: the next one has the files.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::fixture::{Files, Place, json, tries};
use crate::server::{After, Request, Server, head, send};
use crate::support::{Ran, noise};

type Fault = fn(&[u8], &Request, &mut TcpStream) -> std::io::Result<After>;

/// Fetches from a mirror that answers with `fault`, then from a good one. Returns what the
/// first one did, as reported.
#[track_caller]
fn survives(fault: Fault, options: &[&str]) -> String {
    let place = Place::new(&Files::new(2, 150_000));
    let files = place.files.clone();
    let bad = Server::start(move |request, out| fault(files.of(request).unwrap(), request, out));
    let good = place.files.serve();
    let mirrors = [bad.url("/bad"), good.url("/good")];
    let report = json(
        &mut place.fetch_from(&[&mirrors[0], &mirrors[1]], options),
        0,
    );
    place.has_all();
    let entry = &report["entries"][0];
    assert_eq!(entry["source"], good.url("/good/f000.tar.gz"));
    assert_eq!(entry["tries"][0]["source"], bad.url("/bad/f000.tar.gz"));
    let all = tries(&report, 0);
    assert!(all.ends_with(", complete"), "{all}");
    entry["tries"][0]["result"].as_str().unwrap().to_owned()
}

#[test]
fn an_error_status_is_reported() {
    let fault: Fault = |_, _, out| send(out, "503 Busy", "", b"later");
    assert_eq!(survives(fault, &[]), "503 Service Unavailable");
    let fault: Fault = |_, _, out| send(out, "799 Odd", "", b"");
    assert_eq!(survives(fault, &[]), "799 (unknown status)");
}

#[test]
fn an_html_page_with_status_200_is_not_taken_for_the_file() {
    let fault: Fault = |_, _, out| {
        let page = b"\n<!DOCTYPE html><html>We moved</html>";
        send(out, "200 OK", "Content-Type: application/gzip\r\n", page)
    };
    assert_eq!(
        survives(fault, &[]),
        "sent an HTML page in place of the file"
    );
}

#[test]
fn a_wrong_file_is_recognized_by_its_sum() {
    let fault: Fault = |body, _, out| send(out, "200 OK", "", &noise(99, body.len()));
    let said = survives(fault, &[]);
    assert!(
        said.starts_with("wrong checksum: 150000 bytes with "),
        "{said}"
    );
}

#[test]
fn a_body_that_ends_early_is_recognized() {
    let fault: Fault = |body, _, out| {
        head(
            out,
            "200 OK",
            &format!("Content-Length: {}\r\n", body.len()),
        )?;
        out.write_all(&body[..body.len() / 2])?;
        Ok(After::Close)
    };
    assert_eq!(survives(fault, &[]), "the connection was closed too early");
    let chunked: Fault = |body, _, out| {
        head(out, "200 OK", "Transfer-Encoding: chunked\r\n")?;
        out.write_all(format!("{:x}\r\n", body.len()).as_bytes())?;
        out.write_all(&body[..1000])?;
        Ok(After::Close)
    };
    assert_eq!(
        survives(chunked, &[]),
        "the connection was closed too early"
    );
    let undelimited: Fault = |body, _, out| {
        out.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
        out.write_all(&body[..1000])?;
        Ok(After::Close)
    };
    assert!(survives(undelimited, &[]).starts_with("wrong checksum: 1000 bytes"));
}

#[test]
fn a_reset_connection_is_recognized() {
    let fault: Fault = |_, _, _| Ok(After::Reset);
    assert_eq!(survives(fault, &[]), "the connection was closed too early");
}

#[test]
fn a_server_that_stalls_is_given_up() {
    let fault: Fault = |body, _, out| {
        head(
            out,
            "200 OK",
            &format!("Content-Length: {}\r\n", body.len()),
        )?;
        out.write_all(&body[..5000])?;
        std::thread::sleep(Duration::from_secs(20));
        Ok(After::Close)
    };
    let said = survives(fault, &["--stall-timeout", "1"]);
    assert_eq!(said, "sent no byte for 1 s");
    let silent: Fault = |_, _, _| {
        std::thread::sleep(Duration::from_secs(20));
        Ok(After::Close)
    };
    let said = survives(silent, &["--stall-timeout", "1"]);
    assert_eq!(said, "sent no byte for 1 s");
}

#[test]
fn redirects_in_a_circle_end() {
    let fault: Fault = |_, request, out| {
        send(
            out,
            "302 Found",
            &format!("Location: {}\r\n", request.target),
            b"",
        )
    };
    assert_eq!(survives(fault, &[]), "more than 10 redirects");
    let nowhere: Fault = |_, _, out| send(out, "301 Moved", "", b"");
    assert_eq!(survives(nowhere, &[]), "a bad redirect (no target)");
    let file: Fault = |_, _, out| send(out, "301 Moved", "Location: file:///etc/passwd\r\n", b"");
    assert!(survives(file, &[]).starts_with("a bad redirect ("));
}

#[test]
fn an_absurd_length_is_refused_before_anything_is_stored() {
    let fault: Fault = |body, _, out| {
        head(out, "200 OK", "Content-Length: 9223372036854775808\r\n")?;
        out.write_all(body)?;
        Ok(After::Close)
    };
    let said = survives(fault, &[]);
    assert!(
        said.starts_with("announces 9223372036854775808 bytes"),
        "{said}"
    );
    let more: Fault = |_, _, out| {
        head(out, "200 OK", "Content-Length: 99999999999999999999999\r\n")?;
        Ok(After::Close)
    };
    survives(more, &[]);
}

#[test]
fn an_answer_that_is_no_http_is_recognized() {
    let fault: Fault = |_, _, out| {
        out.write_all(b"220 ftp.example.org ready\r\n\r\n")?;
        Ok(After::Close)
    };
    let said = survives(fault, &[]);
    assert!(said.starts_with("the answer is not valid HTTP"), "{said}");
    let endless: Fault = |_, _, out| {
        out.write_all(b"HTTP/1.1 200 OK\r\n")?;
        for _ in 0..20_000 {
            out.write_all(b"X-Filler: yes, and no end of it\r\n")?;
        }
        Ok(After::Close)
    };
    survives(endless, &[]);
}

#[test]
fn a_transfer_that_the_server_compressed_is_not_unpacked() {
    // An archive that is sent with this header is the archive itself; anything else has another
    // sum. Either way nothing is unpacked.
    let place = Place::new(&Files::new(1, 5000));
    let files = place.files.clone();
    let server = Server::start(move |request, out| {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        send(
            out,
            "200 OK",
            "Content-Encoding: gzip\r\n",
            files.of(request).unwrap(),
        )
    });
    Ran::of(&mut place.fetch_from(&[&server.url("/")], &[])).exits(0);
    place.has_all();
}

#[test]
fn nobody_listening_is_reported() {
    let place = Place::new(&Files::new(1, 500));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let good = place.files.serve();
    let report = json(&mut place.fetch_from(&[&dead, &good.url("/")], &[]), 0);
    assert_eq!(
        tries(&report, 0),
        "could not connect (Connection refused), complete"
    );
}

#[test]
fn a_server_that_asks_to_wait_is_asked_again_when_no_other_has_the_file() {
    let place = Place::new(&Files::new(1, 500));
    let files = place.files.clone();
    let first = std::sync::atomic::AtomicBool::new(true);
    let server = Server::start(move |request, out| {
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return send(out, "429 Slow Down", "Retry-After: 1\r\n", b"");
        }
        files.answer(request, out)
    });
    let report = json(&mut place.fetch_from(&[&server.url("/")], &[]), 0);
    assert_eq!(tries(&report, 0), "429 Too Many Requests, complete");
    place.has_all();
}

#[test]
fn a_host_that_fails_three_times_in_a_row_is_asked_no_more() {
    let place = Place::new(&Files::new(20, 500));
    let bad = Server::start(|_, out| send(out, "500 Oops", "", b""));
    let good = place.files.serve();
    let mirrors = [bad.url("/"), good.url("/")];
    let ran = Ran::of(&mut place.fetch_from(&[&mirrors[0], &mirrors[1]], &["--jobs", "1"]));
    ran.exits(0)
        .says("failed 3 times, other sources had the files (last: 500");
    place.has_all();
    assert_eq!(bad.requests().len(), 3);
}
