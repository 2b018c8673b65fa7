//! `lbpayload pack`: the images that it writes.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::fixture::{Place, as_tree, checkout, json, sample, sums_of};
use crate::support::{Image, Ran, check, lbpayload, noise, sha256sum};

/// The recipe of the project's users, without any code of ours.
const RECIPE: &str = r#"
le64() {
    n=$1 i=0
    while [ $i -lt 8 ]; do
        printf "\\$(printf %03o $((n & 255)))"
        n=$((n >> 8)) i=$((i + 1))
    done
}
printf LBPAYLD1
le64 "$(grep -c . "$1")"
while read -r name path; do
    [ -n "$name" ] || continue
    le64 "$(printf %s "$name" | wc -c)"
    le64 "$(wc -c < "$path")"
    printf %s "$name"
    cat "$path"
done < "$1"
"#;

/// A place with the sample's files in a directory `in`.
fn place() -> (Place, PathBuf) {
    let place = Place::with_bytes(b"");
    std::fs::remove_file(&place.image).unwrap();
    let dir = place.dir().join("in");
    std::fs::create_dir(&dir).unwrap();
    for (name, data) in as_tree(&sample()) {
        std::fs::write(dir.join(name), data).unwrap();
    }
    (place, dir)
}

#[test]
fn pack_of_a_directory_gives_the_same_image_as_the_sorted_generator() {
    let (place, dir) = place();
    let ran = lb!["pack", "-o", &place.image, &dir].exits(0);
    let closing = format!("packed 5 files (2.45 MiB) into {}\n", place.image.display());
    assert_eq!((ran.stdout, ran.stderr), (String::new(), closing));
    assert!(std::fs::read(&place.image).unwrap() == sample().bytes());
}

#[test]
fn pack_sorts_files_from_anywhere_by_the_bytes_of_their_names() {
    let place = Place::with_bytes(b"");
    let names = ["b", "B", "ä", "a-1", "a", "a.1", "Z", "~"];
    let mut paths: Vec<PathBuf> = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let dir = place.dir().join(i.to_string());
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(name), name).unwrap();
        paths.push(dir.join(name));
    }
    let mut sorted = names;
    sorted.sort_unstable();
    let files: Vec<(&str, &[u8])> = sorted.iter().map(|n| (*n, n.as_bytes())).collect();
    let mut command = lbpayload();
    Ran::of(command.arg("pack").arg("-o").arg(&place.image).args(&paths)).exits(0);
    assert_eq!(
        std::fs::read(&place.image).unwrap(),
        Image::new(&files).bytes()
    );
}

#[test]
fn pack_of_a_list_gives_the_same_image_as_the_shell_recipe() {
    let (place, dir) = place();
    let odd = place.file("with blank in it", noise(9, 300));
    let text = format!(
        "z-first {0}/c-large\n\n  \na-second {0}/b-small\nm\t{0}/a-empty\nodd {1}\n",
        dir.display(),
        odd.display()
    );
    let list = place.file("external.list", text.replace("  \n", ""));
    let expected = place.dir().join("expected.img");
    let out = std::fs::File::create(&expected).unwrap();
    let ok = Command::new("sh")
        .args(["-c", RECIPE, "sh"])
        .arg(&list)
        .stdout(out)
        .status();
    assert!(ok.unwrap().success());
    lb!["pack", "--list", &list, "-o", &place.image].exits(0);
    let (ours, theirs) = (
        std::fs::read(&place.image).unwrap(),
        std::fs::read(&expected).unwrap(),
    );
    assert!(ours == theirs, "{} and {} bytes", ours.len(), theirs.len());
    let ran = lb!["list", &place.image].exits(0);
    let names: Vec<&str> = ran
        .stdout
        .lines()
        .map(|l| l.split_whitespace().nth(1).unwrap())
        .collect();
    assert_eq!(names, ["z-first", "a-second", "m", "odd"]);
    // Lines with only blanks count as empty lines too.
    let blanks = place.file("blanks.list", &text);
    lb!["pack", "--list", &blanks, "-o", &place.image].exits(0);
    assert!(std::fs::read(&place.image).unwrap() == theirs);
}

