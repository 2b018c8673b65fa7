//! Many real failures: what each command says about bad input. Every message is short, and its
//! first line says what is wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::{spoil, sums_of};
use crate::support::{Image, Ran, TempDir, lbpayload, sha256sum};

/// The exit status, the code of the error, and the command. It runs in the directory that
/// [`prepare`] fills. The code is compared where the command has `--json`.
const FAILURES: &[(i32, &str, &str)] = &[
    (1, "not-a-file", "pack -o out.img fifo"),
    (1, "io", "pack -o out.img missing.txt"),
    (1, "subdirectory", "pack -o out.img tree"),
    (1, "not-a-file", "pack -o dir a.txt"),
    (1, "io", "pack -o no/such/out.img a.txt"),
    (1, "no-checksum", "pack -o out.img --checksums SUMS b.txt"),
    (1, "checksum", "pack -o out.img --checksums WRONG a.txt"),
    (1, "syntax", "pack -o out.img --list not-a-list"),
    (1, "io", "pack -o out.img --list list-of-missing"),
    (1, "name-repeated", "pack -o out.img a.txt dir/a.txt"),
    (1, "output-is-input", "pack -o a.txt a.txt"),
    (1, "in-dev", "pack -o /dev/lbpayload.img a.txt"),
    (2, "usage", "pack -o out.img"),
    (2, "usage", "pack -o out.img --pad many a.txt"),
    (1, "io", "pack -o out.img --live-bootstrap dir"),
    (1, "source-missing", "list missing.img"),
    (1, "not-a-source", "list fifo"),
    (1, "not-a-source", "list dir"),
    (1, "wrong-magic", "list a.txt"),
    (1, "wrong-magic", "list empty.img"),
    (1, "count-too-large", "list header.img"),
    (1, "data-past-end", "list cut.img"),
    (1, "count-too-large", "list count.img"),
    (1, "name-refused", "list name.img"),
    (1, "name-repeated", "list repeated.img"),
    (2, "usage", "list"),
    (2, "usage", "list --offset -5 good.img"),
    (1, "refused", "list --offset 1G good.img"),
    (1, "data-past-end", "verify cut.img"),
    (1, "checksum", "verify --checksums WRONG good.img"),
    (1, "missing", "verify --checksums MORE good.img"),
    (1, "syntax", "verify --checksums SHA512 good.img"),
    (1, "syntax", "verify --checksums not-a-list good.img"),
    (1, "io", "verify --checksums missing good.img"),
    (1, "syntax", "verify --checksums dir good.img"),
    (1, "bad-checksums", "verify embedded.img"),
    (1, "no-such-entry", "cat good.img c.txt"),
    (1, "source-missing", "cat missing.img a.txt"),
    (2, "usage", "cat good.img"),
    (3, "damaged-candidate", "probe cut.img"),
    (3, "not-found", "probe a.txt"),
    (3, "not-found", "probe /dev/no-such-disk"),
    (1, "source-missing", "import --device missing.img dest"),
    (1, "not-a-source", "import --device fifo dest"),
    (1, "not-a-directory", "import --device good.img a.txt"),
    (1, "not-a-directory", "import --device good.img fifo"),
    (1, "data-past-end", "import --device cut.img dest"),
    (
        1,
        "checksum",
        "import --device good.img --checksums WRONG dest",
    ),
    (1, "bad-checksums", "import --device embedded.img dest"),
    (
        1,
        "content-differs",
        "import --device good.img --existing error dir",
    ),
    (
        1,
        "directory-in-the-way",
        "import --device good.img in-the-way",
    ),
    (
        1,
        "no-such-entry",
        "import --device good.img dest --files c.txt",
    ),
    (1, "name-reserved", "import --device reserved.img dest"),
    (2, "image-as-destination", "import good.img dest"),
    (1, "in-dev", "import --device good.img /dev/lbpayload"),
    (2, "usage", "import --device good.img --memory 1M dest"),
    (2, "usage", "import --device good.img --existing often dest"),
    (1, "source-missing", "mount missing.img point"),
    (1, "data-past-end", "mount cut.img point"),
    (1, "not-a-directory", "mount good.img a.txt"),
    (1, "not-a-directory", "mount good.img fifo"),
    (1, "mount-on-root", "mount good.img /"),
    (1, "io", "mount good.img no/such/point"),
    (2, "mount-option", "mount -o blue good.img point"),
    (2, "mount-option", "mount -o uid=me good.img point"),
    (1, "not-an-index", "mount --index fifo good.img point"),
    (2, "ready-fd", "mount --ready-fd 99 good.img point"),
    (1, "not-mounted", "unmount dir"),
    (1, "not-mounted", "unmount missing"),
    (1, "no-workspace", "promote"),
    (1, "no-workspace", "promote --workspace dir"),
    (1, "no-target", "promote --workspace workspace"),
    (1, "no-image", "promote status --image missing"),
    (1, "no-record", "promote rollback --image bsp"),
    (2, "usage", "promote history --offline"),
    (2, "usage", "completions tcsh"),
    (1, "io", "man --dir a.txt"),
    (2, "usage", "frobnicate good.img"),
];

