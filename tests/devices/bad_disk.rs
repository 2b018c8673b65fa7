//! A disk with bad sectors: nbdkit serves the sectors that a ddrescue map calls bad as EIO, and
//! nbdfuse shows the disk as a file.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Image, Lacks, Ran, TempDir, lbpayload, noise, run, skip, tree};
use crate::{alone, needs_devices};

const MIB: u64 = 1 << 20;
/// The size of a bad sector: nbdfuse shows a file, which is read in whole pages.
const PAGE: u64 = 4096;

/// A served disk. It is unmounted on drop.
struct Served {
    path: PathBuf,
    mount: PathBuf,
    server: Child,
}

impl Drop for Served {
    fn drop(&mut self) {
        let unmount = |command: &str| Command::new(command).arg("-u").arg(&self.mount).status();
        let _ = unmount("fusermount3").or_else(|_| unmount("fusermount"));
        let _ = self.server.wait();
    }
}

/// Writes a map with these bad ranges.
fn write_map(path: &Path, len: u64, bad: &[(u64, u64)]) {
    let mut map = String::from("0x0 + 1\n");
    let mut at = 0;
    for (start, size) in bad {
        map += &format!("{at:#x} {:#x} +\n{start:#x} {size:#x} -\n", start - at);
        at = start + size;
    }
    map += &format!("{at:#x} {:#x} +\n", len - at);
    std::fs::write(path, map).unwrap();
}

/// Serves `image` with these bad ranges.
fn serve(dir: &TempDir, name: &str, image: &[u8], bad: &[(u64, u64)]) -> Served {
    let file = |suffix: &str| dir.path().join(format!("{name}.{suffix}"));
    let mut bytes = image.to_vec();
    bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
    std::fs::write(file("img"), &bytes).unwrap();
    write_map(&file("map"), bytes.len() as u64, bad);
    let mount = dir.path().join(name);
    std::fs::create_dir(&mount).unwrap();
    let path = mount.join("disk");
    let mut map = std::ffi::OsString::from("ddrescue-mapfile=");
    map.push(file("map"));
    let server = Command::new("nbdfuse")
        .arg(&path)
        .args(["--command", "nbdkit", "-s", "--exit-with-parent"])
        .args(["--filter=ddrescue", "file"])
        .arg(file("img"))
        .arg(map)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !path.exists() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "nbdfuse did not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Served {
        path,
        mount,
        server,
    }
}

fn cannot_serve() -> bool {
    for tool in ["nbdkit", "nbdfuse", "ddrescuelog"] {
        if Command::new(tool).arg("--version").output().is_err() {
            skip(Lacks::Machine, &format!("{tool} is not installed"));
            return true;
        }
    }
    false
}

fn image() -> Image {
    let data: Vec<Vec<u8>> = (0..6).map(|n| noise(n, 700_000)).collect();
    let names = ["a", "b", "c", "d", "e", "f"];
    let files: Vec<(&str, &[u8])> = names.iter().zip(&data).map(|(n, d)| (*n, &d[..])).collect();
    Image::new(&files)
}

fn as_tree(image: &Image, without: &[&str]) -> Vec<(String, Vec<u8>)> {
    let own = |(name, data): &(Vec<u8>, Vec<u8>)| {
        (String::from_utf8(name.clone()).unwrap(), data.clone())
    };
    let all = image.files.iter().map(own);
    all.filter(|(name, _)| !without.contains(&name.as_str()))
        .collect()
}

#[test]
fn import_of_a_bad_disk_gives_every_file_without_a_bad_sector_and_the_ranges_of_the_others() {
    needs_devices!();
    let _alone = alone();
    if cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image();
    let bad = [(MIB, PAGE), (3 * MIB, 3 * PAGE)];
    let disk = serve(&dir, "bad", &image.bytes(), &bad);
    for engine in ["uring", "threads"] {
        let dest = dir.path().join(engine);
        let ran = run(["import", "--json", "--io", engine, "--device"]
            .map(Path::new)
            .into_iter()
            .chain([&*disk.path, &dest]));
        let ran = ran.exits(1);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        let ranges: Vec<(&Value, &Value)> = report["failed"]
            .as_array()
            .unwrap()
            .iter()
            .map(|failed| (&failed["name"], &failed["ranges"]))
            .collect();
        let expected = [
            (&json!("b"), &json!([{"offset": MIB, "length": PAGE}])),
            (
                &json!("e"),
                &json!([{"offset": 3 * MIB, "length": 3 * PAGE}]),
            ),
        ];
        assert_eq!(ranges, expected);
        assert!(tree(&dest) == as_tree(&image, &["b", "e"]));
    }
}