#[test]
fn pack_to_standard_output_gives_the_same_image() {
    let (_place, dir) = place();
    let ran = lb!["pack", "-o", "-", &dir].exits(0);
    assert!(
        ran.stdout_bytes == sample().bytes(),
        "{} bytes",
        ran.stdout_bytes.len()
    );
    assert_eq!(
        ran.stderr,
        "packed 5 files (2.45 MiB) into standard output\n"
    );
}

#[test]
fn pack_does_not_depend_on_order_and_times_of_the_inputs() {
    let (place, dir) = place();
    let other = place.dir().join("other.img");
    let file = |name: &str| dir.join(name);
    let all = ["e-last", "a-empty", "d-medium", "b-small", "c-large"].map(file);
    lb!["pack", "-o", &place.image, &dir].exits(0);
    check(Command::new("touch").args(["-d", "2001-02-03"]).args(&all));
    let mut command = lbpayload();
    Ran::of(command.arg("pack").args(&all).arg("-o").arg(&other)).exits(0);
    assert!(std::fs::read(&place.image).unwrap() == std::fs::read(&other).unwrap());
}

#[test]
fn pack_prints_a_json_report() {
    let (place, dir) = place();
    let ran = lb!["pack", "--json", "--pad", "4K", "-o", &place.image, &dir].exits(0);
    let report = json(&ran);
    let payload = sample().bytes().len();
    assert_eq!(report["output"], json!(place.image));
    assert_eq!(report["dialect"], "u64");
    assert_eq!(report["files"], 5);
    assert_eq!(report["payload_bytes"], payload);
    assert_eq!(report["image_bytes"], payload.next_multiple_of(4096));
}

#[test]
fn pack_pads_with_zeros_only_on_request() {
    let (place, dir) = place();
    let payload = sample().bytes();
    for (pad, multiple) in [
        ("512", 512),
        ("4K", 4096),
        ("1M", 1 << 20),
        ("1000", 1000),
        ("1", 1),
    ] {
        lb!["pack", "--pad", pad, "-o", &place.image, &dir].exits(0);
        let image = std::fs::read(&place.image).unwrap();
        assert_eq!(
            image.len(),
            payload.len().next_multiple_of(multiple),
            "--pad {pad}"
        );
        assert!(image.starts_with(&payload), "--pad {pad}");
        assert!(
            image[payload.len()..].iter().all(|&b| b == 0),
            "--pad {pad}"
        );
        let ran = lb!["pack", "--pad", pad, "-o", "-", &dir].exits(0);
        assert!(ran.stdout_bytes == image, "--pad {pad} to standard output");
    }
    lb!["verify", &place.image].exits(0);
}

#[test]
fn pack_writes_the_u32_dialect_on_request() {
    let (place, dir) = place();
    lb!["pack", "--dialect", "u32", "-o", &place.image, &dir].exits(0);
    assert!(std::fs::read(&place.image).unwrap() == sample().narrow().bytes());
    lb!["pack", "--dialect", "u64", "-o", &place.image, &dir].exits(0);
    assert!(std::fs::read(&place.image).unwrap() == sample().bytes());
}

#[test]
fn pack_of_nothing_is_a_payload_without_files_only_on_request() {
    let (place, _) = place();
    let empty = place.dir().join("nothing");
    std::fs::create_dir(&empty).unwrap();
    let list = place.file("empty.list", "\u{feff}\n  \n");
    let root = checkout(place.dir(), "build: a\n", &[("a", "")]);
    let inputs: [&[&OsStr]; 3] = [
        &[empty.as_os_str()],
        &["--list".as_ref(), list.as_os_str()],
        &["--live-bootstrap".as_ref(), root.as_os_str()],
    ];
    for inputs in inputs {
        let pack = |options: &[&str]| {
            let mut command = lbpayload();
            command
                .arg("pack")
                .args(options)
                .arg("-o")
                .arg(&place.image);
            Ran::of(command.args(inputs))
        };
        let ran = pack(&["--json"]).exits(1).says("--allow-empty");
        ran.with_code("nothing-to-pack");
        assert!(!place.image.exists());
        pack(&["--allow-empty"]).exits(0);
        assert_eq!(
            std::fs::read(&place.image).unwrap(),
            b"LBPAYLD1\0\0\0\0\0\0\0\0"
        );
        std::fs::remove_file(&place.image).unwrap();
    }
}

