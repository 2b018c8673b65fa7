//! `lbpayload pack`: what it refuses, and that the output stays unchanged then.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::fixture::{Place, fails_with, json, spoil, sums_of};
use crate::support::{Image, Ran, sha256sum, tree};

/// An existing output, and two files to pack.
struct Packing {
    place: Place,
    dir: PathBuf,
}

impl Packing {
    fn new() -> Self {
        let place = Place::with_bytes(b"the old image");
        let dir = place.dir().join("in");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("one"), "1").unwrap();
        std::fs::write(dir.join("two"), "22").unwrap();
        Self { place, dir }
    }

    fn out(&self) -> &Path {
        &self.place.image
    }

    fn list(&self, text: &str) -> Ran {
        let list = self.place.file("external.list", text);
        lb!["pack", "--json", "--list", &list, "-o", self.out()]
    }

    /// Asserts that the run failed with this code, printed `parts`, and changed
    /// nothing.
    #[track_caller]
    fn refused(&self, ran: Ran, code: &str, parts: &[&str]) {
        let error = fails_with(ran, code);
        let message = error["message"].as_str().unwrap();
        for part in parts {
            assert!(message.contains(part), "no {part:?} in: {message}");
        }
        assert_eq!(std::fs::read(self.out()).unwrap(), b"the old image");
        let left = tree(self.place.dir());
        assert!(
            !left.iter().any(|(name, _)| name.contains(".part")),
            "{left:?}"
        );
    }
}

#[test]
fn pack_refuses_a_list_with_a_relative_path() {
    let packing = Packing::new();
    let ran = packing.list(&format!("one {}/one\ntwo in/two\n", packing.dir.display()));
    packing.refused(ran, "syntax", &["external.list", "line 2", "in/two"]);
}

#[test]
fn pack_refuses_a_list_with_a_line_without_a_separator() {
    let packing = Packing::new();
    let ran = packing.list("\nalone\n");
    packing.refused(ran, "syntax", &["external.list", "line 2", "alone"]);
}

#[test]
fn pack_refuses_a_list_with_a_missing_file() {
    let packing = Packing::new();
    let ran = packing.list(&format!(
        "one {0}/one\ngone {0}/gone\n",
        packing.dir.display()
    ));
    let gone = packing.dir.join("gone");
    packing.refused(
        ran,
        "io",
        &["line 2", &gone.to_string_lossy(), "No such file"],
    );
}

#[test]
fn error_in_a_list_names_the_list_and_the_line() {
    let packing = Packing::new();
    let dir = packing.dir.display();
    for (text, code) in [
        (format!("one {dir}/one\ngone {dir}/gone\n"), "io"),
        (format!("one {dir}/one\none {dir}/two\n"), "name-repeated"),
        (format!("one {dir}/one\ndir {dir}\n"), "not-a-file"),
    ] {
        packing.refused(packing.list(&text), code, &["external.list", "line 2"]);
    }
}

#[test]
fn pack_refuses_a_list_with_a_name_given_twice() {
    let packing = Packing::new();
    let ran = packing.list(&format!(
        "same {0}/one\nsame {0}/two\n",
        packing.dir.display()
    ));
    packing.refused(
        ran,
        "name-repeated",
        &["external.list", "line 2", "same", "line 1"],
    );
}

#[test]
fn pack_refuses_a_list_with_an_invalid_name() {
    let packing = Packing::new();
    for (name, why) in [
        ("a/b", "contains '/'"),
        ("..", "\"..\""),
        ("a\\b", "contains '\\\\'"),
        (&*"x".repeat(256), "256 bytes"),
        ("a\x1bb", "the control character"),
        ("", "the name is empty"),
    ] {
        let ran = packing.list(&format!("{name} {}/one\n", packing.dir.display()));
        packing.refused(ran, "syntax", &["external.list", "line 1: ", why]);
    }
}

#[test]
fn pack_refuses_a_list_with_dos_line_ends_and_shows_them() {
    let packing = Packing::new();
    let ran = packing.list(&format!("one {}/one\r\n", packing.dir.display()));
    packing.refused(ran, "syntax", &["line 1: ", "carriage return"]);
}

#[test]
fn pack_refuses_a_list_that_is_missing_or_a_directory() {
    let packing = Packing::new();
    let missing = packing.place.dir().join("no.list");
    let ran = lb!["pack", "--json", "--list", &missing, "-o", packing.out()];
    packing.refused(ran, "io", &["no.list", "No such file"]);
    let ran = lb![
        "pack",
        "--json",
        "--list",
        &packing.dir,
        "-o",
        packing.out()
    ];
    packing.refused(ran, "io", &[&packing.dir.to_string_lossy(), "directory"]);
}

#[test]
fn pack_refuses_a_directory_with_a_subdirectory() {
    let packing = Packing::new();
    std::fs::create_dir(packing.dir.join("sub")).unwrap();
    let ran = lb!["pack", "--json", "-o", packing.out(), &packing.dir];
    let sub = packing.dir.join("sub");
    packing.refused(ran, "subdirectory", &[&sub.to_string_lossy()]);
}

#[test]
fn pack_refuses_the_same_name_from_two_directories() {
    let packing = Packing::new();
    let other = packing.place.dir().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("two"), "again").unwrap();
    let ran = lb!["pack", "--json", "-o", packing.out(), &packing.dir, &other];
    packing.refused(ran, "name-repeated", &["in/two", "other/two"]);
}

