//! Payloads that are large or have very many files: correct output, few reads, low
//! and constant memory use.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::fixture::{Place, json};
use crate::support::{Image, lbpayload, sha256sum, tree};

/// The memory limit for any image, in KiB.
const MEMORY_MAX_KIB: u64 = 64 * 1024;
const MANY: usize = 300_000;

/// A number from a file in /proc/PID, by its label.
fn of_process(child: &Child, file: &str, label: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with(label))
        .expect(label);
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs the program to its end. Returns standard output and the peak memory use up to
/// its last 70,000 bytes. That is more than a pipe holds, so the program is still
/// running and can be measured.
fn peak_memory_kib(command: &mut Command, stdout_bytes: usize) -> (Vec<u8>, u64) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut text = vec![0; stdout_bytes - 70_000];
    if stdout.read_exact(&mut text).is_err() {
        let out = child.wait_with_output().unwrap();
        panic!("it ended early: {}", String::from_utf8_lossy(&out.stderr));
    }
    let peak = of_process(&child, "status", "VmHWM:");
    stdout.read_to_end(&mut text).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    (text, peak)
}

/// Runs the program to its end. Returns standard output and the number of bytes read
/// by system calls. A process that has closed its standard output has finished
/// reading, and /proc still has its numbers until the test waits for it.
fn bytes_read(command: &mut Command) -> (Vec<u8>, u64) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    let read = of_process(&child, "io", "rchar:");
    assert!(child.wait().unwrap().success(), "{stderr}");
    (text, read)
}

const GIB: u64 = 1 << 30;

/// Hand-made headers without data between them: five files of 1 GiB and a small one.
fn write_sparse(path: &Path) {
    let file = File::create(path).unwrap();
    file.write_all_at(b"LBPAYLD1\x06\0\0\0\0\0\0\0", 0).unwrap();
    let mut at = 16;
    for (name, size) in [
        ("g0", GIB),
        ("g1", GIB),
        ("g2", GIB),
        ("g3", GIB),
        ("g4", GIB),
        ("me", 4),
    ] {
        let mut head = (name.len() as u64).to_le_bytes().to_vec();
        head.extend_from_slice(&size.to_le_bytes());
        head.extend_from_slice(name.as_bytes());
        file.write_all_at(&head, at).unwrap();
        at += head.len() as u64 + size;
    }
    file.write_all_at(b"tiny", at - 4).unwrap();
    file.set_len(at).unwrap();
}

#[test]
fn list_and_cat_of_a_sparse_5_gib_payload_do_not_read_its_data() {
    let place = Place::new(&Image::new(&[]));
    write_sparse(&place.image);
    let (text, read) = bytes_read(lbpayload().arg("list").arg(&place.image));
    let gib = |i: u32| format!("  1073741824 g{i}\n");
    let expected: String = (0..5)
        .map(gib)
        .chain(["           4 me\n".to_owned()])
        .collect();
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    assert!(read < 1 << 20, "{read} bytes read to list");

    let (text, read) = bytes_read(lbpayload().arg("list").arg("--json").arg(&place.image));
    let report: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(report["payload_bytes"], 5 * GIB + 4 + 16 + 6 * 18);
    assert_eq!(report["entries"][5]["data_offset"], 5 * GIB + 16 + 6 * 18);
    assert!(read < 1 << 20, "{read} bytes read to list as JSON");

    let (text, read) = bytes_read(lbpayload().arg("cat").arg(&place.image).arg("me"));
    assert_eq!(text, b"tiny");
    assert!(read < 1 << 20, "{read} bytes read to cat the last");

    let (_, read) = bytes_read(lbpayload().arg("probe").arg(&place.image));
    assert!(read < 1 << 20, "{read} bytes read to probe");
    let ran = lb![
        "import",
        "--json",
        "--device",
        &place.image,
        &place.dest,
        "--files",
        "me"
    ];
    assert_eq!(json(&ran.exits(0))["bytes"], 4);
    assert_eq!(tree(&place.dest), [("me".to_owned(), b"tiny".to_vec())]);
}