#[test]
fn pack_reads_a_list_from_standard_input() {
    let (place, dir) = place();
    let text = format!("\u{feff}z {0}/b-small\na {0}/a-empty\n", dir.display());
    let list = place.file("external.list", &text);
    let pack = |list: &Path| {
        let mut command = lbpayload();
        command
            .args(["pack", "--json", "--list", "-", "-o"])
            .arg(&place.image);
        Ran::of(command.stdin(File::open(list).unwrap()))
    };
    pack(&list).exits(0);
    let expected = Image::new(&[("z", b"hello"), ("a", b"")]).bytes();
    assert_eq!(std::fs::read(&place.image).unwrap(), expected);
    let wrong = place.file("wrong.list", "a relative\n");
    let error = pack(&wrong).exits(1).json_error();
    assert_eq!(error["path"], "standard input");
}

#[test]
fn verbose_pack_ends_with_the_checksum_of_the_image() {
    let (place, dir) = place();
    let ran = lb![
        "-v",
        "pack",
        "--pad",
        "4K",
        "--json",
        "-o",
        &place.image,
        &dir
    ]
    .exits(0);
    let sum = sha256sum(&std::fs::read(&place.image).unwrap());
    let report = json(&ran);
    assert_eq!(report["sha256"], sum);
    let last = ran.stderr.lines().last().unwrap();
    assert!(last.ends_with(&format!(", SHA-256 {sum}")), "{last}");
}

#[test]
fn verified_pack_reads_the_file_back_before_it_gets_its_name() {
    let (place, dir) = place();
    let ran = lb!["pack", "--verify", "--json", "-o", &place.image, &dir].exits(0);
    assert_eq!(json(&ran)["verified"], true);
    assert!(std::fs::read(&place.image).unwrap() == sample().bytes());
    let ran = lb!["pack", "--json", "-o", &place.image, &dir].exits(0);
    assert_eq!(json(&ran)["verified"], false);
    lb!["pack", "--verify", "-o", "-", &dir]
        .exits(2)
        .says("--verify");
}

#[test]
fn dry_run_of_pack_reports_and_writes_nothing() {
    let (place, dir) = place();
    let leftover = place.file(".lbpayload-killed.part", "x");
    let ran = lb!["pack", "--dry-run", "-o", &place.image, &dir].exits(0);
    let expected = format!(
        "would pack 5 files (2.45 MiB) into {}\n",
        place.image.display()
    );
    assert_eq!((ran.stdout, ran.stderr), (expected, String::new()));
    let ran = lb!["pack", "--dry-run", "--json", "-o", &place.image, &dir].exits(0);
    let report = json(&ran);
    assert_eq!(report["dry_run"], true);
    assert_eq!(report["payload_bytes"], sample().bytes().len());
    assert!(!place.image.exists() && leftover.exists());
    let missing = dir.join("missing");
    lb!["pack", "--dry-run", "-o", &place.image, &missing].exits(1);
}

