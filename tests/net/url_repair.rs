//! `repair --from URL`.

use std::path::{Path, PathBuf};

use crate::server::{Server, good, not_found};
use crate::support::{Ran, lbpayload, noise};
use crate::url::command;

/// A protected image, and its bytes when it was intact. More than can be healed is overwritten.
fn damaged(dir: &Path) -> (PathBuf, Vec<u8>) {
    let (input, image) = (dir.join("in"), dir.join("image"));
    std::fs::create_dir(&input).unwrap();
    std::fs::write(input.join("file"), noise(3, 2_000_000)).unwrap();
    let mut pack = lbpayload();
    pack.args(["pack", "--protect", "-o"])
        .arg(&image)
        .arg(&input);
    Ran::of(&mut pack).exits(0);
    let intact = std::fs::read(&image).unwrap();
    let mut bytes = intact.clone();
    bytes[400_000..1_600_000].fill(0xff);
    std::fs::write(&image, bytes).unwrap();
    (image, intact)
}

#[test]
fn repair_takes_intact_blocks_from_a_url() {
    let temp = tempfile::tempdir().unwrap();
    let (image, intact) = damaged(temp.path());
    let path = image.to_str().unwrap();
    Ran::of(&mut command(&["repair", path])).exits(1);
    let bytes = intact.clone();
    let server = Server::start(move |request, out| match request.path() {
        "/external.img" => good(request, out, &bytes),
        _ => not_found(out),
    });
    let url = server.url("/external.img?sig=hunter2");
    let ran = Ran::of(&mut command(&["repair", "--from", &url, path])).exits(0);
    assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"));
    assert!(std::fs::read(&image).unwrap() == intact);
}

#[test]
fn repair_says_why_a_url_gives_nothing_and_writes_to_none() {
    let temp = tempfile::tempdir().unwrap();
    let (image, _) = damaged(temp.path());
    let before = std::fs::read(&image).unwrap();
    let path = image.to_str().unwrap();
    let server = Server::start(|_, out| not_found(out));
    let url = server.url("/none?sig=hunter2");
    let ran = Ran::of(&mut command(&["repair", "--from", &url, path]))
        .exits(1)
        .says("404 Not Found")
        .says("help: check the URL");
    assert!(!ran.stderr.contains("hunter2"));
    assert!(std::fs::read(&image).unwrap() == before);
    for verb in ["repair", "protect"] {
        Ran::of(&mut command(&[verb, &url]))
            .exits(2)
            .says("is a URL, expected a file or a device")
            .says("download it first");
    }
}
