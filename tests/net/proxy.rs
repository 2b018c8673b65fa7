//! The proxy variables.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fixture::{Files, Place, json, tries};
use crate::server::{After, Server, head};
use crate::support::Ran;

/// A proxy that passes everything on to `port` of this machine, and counts its connections.
fn proxy(port: u16) -> (Server, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let server = Server::start(move |request, out| {
        if request.method != "CONNECT" {
            return crate::server::not_found(out);
        }
        counted.fetch_add(1, Ordering::SeqCst);
        let mut target = TcpStream::connect(("127.0.0.1", port))?;
        head(out, "200 Connection established", "")?;
        let (mut from, mut to) = (out.try_clone()?, target.try_clone()?);
        let up = std::thread::spawn(move || pass(&mut from, &mut to));
        pass(&mut target, out);
        let _ = up.join();
        Ok(After::Close)
    });
    (server, count)
}

fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    let mut buf = [0; 8192];
    while let Ok(n @ 1..) = from.read(&mut buf) {
        if to.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

#[test]
fn the_proxy_of_the_environment_is_used_and_no_proxy_leaves_it_out() {
    let place = Place::new(&Files::new(2, 1000));
    let server = place.files.serve();
    let (proxy, count) = proxy(server.port());
    // Only the proxy can find this host.
    let fetch = || place.fetch_from(&["http://mirror.invalid/d"], &[]);
    let address = proxy.url("");
    Ran::of(fetch().env("HTTP_PROXY", &address)).exits(0);
    place.has_all();
    assert!(count.load(Ordering::SeqCst) > 0);
    std::fs::remove_dir_all(place.dest()).unwrap();
    let mut command = fetch();
    command
        .env("HTTP_PROXY", &address)
        .env("NO_PROXY", "mirror.invalid");
    Ran::of(&mut command)
        .exits(1)
        .says("the host was not found");
}

#[test]
fn a_proxy_that_refuses_or_is_not_there_is_named_as_the_cause() {
    let place = Place::new(&Files::new(1, 1000));
    let refuses = Server::start(|_, out| head(out, "403 Forbidden", "").map(|()| After::Close));
    let mut command = place.fetch_from(&["http://mirror.invalid/"], &[]);
    let report = json(command.env("HTTP_PROXY", refuses.url("")), 1);
    assert!(
        tries(&report, 0).ends_with(" refused (403 Forbidden)"),
        "{report}"
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut command = place.fetch_from(&["http://mirror.invalid/"], &[]);
    Ran::of(command.env("HTTP_PROXY", &dead))
        .exits(1)
        .says("could not connect (Connection refused)")
        .says("help: check the proxy (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY)");
}