/// Creates the good, the damaged and the odd files that the commands get.
fn prepare() -> TempDir {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    for made in [
        "dir",
        "in-the-way/a.txt",
        "tree/below",
        "workspace/target-platform",
        "bsp/rootfs",
    ] {
        fs::create_dir_all(dir.join(made)).unwrap();
    }
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    put("a.txt", b"a small file\n");
    put("b.txt", b"another one\n");
    put("dir/a.txt", b"different\n");
    put("not-a-list", b"hello, world\n");
    put("list-of-missing", b"x.txt /no/such/x.txt\n");
    let good = Image::new(&[("a.txt", b"a small file\n"), ("b.txt", &[7; 5000])]);
    let bytes = good.bytes();
    put("good.img", &bytes);
    put("cut.img", &bytes[..bytes.len() - 4000]);
    put("header.img", &bytes[..20]);
    put("empty.img", b"");
    let mut count = bytes.clone();
    count[8..16].copy_from_slice(&1_000_000_u64.to_le_bytes());
    put("count.img", &count);
    Image::new(&[("a.txt", b"a"), ("../b", b"b")]).write(&dir.join("name.img"));
    Image::new(&[("a.txt", b"a"), ("a.txt", b"b")]).write(&dir.join("repeated.img"));
    Image::new(&[("a.txt", b"a"), ("SHA256SUMS", b"nonsense\n")]).write(&dir.join("embedded.img"));
    Image::new(&[(".lbpayload-staging", b"a")]).write(&dir.join("reserved.img"));
    let sums = sums_of(&good);
    put(
        "SUMS",
        format!("{}  a.txt\n", sha256sum(b"a small file\n")).as_bytes(),
    );
    put("WRONG", spoil(&sums, "a.txt").as_bytes());
    put(
        "MORE",
        format!("{sums}{}  c.txt\n", sha256sum(b"")).as_bytes(),
    );
    put("SHA512", format!("{}  a.txt\n", "5a".repeat(64)).as_bytes());
    temp
}

/// The command of a row, in `dir`.
fn command(dir: &Path, args: &str, json: bool) -> Command {
    let mut command = lbpayload();
    command.current_dir(dir).args(args.split(' '));
    if json {
        command.arg("--json");
    }
    command
}

fn has_json(args: &str) -> bool {
    let name = args.split(' ').next().unwrap();
    ["pack", "list", "verify", "import", "promote"].contains(&name)
}

/// The codes that docs/errors.md lists.
fn documented() -> BTreeSet<String> {
    let page = include_str!("../../docs/errors.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect()
}

/// The text outside of backticks.
fn without_paths(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

#[test]
fn every_failure_is_told_in_three_short_lines() {
    let dir = prepare();
    let mut wrong = Vec::new();
    for (status, _, args) in FAILURES {
        let ran = Ran::of(&mut command(dir.path(), args, false));
        let lines: Vec<&str> = ran.stderr.lines().collect();
        let first = lines.first().copied().unwrap_or_default();
        let level = if *status == 3 { "warning" } else { "error" };
        let level = format!("lbpayload: {level}: ");
        let shape = first.starts_with(&level)
            && !first.contains(';')
            && without_paths(first).chars().count() <= "lbpayload: error: ".len() + 100
            && lines.len() <= 3 * lines.iter().filter(|line| line.starts_with(&level)).count();
        let rest = lines.iter().skip(1).all(|line| {
            [&*level, "lbpayload: note: ", "lbpayload: help: "]
                .iter()
                .any(|start| line.starts_with(start))
        });
        let told = lines
            .iter()
            .any(|line| line.starts_with("lbpayload: help: "));
        if !(shape && rest && told) || ran.status != Some(*status) {
            wrong.push(format!("{args}\n{} {:?}", ran.stderr, ran.status));
        }
    }
    assert!(FAILURES.len() >= 50);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_failure_has_its_code() {
    let dir = prepare();
    let documented = documented();
    let mut wrong = Vec::new();
    for (status, code, args) in FAILURES {
        assert!(documented.contains(*code), "{code}");
        if !has_json(args) {
            continue;
        }
        let ran = Ran::of(&mut command(dir.path(), args, true));
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        if report["failed"].is_array() {
            // The report of an import has sentences and no codes.
            continue;
        }
        // A report that is complete has problems, and no error.
        let found = match &report["error"]["code"] {
            serde_json::Value::Null => &report["problems"][0]["kind"],
            code => code,
        };
        if found != code || ran.status != Some(*status) {
            wrong.push(format!(
                "{args}: {found}, expected {code} ({:?})",
                ran.status
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_failure_of_the_drop_in_is_one_line() {
    let dir = prepare();
    let drop_in = dir.path().join("payload-import");
    std::os::unix::fs::symlink(lbpayload().get_program(), &drop_in).unwrap();
    for args in [
        "--device missing.img dest",
        "--device fifo dest",
        "--device cut.img dest",
        "--device good.img a.txt",
        "--device good.img no/such/dest",
    ] {
        let ran = Ran::of(
            Command::new(&drop_in)
                .current_dir(dir.path())
                .args(args.split(' ')),
        )
        .exits(1);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(ran.stderr.starts_with("payload-import: "), "{}", ran.stderr);
    }
    let ran = Ran::of(&mut Command::new(&drop_in)).exits(1);
    assert!(ran.stderr.starts_with("Usage:\n"), "{}", ran.stderr);
}