#[test]
fn pack_removes_what_a_killed_pack_left_but_nothing_of_a_running_one() {
    let (place, dir) = place();
    // A pack that waits for the rest of its list.
    let mut command = lbpayload();
    let killed = place.file(".lbpayload-killed.part", "x");
    let other = place.file("mine.part", "x");
    let slow = place.dir().join("slow");
    std::fs::create_dir(&slow).unwrap();
    File::create(slow.join("large"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    command
        .arg("pack")
        .arg("-o")
        .arg(place.dir().join("slow.img"))
        .arg(&slow);
    let mut running = command.spawn().unwrap();
    let parts = || {
        let names = tree_names(place.dir());
        let is_part = |name: &String| name.starts_with(".lbpayload-") && !name.contains("killed");
        names.into_iter().find(is_part)
    };
    let running_part = loop {
        // It is locked before it is written to.
        let part = parts().map(|name| place.dir().join(name));
        if let Some(part) = part.filter(|part| part.metadata().is_ok_and(|meta| meta.len() > 0)) {
            break part;
        }
        assert!(running.try_wait().unwrap().is_none(), "it ended too soon");
    };
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(running.id() as i32),
        nix::sys::signal::Signal::SIGSTOP,
    )
    .unwrap();
    lb!["pack", "-o", &place.image, &dir].exits(0);
    assert!(!killed.exists() && other.exists());
    assert!(
        running_part.exists(),
        "the file of a running pack was removed"
    );
    running.kill().unwrap();
    running.wait().unwrap();
    lb!["pack", "-o", &place.image, &dir].exits(0);
    assert!(!running_part.exists());
}

fn tree_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_leftover_in_the_directory_of_the_output_is_not_packed() {
    let (_place, dir) = place();
    std::fs::write(dir.join(".lbpayload-killed.part"), "x").unwrap();
    let ran = lb!["pack", "--json", "-o", dir.join("out.img").as_path(), &dir].exits(0);
    assert_eq!(json(&ran)["files"], 5);
}

#[test]
fn pack_names_all_missing_distfiles_with_their_urls() {
    let place = Place::with_bytes(b"the old image");
    let sources: String = (0..30)
        .map(|n| format!("f https://x/y/{n:02}.tar {}\n", sha256sum(b"")))
        .collect();
    let root = checkout(place.dir(), "build: a\n", &[("a", &sources)]);
    for n in [3, 4, 5] {
        std::fs::write(root.join(format!("distfiles/{n:02}.tar")), "").unwrap();
    }
    let ran = lb![
        "pack",
        "--json",
        "--live-bootstrap",
        &root,
        "-o",
        &place.image
    ]
    .exits(1);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let first = format!(
        "27 of 30 files are missing in `{}/distfiles`",
        root.display()
    );
    // A warning comes first: the manifest has no import.
    assert!(lines[1].ends_with(&first), "{}", ran.stderr);
    let named = lines.iter().filter(|line| line.contains("note: `"));
    assert_eq!(named.count(), 20, "{}", ran.stderr);
    let ran = ran
        .says("note: `00.tar` comes from https://x/y/00.tar\n")
        .says("note: and 7 more\n");
    let error = ran.json_error();
    assert_eq!(error["code"], "missing-distfiles");
    let missing = error["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 27);
    let last = json!({"name": "29.tar", "url": "https://x/y/29.tar"});
    assert_eq!(missing[26], last);
    assert_eq!(std::fs::read(&place.image).unwrap(), b"the old image");
}

#[test]
fn embedded_checksums_are_the_last_file_and_sha256sum_accepts_them() {
    let (place, dir) = place();
    // A name that sorts after SHA256SUMS and one that sorts before it.
    lb!["pack", "--embed-checksums", "-o", &place.image, &dir].exits(0);
    let mut expected = sample();
    expected
        .files
        .push((b"SHA256SUMS".to_vec(), sums_of(&sample()).into_bytes()));
    assert!(std::fs::read(&place.image).unwrap() == expected.bytes());
    lb!["import", "--device", &place.image, &place.dest].exits(0);
    let said = check(
        Command::new("sha256sum")
            .args(["-c", "SHA256SUMS"])
            .current_dir(&place.dest),
    );
    assert_eq!(said.matches(": OK").count(), 5);
}

#[test]
fn pack_checks_its_inputs_against_checksums() {
    let (place, dir) = place();
    let extra = format!("{}{}  not-packed\n", sums_of(&sample()), sha256sum(b""));
    let sums = place.file("SUMS", extra);
    lb!["pack", "--checksums", &sums, "-o", &place.image, &dir].exits(0);
    assert!(std::fs::read(&place.image).unwrap() == sample().bytes());
}

#[test]
fn pack_includes_the_sources_that_live_bootstrap_needs_after_its_import() {
    let place = Place::with_bytes(b"");
    let sum = |name: &str| sha256sum(name.as_bytes());
    let manifest = "# first\nbuild: early\nimprove: get_network ( X == True )\n\
                    improve: import_payload ( KernelBootstrap == True )\nbuild: late # comment\n\
                    build: early\nbuild: without-sources\n";
    let early = format!("f https://x/early.tar {}\n", sum("early.tar"));
    let late = format!(
        "file https://x/y/z.tar {}\nf https://x/early.tar {}\n\
         g https://git/r https://x/snap.tgz {} a-renamed.tgz\nf https://x/z.tar {0}\n",
        sum("z.tar"),
        sum("early.tar"),
        sum("a-renamed.tgz"),
    );
    let root = checkout(place.dir(), manifest, &[("early", &early), ("late", &late)]);
    for name in ["early.tar", "z.tar", "a-renamed.tgz", "unrelated"] {
        std::fs::write(root.join("distfiles").join(name), name).unwrap();
    }
    lb!["pack", "--live-bootstrap", &root, "-o", &place.image].exits(0);
    let expected = Image::new(&[("a-renamed.tgz", b"a-renamed.tgz"), ("z.tar", b"z.tar")]);
    assert_eq!(std::fs::read(&place.image).unwrap(), expected.bytes());

    std::fs::write(root.join("distfiles/z.tar"), "damaged").unwrap();
    let ran = lb!["pack", "--live-bootstrap", &root, "-o", &place.image].exits(1);
    let ran = ran.says("distfiles/z.tar").says("checksum does not match");
    assert_eq!(
        std::fs::read(&place.image).unwrap(),
        expected.bytes(),
        "{}",
        ran.stderr
    );
    std::fs::remove_file(root.join("distfiles/z.tar")).unwrap();
    lb!["pack", "--live-bootstrap", &root, "-o", &place.image]
        .exits(1)
        .says("1 of 2 files are missing")
        .says("note: `z.tar` comes from https://x/y/z.tar\n");
}

#[test]
fn pack_warns_if_the_manifest_has_no_import() {
    let place = Place::with_bytes(b"");
    let source = format!("f https://x/a.tar {}\n", sha256sum(b"a"));
    let root = checkout(place.dir(), "build: a\n", &[("a", &source)]);
    std::fs::write(root.join("distfiles/a.tar"), "a").unwrap();
    lb!["pack", "--live-bootstrap", &root, "-o", &place.image]
        .exits(0)
        .says("lbpayload: warning: ");
    assert_eq!(
        std::fs::read(&place.image).unwrap(),
        Image::new(&[("a.tar", b"a")]).bytes()
    );
}

#[test]
fn checksums_that_differ_from_the_live_bootstrap_sources_are_refused() {
    let place = Place::new(&Image::new(&[("a.tar", b"a")]));
    let before = std::fs::read(&place.image).unwrap();
    let source = format!("f https://x/a.tar {}\n", sha256sum(b"a"));
    let root = checkout(place.dir(), "build: a\n", &[("a", &source)]);
    std::fs::write(root.join("distfiles/a.tar"), "a").unwrap();
    let sums = place.file("SUMS", format!("{}  a.tar\n", sha256sum(b"b")));
    let given = |command: &str| {
        let mut given = lbpayload();
        given.arg(command).arg("--checksums").arg(&sums);
        given.arg("--live-bootstrap").arg(&root);
        given
    };
    for command in [given("pack").arg("-o"), &mut given("verify")] {
        Ran::of(command.arg(&place.image)).exits(1).says("a.tar");
        assert!(std::fs::read(&place.image).unwrap() == before);
    }
}

#[test]
fn pack_follows_a_symlink_to_its_output_and_keeps_the_link() {
    let (place, dir) = place();
    let link = place.dir().join("link.img");
    std::fs::write(&place.image, "old").unwrap();
    std::os::unix::fs::symlink(&place.image, &link).unwrap();
    lb!["pack", "-o", &link, &dir].exits(0);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(std::fs::read(&place.image).unwrap() == sample().bytes());
}
