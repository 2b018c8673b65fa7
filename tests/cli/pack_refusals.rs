//! `lbpayload pack`: what it refuses, and that the output is then what it was.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::fixture::{Place, spoil, sums_of};
use crate::support::{Image, Ran, sha256sum, tree};

/// An output that is there already, and two files to pack.
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
        lb!["pack", "--list", &list, "-o", self.out()]
    }

    /// The run failed, said `parts`, and changed nothing.
    #[track_caller]
    fn refused(&self, ran: Ran, parts: &[&str]) {
        let mut ran = ran.exits(1);
        for part in parts {
            ran = ran.says(part);
        }
        assert!(
            ran.stderr.starts_with("lbpayload: error: "),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
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
    packing.refused(
        ran,
        &["external.list: line 2: the path is not absolute: \"in/two\"; a line is: NAME, a blank, the absolute PATH"],
    );
}

#[test]
fn pack_refuses_a_list_with_a_line_without_a_separator() {
    let packing = Packing::new();
    let ran = packing.list("\nalone\n");
    packing.refused(
        ran,
        &["external.list: line 2: no blank between name and path: \"alone\"; a line is"],
    );
}

#[test]
fn pack_refuses_a_list_with_a_missing_file() {
    let packing = Packing::new();
    let ran = packing.list(&format!(
        "one {0}/one\ngone {0}/gone\n",
        packing.dir.display()
    ));
    let gone = packing.dir.join("gone");
    packing.refused(ran, &[&gone.to_string_lossy(), "No such file or directory"]);
}

#[test]
fn a_fault_in_a_list_names_the_list_and_the_line() {
    let packing = Packing::new();
    let dir = packing.dir.display();
    for text in [
        format!("one {dir}/one\ngone {dir}/gone\n"),
        format!("one {dir}/one\none {dir}/two\n"),
        format!("one {dir}/one\ndir {dir}\n"),
    ] {
        packing.refused(packing.list(&text), &["external.list", "line 2"]);
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
        &["external.list: line 2: the name same stands twice, first in line 1"],
    );
}

#[test]
fn pack_refuses_a_list_with_a_name_that_no_payload_may_hold() {
    let packing = Packing::new();
    for (name, why) in [
        ("a/b", "the name holds '/'"),
        ("..", "the name is a directory's own"),
        ("a\\b", "the name holds '\\\\'"),
        (&*"x".repeat(256), "the name has 256 bytes"),
        ("a\x1bb", "the control character"),
        ("", "the name is empty"),
    ] {
        let ran = packing.list(&format!("{name} {}/one\n", packing.dir.display()));
        packing.refused(ran, &["external.list: line 1: ", why]);
    }
}

#[test]
fn pack_refuses_a_list_with_dos_line_ends_in_a_way_that_shows_them() {
    let packing = Packing::new();
    let ran = packing.list(&format!("one {}/one\r\n", packing.dir.display()));
    packing.refused(ran, &["line 1: it ends with a carriage return"]);
}

#[test]
fn pack_refuses_a_list_that_is_missing_or_a_directory() {
    let packing = Packing::new();
    let missing = packing.place.dir().join("no.list");
    let ran = lb!["pack", "--list", &missing, "-o", packing.out()];
    packing.refused(ran, &["reading", "no.list", "No such file"]);
    let ran = lb!["pack", "--list", &packing.dir, "-o", packing.out()];
    packing.refused(
        ran,
        &["reading", &packing.dir.to_string_lossy(), "directory"],
    );
}

#[test]
fn pack_refuses_a_directory_with_a_subdirectory() {
    let packing = Packing::new();
    std::fs::create_dir(packing.dir.join("sub")).unwrap();
    let ran = lb!["pack", "-o", packing.out(), &packing.dir];
    let sub = packing.dir.join("sub");
    packing.refused(
        ran,
        &[
            &sub.to_string_lossy(),
            "a subdirectory",
            "name the files, or move it away",
        ],
    );
}

#[test]
fn pack_refuses_the_same_name_from_two_directories() {
    let packing = Packing::new();
    let other = packing.place.dir().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("two"), "again").unwrap();
    let ran = lb!["pack", "-o", packing.out(), &packing.dir, &other];
    packing.refused(ran, &["the name two stands twice", "in/two", "other/two"]);
}

#[test]
fn pack_refuses_missing_inputs_and_inputs_that_are_no_files() {
    let packing = Packing::new();
    let missing = packing.dir.join("gone");
    let ran = lb!["pack", "-o", packing.out(), &missing];
    packing.refused(ran, &[&missing.to_string_lossy(), "No such file"]);
    let ran = lb!["pack", "-o", packing.out(), "/dev/null"];
    packing.refused(ran, &["/dev/null", "no regular file"]);
    let fifo = packing.place.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let ran = lb!["pack", "-o", packing.out(), &fifo];
    packing.refused(ran, &[&fifo.to_string_lossy(), "no regular file"]);
}

#[test]
fn pack_refuses_an_output_that_is_also_an_input() {
    let packing = Packing::new();
    let ran = lb!["pack", "-o", packing.out(), &packing.dir, packing.out()];
    packing.refused(ran, &["external.img", "the output is also an input"]);
    // The same file by another name.
    let link = packing.dir.join("link");
    std::fs::hard_link(packing.out(), &link).unwrap();
    let ran = lb!["pack", "-o", &link, packing.out()];
    packing.refused(ran, &["the output is also an input"]);
}

