//! What the commands say when a URL cannot be read: the cause decides the help.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fixture::Files;
use crate::nginx::{Nginx, is_missing};
use crate::server::{After, Server, good, head, send};
use crate::support::{Image, Ran, lbpayload, noise};
use crate::url::command;

/// Runs each command that reads the URL, with the variables, and asserts what each says.
#[track_caller]
fn all_say(url: &str, variables: &[(&str, &Path)], said: &[&str]) {
    let out = tempfile::tempdir().unwrap();
    let (dest, list) = (out.path().join("out"), out.path().join("list"));
    let dest = dest.to_str().unwrap();
    let sum = "0".repeat(64);
    std::fs::write(&list, format!("{url} {sum} x\n")).unwrap();
    for args in [
        &["list", url][..],
        &["verify", url],
        &["cat", url, "x"],
        &["probe", url],
        &["mount", url, out.path().to_str().unwrap()],
        &["import", "--device", url, dest],
        &["fetch", "--list", list.to_str().unwrap(), "--dest", dest],
    ] {
        let mut command = command(args);
        command.envs(variables.iter().copied());
        let ran = Ran::of(&mut command);
        assert!(matches!(ran.status, Some(1 | 3)), "{args:?}");
        let count = ran.stderr.matches("help: ").count();
        assert_eq!(count, 1, "{args:?}: {}", ran.stderr);
        for words in said {
            assert!(ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_certificate_error_says_what_to_do_about_that_certificate() {
    if is_missing() {
        return;
    }
    let nginx = Nginx::start();
    let authority = nginx.authority();
    let trusting: &[(&str, &Path)] = &[("SSL_CERT_FILE", &authority)];
    let at = |host: &str, port: u16| format!("https://{host}:{port}/x");
    all_say(
        &at("localhost", nginx.tls),
        &[],
        &[
            "its certificate is from an unknown authority",
            "install the certificates of the authorities (package ca-certificates)",
            "SSL_CERT_FILE=FILE",
        ],
    );
    all_say(
        &at("localhost", nginx.expired),
        trusting,
        &["its certificate has expired", "check the clock (`date`)"],
    );
    all_say(
        &at("127.0.0.3", nginx.tls),
        trusting,
        &[
            "its certificate is for another host",
            "check the name of the host in the URL",
        ],
    );
    all_say(
        &at("localhost", nginx.plain),
        trusting,
        &[
            "TLS failed",
            "it may be one for http:// and not for https://",
        ],
    );
    let empty = tempfile::NamedTempFile::new().unwrap();
    all_say(
        &at("localhost", nginx.tls),
        &[
            ("SSL_CERT_FILE", empty.path()),
            ("SSL_CERT_DIR", Path::new("/nonexistent")),
        ],
        &[
            "this system has no certificates of authorities",
            "ca-certificates",
        ],
    );
}

#[test]
fn a_proxy_that_refuses_or_is_not_there_is_named() {
    let url = "http://host.invalid/x";
    let refuses = |status: &'static str| {
        Server::start(move |_, out| head(out, status, "").map(|()| After::Close))
    };
    let variable = |address: &str| address.to_owned();
    for (status, words, help) in [
        ("403 Forbidden", "refused (403 Forbidden)", "NO_PROXY"),
        (
            "407 Proxy Authentication Required",
            "refused (407 Proxy Authentication Required)",
            "HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
        ),
    ] {
        let proxy = refuses(status);
        let named = format!("the proxy 127.0.0.1:{}", proxy.port());
        let address = variable(&proxy.url(""));
        all_say(
            url,
            &[("HTTP_PROXY", Path::new(&address))],
            &[&named, words, help],
        );
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    all_say(
        &format!("http://{address}/x"),
        &[],
        &[
            "could not connect (Connection refused)",
            "check whether the server runs on this port",
        ],
    );
    let named = format!("could not connect (Connection refused), through the proxy {address}");
    let variable = format!("http://user:hunter2@{address}");
    all_say(
        url,
        &[("HTTP_PROXY", Path::new(&variable))],
        &[&named, "NO_PROXY"],
    );
    all_say(
        url,
        &[],
        &[
            "the host was not found",
            "check the name of the host and the network",
        ],
    );
}

#[test]
fn no_network_at_all_says_so() {
    for args in [
        &["list", "https://198.51.100.1/x"][..],
        &[
            "import",
            "--device",
            "https://198.51.100.1/x",
            "/nonexistent",
        ],
    ] {
        // A namespace without a network, where not even 127.0.0.1 can be reached.
        let mut command = Command::new("unshare");
        command.args(["--net", "--map-root-user"]);
        command.arg(lbpayload().get_program()).args(args);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        Ran::of(&mut command)
            .exits(1)
            .says("could not connect (Network is unreachable)")
            .says("help: check the network, and the proxy if you need one");
    }
}

#[test]
fn a_server_that_fails_in_the_middle_is_not_called_a_bad_disk() {
    let file = |n: u64| (format!("f{n:02}").into_bytes(), noise(n, 700_000));
    let image = Image {
        wide: true,
        files: (0..12).map(file).collect(),
    };
    for (status, words, help) in [
        (
            "500 Oops",
            "500 Internal Server Error",
            "try it again later",
        ),
        (
            "403 Expired",
            "403 Forbidden",
            "whether a signed URL has expired",
        ),
    ] {
        // Protected, for what is read through another source.
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("image");
        image.write(&path);
        for is_protected in [false, true] {
            if is_protected {
                Ran::of(lbpayload().arg("protect").arg(&path)).exits(0);
            }
            let bytes = std::fs::read(&path).unwrap();
            let dest = temp.path().join("out");
            for args in [
                &["verify"][..],
                &["cat"],
                &["import", dest.to_str().unwrap(), "--device"],
            ] {
                let (bytes, asked) = (bytes.clone(), AtomicUsize::new(0));
                let server = Server::start(move |request, out| {
                    let is_data = request.range().is_some_and(|(first, last)| {
                        last.is_some_and(|last| last - first > 16 * 1024)
                    });
                    match is_data && asked.fetch_add(1, Ordering::SeqCst) >= 1 {
                        false => good(request, out, &bytes),
                        true => send(out, status, "", b""),
                    }
                });
                let names = if args[0] == "cat" {
                    &["f00", "f05", "f10"][..]
                } else {
                    &[]
                };
                let url = server.url("/x");
                let args = [args, &[&url], names].concat();
                let ran = Ran::of(&mut command(&args)).exits(1);
                let seen = format!("{args:?}, protected: {is_protected}: {}", ran.stderr);
                assert!(ran.stderr.contains(words), "{seen}");
                assert!(ran.stderr.contains(help), "{seen}");
                for wrong in ["check the disk", "ddrescue", "--retries", "bad sector"] {
                    assert!(!ran.stderr.contains(wrong), "{wrong}: {seen}");
                }
            }
        }
    }
}

#[test]
fn probe_says_why_a_url_has_no_payload() {
    let empty = Server::start(|request, out| good(request, out, b"no payload at all"));
    let files = Files::new(1, 1);
    let nobody = files.serve();
    Ran::of(&mut command(&["probe", &empty.url("/x")]))
        .exits(3)
        .says("no payload in")
        .says("help: check the URL");
    Ran::of(&mut command(&["probe", &nobody.url("/none")]))
        .exits(3)
        .says("404 Not Found")
        .says("help: check the URL");
}