/// The limits of 31-bit and 32-bit numbers, inside a file that is longer.
const EDGES: [u64; 4] = [2 * GIB - 4, 2 * GIB, 4 * GIB - 4, 4 * GIB];

#[test]
fn file_over_4_gib_and_the_file_after_it_are_imported_completely() {
    let place = Place::new(&Image::new(&[]));
    let size = 4 * GIB + 12_293;
    let file = File::create(&place.image).unwrap();
    file.write_all_at(b"LBPAYLD1\x02\0\0\0\0\0\0\0", 0).unwrap();
    let mut at = 16;
    for (name, size) in [("big", size), ("far", 5)] {
        let head = [(name.len() as u64).to_le_bytes(), size.to_le_bytes()].concat();
        file.write_all_at(&head, at).unwrap();
        file.write_all_at(name.as_bytes(), at + 16).unwrap();
        at += 19;
        for edge in EDGES.into_iter().filter(|edge| *edge < size) {
            file.write_all_at(&edge.to_be_bytes()[4..], at + edge)
                .unwrap();
        }
        at += size;
        file.write_all_at(b"there", at - 5).unwrap();
    }
    let sums = place.file("SUMS", format!("{}  far\n", sha256sum(b"there")));
    let ran = lb!["verify", "--checksums", &sums, &place.image].exits(0);
    assert_eq!(ran.stdout.lines().next(), Some("far: OK"));

    let ran = lb![
        "import",
        "--json",
        "--device",
        &place.image,
        "--checksums",
        &sums,
        &place.dest
    ];
    assert_eq!(json(&ran.exits(0))["bytes"], size + 5);
    let big = File::open(place.dest.join("big")).unwrap();
    assert_eq!(big.metadata().unwrap().len(), size);
    for (place, expected) in EDGES
        .map(|edge| (edge, edge.to_be_bytes()[4..].to_vec()))
        .into_iter()
        .chain([(size - 5, b"there".to_vec())])
    {
        let mut bytes = vec![0; expected.len()];
        big.read_exact_at(&mut bytes, place).unwrap();
        assert_eq!(bytes, expected, "at {place}");
    }
    assert_eq!(std::fs::read(place.dest.join("far")).unwrap(), b"there");
    // Existing files are compared up to their end.
    let big = File::options()
        .write(true)
        .open(place.dest.join("big"))
        .unwrap();
    big.write_all_at(b"x", 4 * GIB + 9).unwrap();
    assert!(place.import().exits(0).stdout.contains("1 replaced"));

    // The last byte of the image is damaged.
    file.write_all_at(b"X", at - 1).unwrap();
    let ran = lb!["verify", "--checksums", &sums, &place.image].exits(1);
    assert!(ran.stdout.contains("far: FAILED"), "{}", ran.stdout);
}

fn name(i: usize) -> String {
    format!("tiny-file-{i:06}")
}

fn content(i: usize) -> String {
    (i % 1000).to_string()
}

/// A payload of very many tiny files, written while it is generated.
fn write_many(path: &Path) {
    let mut out = BufWriter::new(File::create(path).unwrap());
    out.write_all(b"LBPAYLD1").unwrap();
    out.write_all(&(MANY as u64).to_le_bytes()).unwrap();
    for i in 0..MANY {
        let (name, content) = (name(i), content(i));
        out.write_all(&(name.len() as u64).to_le_bytes()).unwrap();
        out.write_all(&(content.len() as u64).to_le_bytes())
            .unwrap();
        out.write_all(name.as_bytes()).unwrap();
        out.write_all(content.as_bytes()).unwrap();
    }
    out.into_inner().unwrap();
}