#[test]
fn pack_refuses_outputs_that_are_no_file() {
    let packing = Packing::new();
    for out in [&packing.dir, Path::new("/dev/null")] {
        let ran = lb!["pack", "-o", out, &packing.dir.join("one")];
        packing.refused(
            ran,
            &[
                "writing",
                &out.to_string_lossy(),
                "name a file, a block device, or - for standard output",
            ],
        );
    }
    let nowhere = packing.place.dir().join("nowhere/out.img");
    let ran = lb!["pack", "-o", &nowhere, &packing.dir];
    packing.refused(ran, &["nowhere", "No such file"]);
}

#[test]
fn pack_refuses_an_input_whose_checksum_is_wrong_missing_or_garbage() {
    let packing = Packing::new();
    let good = sums_of(&Image::new(&[("one", b"1"), ("two", b"22")]));
    let pack = |text: &str| {
        let sums = packing.place.file("SUMS", text);
        lb![
            "pack",
            "--checksums",
            &sums,
            "-o",
            packing.out(),
            &packing.dir
        ]
    };
    let (expected, found) = (sha256sum(b"something else"), sha256sum(b"22"));
    packing.refused(
        pack(&spoil(&good, "two")),
        &[
            "in/two",
            &format!("the checksum does not match: expected {expected}, found {found}"),
            "get the file again",
        ],
    );
    let (first, _) = good.split_at(good.find('\n').unwrap() + 1);
    packing.refused(
        pack(first),
        &["in/two", "no checksum is given for two", "add its line"],
    );
    packing.refused(
        pack("garbage\n"),
        &["SUMS", "line 1: no checksum: \"garbage\""],
    );
}

#[test]
fn pack_refuses_to_embed_checksums_beside_a_file_of_that_name() {
    let packing = Packing::new();
    std::fs::write(packing.dir.join("SHA256SUMS"), "").unwrap();
    let ran = lb![
        "pack",
        "--embed-checksums",
        "-o",
        packing.out(),
        &packing.dir
    ];
    packing.refused(ran, &["SHA256SUMS", "--embed-checksums"]);
}

#[test]
fn pack_refuses_what_the_early_dialect_cannot_hold_without_reading_it() {
    let packing = Packing::new();
    let huge = packing.dir.join("huge");
    // Nobody could read this within a test, or store it.
    File::create(&huge).unwrap().set_len(1 << 42).unwrap();
    let ran = lb![
        "pack",
        "--dialect",
        "u32",
        "-o",
        packing.out(),
        &packing.dir
    ];
    packing.refused(
        ran,
        &[
            &huge.to_string_lossy(),
            "4398046511104 does not fit the u32 dialect",
        ],
    );
    File::create(&huge).unwrap().set_len(1 << 32).unwrap();
    let ran = lb![
        "pack",
        "--dialect",
        "u32",
        "-o",
        packing.out(),
        &packing.dir
    ];
    packing.refused(ran, &["4294967296 does not fit the u32 dialect"]);
}

#[test]
fn every_refusal_of_pack_says_what_to_do_next() {
    let packing = Packing::new();
    let dir = &packing.dir;
    let out = packing.out();
    std::fs::write(dir.join("SHA256SUMS"), "").unwrap();
    let list = |text: String| packing.place.file("external.list", text);
    let d = dir.display();
    let huge = packing.place.dir().join("huge");
    File::create(&huge).unwrap().set_len(1 << 42).unwrap();
    let mut lacking = Vec::new();
    let mut look = |what: &str, ran: Ran| {
        let ran = ran.exits(1);
        if !ran.stderr.contains("; ") {
            lacking.push(format!("{what}: {}", ran.stderr.trim_end()));
        }
    };
    look(
        "missing file in a list",
        lb!["pack", "--list", &list(format!("x {d}/gone\n")), "-o", out],
    );
    look(
        "name twice in a list",
        lb![
            "pack",
            "--list",
            &list(format!("x {d}/one\nx {d}/two\n")),
            "-o",
            out
        ],
    );
    look(
        "directory in a list",
        lb!["pack", "--list", &list(format!("x {d}\n")), "-o", out],
    );
    look(
        "missing list",
        lb!["pack", "--list", &dir.join("gone"), "-o", out],
    );
    look("missing input", lb!["pack", &dir.join("gone"), "-o", out]);
    look("device as an input", lb!["pack", "/dev/null", "-o", out]);
    look(
        "embedding beside SHA256SUMS",
        lb!["pack", "--embed-checksums", dir, "-o", out],
    );
    look(
        "too large for u32",
        lb!["pack", "--dialect", "u32", &huge, "-o", out],
    );
    look(
        "no directory for the output",
        lb!["pack", dir, "-o", &dir.join("no/where")],
    );
    assert!(
        lacking.is_empty(),
        "{} messages:\n{}",
        lacking.len(),
        lacking.join("\n")
    );
}

#[test]
fn pack_needs_inputs_and_one_kind_of_them() {
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
        lb!["pack", "-o", "-", "--json", dir],
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
}