#[test]
fn pack_refuses_missing_inputs_and_inputs_that_are_not_files() {
    let packing = Packing::new();
    let missing = packing.dir.join("gone");
    let ran = lb!["pack", "--json", "-o", packing.out(), &missing];
    packing.refused(ran, "io", &[&missing.to_string_lossy(), "No such file"]);
    let ran = lb!["pack", "--json", "-o", packing.out(), "/dev/null"];
    packing.refused(
        ran,
        "not-a-file",
        &["/dev/null", "found a character device"],
    );
    let fifo = packing.place.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let ran = lb!["pack", "--json", "-o", packing.out(), &fifo];
    packing.refused(
        ran,
        "not-a-file",
        &[&fifo.to_string_lossy(), "found a FIFO"],
    );
}

#[test]
fn pack_refuses_an_output_that_is_also_an_input() {
    let packing = Packing::new();
    let ran = lb![
        "pack",
        "--json",
        "-o",
        packing.out(),
        &packing.dir,
        packing.out()
    ];
    packing.refused(ran, "output-is-input", &["external.img"]);
    // The same file under another name.
    let link = packing.dir.join("link");
    std::fs::hard_link(packing.out(), &link).unwrap();
    let ran = lb!["pack", "--json", "-o", &link, packing.out()];
    packing.refused(ran, "output-is-input", &[]);
}

#[test]
fn pack_refuses_outputs_that_are_not_files() {
    let packing = Packing::new();
    for out in [&packing.dir, Path::new("/dev/null")] {
        let ran = lb!["pack", "--json", "-o", out, &packing.dir.join("one")];
        packing.refused(ran, "not-a-file", &[&out.to_string_lossy()]);
    }
    let nowhere = packing.place.dir().join("nowhere/out.img");
    let ran = lb!["pack", "--json", "-o", &nowhere, &packing.dir];
    packing.refused(ran, "io", &["nowhere", "No such file"]);
}

#[test]
fn pack_refuses_an_input_with_a_wrong_missing_or_invalid_checksum() {
    let packing = Packing::new();
    let good = sums_of(&Image::new(&[("one", b"1"), ("two", b"22")]));
    let pack = |text: &str| {
        let sums = packing.place.file("SUMS", text);
        lb![
            "pack",
            "--json",
            "--checksums",
            &sums,
            "-o",
            packing.out(),
            &packing.dir
        ]
    };
    let (expected, found) = (sha256sum(b"something else"), sha256sum(b"22"));
    packing.refused(
        pack(&spoil(&good, "two")).says(&expected).says(&found),
        "checksum",
        &["in/two"],
    );
    let (first, _) = good.split_at(good.find('\n').unwrap() + 1);
    packing.refused(pack(first), "no-checksum", &["in/two"]);
    packing.refused(
        pack("garbage\n"),
        "syntax",
        &["SUMS", "line 1: ", "garbage"],
    );
}

#[test]
fn pack_refuses_to_embed_checksums_if_a_file_has_that_name() {
    let packing = Packing::new();
    std::fs::write(packing.dir.join("SHA256SUMS"), "").unwrap();
    let ran = lb![
        "pack",
        "--json",
        "--embed-checksums",
        "-o",
        packing.out(),
        &packing.dir
    ];
    packing.refused(ran, "name-repeated", &["SHA256SUMS", "embedded"]);
}

#[test]
fn pack_refuses_a_file_too_large_for_the_u32_dialect_without_reading_it() {
    let packing = Packing::new();
    let huge = packing.dir.join("huge");
    // The file is too large to read or store during a test.
    File::create(&huge).unwrap().set_len(1 << 42).unwrap();
    let ran = lb![
        "pack",
        "--json",
        "--dialect",
        "u32",
        "-o",
        packing.out(),
        &packing.dir
    ];
    packing.refused(
        ran,
        "too-large",
        &[&huge.to_string_lossy(), "4398046511104"],
    );
    File::create(&huge).unwrap().set_len(1 << 32).unwrap();
    let ran = lb![
        "pack",
        "--json",
        "--dialect",
        "u32",
        "-o",
        packing.out(),
        &packing.dir
    ];
    packing.refused(ran, "too-large", &["4294967296"]);
}

#[test]
fn pack_requires_inputs_of_exactly_one_kind() {
    let packing = Packing::new();
    let dir = &packing.dir;
    for ran in [
        lb!["pack", "-o", packing.out()],
        lb!["pack", dir],
        lb!["pack", "-o", packing.out(), "--list", dir, dir],
        lb!["pack", "-o", packing.out(), "--live-bootstrap", dir, dir],
        lb![
            "pack",
            "-o",
            packing.out(),
            "--live-bootstrap",
            dir,
            "--list",
            dir
        ],
        lb!["pack", "-o", packing.out(), "--dialect", "u16", dir],
        lb!["pack", "-o", packing.out(), "--pad", "0", dir],
        lb!["pack", "-o", packing.out(), "--pad", "1T", dir],
    ] {
        let ran = ran.exits(2);
        assert!(
            ran.stderr.starts_with("lbpayload: error: "),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "");
        assert_eq!(std::fs::read(packing.out()).unwrap(), b"the old image");
    }
    let ran = lb!["pack", "-o", "-", "--json", dir].exits(2);
    assert_eq!(json(&ran)["error"]["code"], "usage");
}