#[test]
fn list_of_300_000_files_needs_little_memory_and_few_reads() {
    let place = Place::new(&Image::new(&[]));
    write_many(&place.image);
    let line = |i: usize| format!("{:>12} {}\n", content(i).len(), name(i));
    let expected: String = (0..MANY).map(line).collect();
    let (text, peak) = peak_memory_kib(lbpayload().arg("list").arg(&place.image), expected.len());
    assert!(text == expected.as_bytes(), "{} bytes came", text.len());
    assert!(peak <= MEMORY_MAX_KIB, "{peak} KiB");

    let mut child = lbpayload()
        .arg("list")
        .arg(&place.image)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut Vec::new())
        .unwrap();
    let reads = of_process(&child, "io", "syscr:");
    child.wait().unwrap();
    assert!(reads < 1000, "{reads} reads for {MANY} files");
}

#[test]
fn verify_of_300_000_files_needs_little_memory() {
    let place = Place::new(&Image::new(&[]));
    write_many(&place.image);
    let sums: Vec<String> = (0..1000)
        .map(|i| sha256sum(content(i).as_bytes()))
        .collect();
    let lines: String = (0..MANY)
        .map(|i| format!("{}  {}\n", sums[i % 1000], name(i)))
        .collect();
    let file = place.file("SUMS", &lines);
    drop(lines);
    let expected: String = (0..MANY).map(|i| format!("{}: OK\n", name(i))).collect();
    let (text, peak) = peak_memory_kib(
        lbpayload()
            .args(["verify", "--checksums"])
            .args([&file, &place.image]),
        expected.len(),
    );
    assert!(text == expected.as_bytes(), "{} bytes came", text.len());
    assert!(peak <= MEMORY_MAX_KIB, "{peak} KiB");
    let ran = lb!["verify", "--json", &place.image].exits(0);
    assert_eq!(json(&ran)["files"], MANY);
}

#[test]
fn import_can_select_one_of_300_000_files() {
    let place = Place::new(&Image::new(&[]));
    write_many(&place.image);
    let wanted = name(287_654);
    let ran = lb![
        "import",
        "--json",
        "--device",
        &place.image,
        &place.dest,
        "--files",
        &*wanted
    ];
    assert_eq!(json(&ran.exits(0))["files"], 1);
    assert_eq!(tree(&place.dest), [(wanted, b"654".to_vec())]);
}

#[test]
fn drop_in_imports_300_000_files_with_little_memory() {
    // On a file system where a sync is fast, if there is one.
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() {
        tempfile::tempdir_in(shm)
    } else {
        tempfile::tempdir()
    }
    .unwrap();
    let (image, dest) = (dir.path().join("many.img"), dir.path().join("dest"));
    write_many(&image);
    let link = dir.path().join("payload-import");
    std::os::unix::fs::symlink(lbpayload().get_program(), &link).unwrap();
    let mut expected = format!(
        "payload-import: reading {MANY} files from {}\n",
        image.display()
    );
    (0..MANY).for_each(|i| expected += &format!("payload-import: {}\n", name(i)));
    let (text, peak) = peak_memory_kib(
        Command::new(&link).arg("--device").args([&image, &dest]),
        expected.len(),
    );
    assert!(text == expected.as_bytes(), "{} bytes came", text.len());
    assert_eq!(std::fs::read_dir(&dest).unwrap().count(), MANY);
    assert!(peak <= MEMORY_MAX_KIB, "{peak} KiB");
}

#[test]
fn maximum_counts_and_lengths_need_no_memory() {
    // The largest possible count and name length, in an image that is large enough
    // (sparse) for the count.
    let place = Place::new(&Image::new(&[]));
    let file = File::create(&place.image).unwrap();
    file.write_all_at(b"LBPAYLD1\xff\xff\xff\xff\0\0\0\0", 0)
        .unwrap();
    file.write_all_at(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'x'], 16)
        .unwrap();
    file.set_len(1 << 40).unwrap();
    for command in ["list", "verify"] {
        let ran = lb![command, &place.image].exits(1);
        ran.says("entry 1")
            .says("the name length is 0")
            .says("at offset 33");
    }
    place.import().exits(1);
    assert!(!place.dest.exists() || tree(&place.dest).is_empty());
}