#[test]
fn two_bad_disks_with_disjoint_bad_sectors_give_every_file() {
    needs_devices!();
    let _alone = alone();
    if cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image();
    let first = serve(
        &dir,
        "first",
        &image.bytes(),
        &[(MIB, PAGE), (3 * MIB, PAGE)],
    );
    let second = serve(
        &dir,
        "second",
        &image.bytes(),
        &[(MIB + PAGE, PAGE), (2 * MIB, PAGE)],
    );
    let both = [
        "--device",
        first.path.to_str().unwrap(),
        "--device",
        second.path.to_str().unwrap(),
    ];
    let dest = dir.path().join("dest");
    let mut import = lbpayload();
    import.args(["import", "--json"]).args(both).arg(&dest);
    let ran = Ran::of(&mut import).exits(0);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        report["copies"][1],
        json!({"device": second.path, "bytes": 2 * PAGE})
    );
    assert!(tree(&dest) == as_tree(&image, &[]));

    run(["verify"].into_iter().chain(both))
        .exits(0)
        .says("another copy");
    let ran = run(["cat"].into_iter().chain(both).chain(["--", "b", "e"])).exits(0);
    let expected = [&image.files[1].1[..], &image.files[4].1].concat();
    assert!(ran.stdout_bytes == expected);
    run(["verify", both[1]]).exits(1);
}

#[test]
fn map_of_verify_is_what_ddrescue_would_have_written() {
    needs_devices!();
    let _alone = alone();
    if cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image();
    let bad = [(MIB, PAGE), (3 * MIB, 3 * PAGE)];
    // The same disk, read from an offset, has the same map: positions count from its start.
    for before in [0, 8 * PAGE] {
        let bytes = [vec![0; before as usize], image.bytes()].concat();
        let disk = serve(&dir, &format!("at-{before}"), &bytes, &bad);
        let map = dir.path().join("map");
        let path = disk.path.to_str().unwrap();
        run([
            "verify",
            "--offset",
            &before.to_string(),
            path,
            "--map",
            map.to_str().unwrap(),
        ])
        .exits(1);
        let log = |option: &str| {
            let ran = Command::new("ddrescuelog")
                .args(["-b", "4096", option])
                .arg(&map)
                .output()
                .unwrap();
            assert!(ran.status.success(), "{ran:?}");
            String::from_utf8(ran.stdout).unwrap()
        };
        let blocks: Vec<u64> = log("-l-")
            .lines()
            .map(|line| line.parse().unwrap())
            .collect();
        let expected: Vec<u64> = bad
            .iter()
            .flat_map(|(start, size)| start / PAGE..(start + size) / PAGE)
            .collect();
        assert_eq!(blocks, expected);
        // What is before and behind the payload was not tried.
        let first_not_tried = log("-l?")
            .lines()
            .next()
            .map(|line| line.parse::<u64>().unwrap());
        assert_eq!(
            first_not_tried == Some(0),
            before > 0,
            "{first_not_tried:?}"
        );
        let text = std::fs::read_to_string(&map).unwrap();
        assert!(text.starts_with("# Mapfile."), "{text}");
    }
}

#[test]
fn drop_in_goes_on_after_bad_sectors_and_exits_with_1() {
    needs_devices!();
    let _alone = alone();
    if cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image();
    let disk = serve(&dir, "bad", &image.bytes(), &[(MIB, PAGE)]);
    let program = dir.path().join("payload-import");
    std::os::unix::fs::symlink(lbpayload().get_program(), &program).unwrap();
    let dest = dir.path().join("dest");
    let mut command = Command::new(&program);
    // The last --device counts, as in the reference.
    command.args([
        Path::new("--device"),
        dir.path(),
        Path::new("--device"),
        &disk.path,
        &dest,
    ]);
    let ran = Ran::of(&mut command).exits(1);
    for name in ["a", "c", "d", "e", "f"] {
        assert!(
            ran.stdout.contains(&format!("payload-import: {name}\n")),
            "{}",
            ran.stdout
        );
    }
    assert!(
        !ran.stdout.contains("payload-import: b\n"),
        "{}",
        ran.stdout
    );
    ran.says("payload-import: could not read `b`");
    assert!(tree(&dest) == as_tree(&image, &["b"]));
}
