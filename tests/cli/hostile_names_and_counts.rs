//! Names, counts and lists made by an attacker.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::support::{Image, TempDir, run, tree};

fn place(image: &Image) -> (TempDir, std::path::PathBuf, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (source, dest) = (dir.path().join("s.img"), dir.path().join("dest"));
    image.write(&source);
    (dir, source, dest)
}

fn import(source: &Path, dest: &Path) -> crate::support::Ran {
    run([
        OsStr::new("import"),
        OsStr::new("--device"),
        source.as_os_str(),
        dest.as_os_str(),
    ])
}

#[test]
fn import_never_replaces_the_image_it_reads() {
    let (_dir, source, dest) = place(&Image::new(&[("self.img", b"small"), ("b", b"2")]));
    std::fs::create_dir(&dest).unwrap();
    let inside = dest.join("self.img");
    std::fs::rename(&source, &inside).unwrap();
    let before = std::fs::read(&inside).unwrap();
    import(&inside, &dest)
        .exits(1)
        .says("name of the image itself");
    assert_eq!(tree(&dest), [("self.img".to_owned(), before)]);
}

#[test]
fn false_count_takes_no_more_time_than_the_existing_entries() {
    // A count that is possible in a sparse 64 GB file, a few entries, and then
    // invalid data.
    let (_dir, source, _) = place(&Image::new(&[]));
    let mut bytes = b"LBPAYLD1".to_vec();
    bytes.extend_from_slice(&3_700_000_000_u64.to_le_bytes());
    for n in 0..20_000_u64 {
        let name = format!("{n}");
        bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&0_u64.to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    std::fs::write(&source, bytes).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&source)
        .unwrap()
        .set_len(64_000_000_000)
        .unwrap();
    // The test does not measure time. When the count was trusted, this took minutes.
    run([OsStr::new("probe"), source.as_os_str()])
        .exits(3)
        .says("the name length is 0");
}

#[test]
fn all_duplicate_names_are_counted() {
    let files: Vec<(String, Vec<u8>)> = (0..3000)
        .map(|n| (format!("{}", n % 1500), vec![]))
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
    let (_dir, source, _) = place(&Image::new(&files));
    run([OsStr::new("verify"), source.as_os_str()])
        .exits(1)
        .says("500 more problems");
    run([OsStr::new("list"), source.as_os_str()])
        .exits(1)
        .says("1500 problems");
}

#[test]
fn json_report_works_with_a_path_that_is_not_utf8() {
    let (dir, source, _) = place(&Image::new(&[("a", b"1")]));
    let dest = dir.path().join(OsStr::from_bytes(b"d\xff"));
    let args = ["import", "--json", "--device"].map(OsStr::new);
    let ran = run(args
        .into_iter()
        .chain([source.as_os_str(), dest.as_os_str()]))
    .exits(0);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(report["dest"].as_str().unwrap().ends_with("d\u{fffd}"));
}

#[test]
fn cat_accepts_a_name_that_is_not_utf8() {
    let mut image = Image::new(&[("x", b"bytes")]);
    image.files[0].0 = b"\xff\xfe".to_vec();
    let (_dir, source, _) = place(&image);
    let name = OsStr::from_bytes(b"\xff\xfe");
    let ran = run([OsStr::new("cat"), source.as_os_str(), name]).exits(0);
    assert_eq!(ran.stdout, "bytes");
}

#[test]
fn unreadable_embedded_checksums_do_not_stop_verify_or_import_with_checksums() {
    let text: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----\n";
    let (dir, source, dest) = place(&Image::new(&[
        ("a", b"1"),
        ("..", b"2"),
        ("SHA256SUMS", text),
    ]));
    let ran = run([
        OsStr::new("verify"),
        OsStr::new("--json"),
        source.as_os_str(),
    ])
    .exits(1);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let kinds: Vec<_> = report["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["kind"].clone())
        .collect();
    assert_eq!(kinds, ["name-refused", "bad-checksums"]);
    Image::new(&[("a", b"1"), ("SHA256SUMS", text)]).write(&source);
    import(&source, &dest)
        .exits(1)
        .says("SHA256SUMS")
        .says("--checksums FILE");
    let sums = dir.path().join("sums");
    std::fs::write(&sums, format!("{}  a\n", crate::support::sha256sum(b"1"))).unwrap();
    let args = ["import", "--checksums"].map(OsStr::new);
    run(args.into_iter().chain([
        sums.as_os_str(),
        OsStr::new("--device"),
        source.as_os_str(),
        dest.as_os_str(),
    ]))
    .exits(0)
    .says("warning: using only the checksums that were given");
}

#[test]
fn temporary_file_of_a_killed_pack_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".lbpayload-AbCdEf.part"), "half").unwrap();
    let out = dir.path().with_extension("img");
    run([
        OsStr::new("pack"),
        OsStr::new("-o"),
        out.as_os_str(),
        dir.path().as_os_str(),
    ])
    .exits(1)
    .says(".lbpayload-AbCdEf.part");
    assert!(!out.exists());
}

#[test]
fn names_with_bidirectional_control_characters_are_shown_escaped() {
    let (_dir, source, _) = place(&Image::new(&[("a\u{202e}gpj.exe", b"1")]));
    let ran = run([OsStr::new("list"), source.as_os_str()]).exits(0);
    assert_eq!(ran.stdout, "           1 a\\u{202e}gpj.exe\n");
}
