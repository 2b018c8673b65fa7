//! What tells the system of the format, in scripts/system: a rule of udev, file(1), MIME types,
//! Kaitai Struct. And the files of a package; scripts/test-packages installs one.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Image, Lacks, Loop, check, skip};

fn system(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("scripts/system").join(name)
}

/// Returns whether the programs are installed. If not, the test is skipped.
fn has(programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = |name: &str| {
        path.split(':')
            .any(|dir| Path::new(dir).join(name).exists())
    };
    let missing = programs.iter().find(|name| !found(name));
    if let Some(missing) = missing {
        skip(Lacks::Setup, &format!("{missing} is not installed"));
    }
    missing.is_none()
}

#[test]
fn file_recognizes_both_dialects() {
    if !has(&["file"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = |image: &Image, option: &str| {
        let path = dir.path().join("image");
        image.write(&path);
        let mut command = Command::new("file");
        command
            .args(["--brief", "--magic-file"])
            .arg(system("lbpayload.magic"));
        command.arg(option).arg(path);
        check(&mut command).trim().to_owned()
    };
    let one = Image::new(&[("one", b"1")]);
    let two = Image::new(&[("one", b"1"), ("two", b"")]);
    assert_eq!(file(&one, "--"), "LBPAYLD1 payload (u64), 1 file");
    assert_eq!(file(&two, "--"), "LBPAYLD1 payload (u64), 2 files");
    assert_eq!(file(&two, "--mime-type"), "application/x-lbpayload");
    assert_eq!(
        file(&Image::new(&[]), "--"),
        "LBPAYLD1 payload (u64), 0 files"
    );
    assert_eq!(file(&one.narrow(), "--"), "LBPAYLD1 payload (u32), 1 file");
    assert_eq!(file(&two.narrow(), "--"), "LBPAYLD1 payload (u32), 2 files");
    assert_eq!(
        file(&Image::new(&[]).narrow(), "--mime-type"),
        "application/x-lbpayload"
    );
}

#[test]
fn desktops_find_the_mime_type() {
    if !has(&["update-mime-database", "gio"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let packages = dir.path().join("mime/packages");
    std::fs::create_dir_all(&packages).unwrap();
    std::fs::copy(system("lbpayload.xml"), packages.join("lbpayload.xml")).unwrap();
    check(Command::new("update-mime-database").arg(dir.path().join("mime")));
    let kind = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut command = Command::new("gio");
        command.args(["info", "--attributes", "standard::content-type"]);
        command.env("XDG_DATA_HOME", dir.path()).arg(path);
        let said = check(&mut command);
        let kind = said
            .lines()
            .find_map(|line| line.split_once("content-type: "));
        kind.map(|(_, kind)| kind.to_owned()).unwrap_or(said)
    };
    let image = Image::new(&[("one", b"1")]);
    assert_eq!(kind("external", &image.bytes()), "application/x-lbpayload");
    assert_ne!(kind("other", &[7; 100]), "application/x-lbpayload");
}

/// Runs the rule for a device as udevd does, and returns what udev then knows of it.
fn udev(device: &Path) -> String {
    let rule = std::fs::read_to_string(system("61-lbpayload.rules")).unwrap();
    let installed = "/usr/bin/lbpayload";
    assert!(rule.contains(installed));
    let rule = rule.replace(installed, env!("CARGO_BIN_EXE_lbpayload"));
    let name = device.file_name().unwrap().to_str().unwrap();
    // What udev writes stays in a mount namespace.
    let script = "for made in disk block; do mkdir -p /dev/$made; mount -t tmpfs none /dev/$made; done; mount -t tmpfs none /run
        mkdir -p /run/udev/rules.d; printf %s \"$1\" > /run/udev/rules.d/61-lbpayload.rules
        for kept in /usr/lib/udev/rules.d /lib/udev/rules.d /etc/udev/rules.d; do
            [ ! -d $kept ] || [ -L $kept ] || mount -t tmpfs none $kept
        done
        udevadm test --action=add /sys/class/block/$2 2>&1
        find /dev/disk -type l";
    let mut command = Command::new("unshare");
    check(command.args(["--mount", "sh", "-ec", script, "sh", &rule, name]))
}

#[test]
fn rule_of_udev_names_the_devices_that_hold_a_payload() {
    if support::cannot_use_devices() || !has(&["udevadm"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let attached = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Loop::attach(&path, 512)
    };
    let mut bytes = Image::new(&[("one", b"1"), ("two", b"2")]).bytes();
    bytes.resize(4096, 0);
    let payload = attached("payload", &bytes);
    let said = udev(&payload.path);
    for expected in [
        "ID_FS_TYPE=lbpayload",
        "ID_LBPAYLOAD_FILES=2",
        "ID_LBPAYLOAD_DIALECT=u64",
    ] {
        assert!(said.contains(expected), "no {expected} in {said}");
    }
    assert!(!said.contains("ID_FS_USAGE"), "{said}");
    let id = said.split("ID_LBPAYLOAD_ID=").nth(1).unwrap();
    let link = format!("/dev/disk/by-payload/{}", &id[..16]);
    assert!(said.lines().any(|line| line == link), "no {link} in {said}");
    let other = attached("other", &[7; 4096]);
    let said = udev(&other.path);
    assert!(
        !said.contains("ID_LBPAYLOAD") && !said.contains("ID_FS_TYPE"),
        "{said}"
    );
}

#[test]
fn parser_of_kaitai_struct_reads_what_list_lists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/check-kaitai"));
    let output = command
        .arg(env!("CARGO_BIN_EXE_lbpayload"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => assert!(String::from_utf8_lossy(&output.stdout).contains("6 images")),
        // Without npm or its registry.
        Some(77) => skip(
            Lacks::Machine,
            said.lines().last().unwrap_or("no Kaitai Struct"),
        ),
        _ => panic!("{said}"),
    }
}

#[test]
fn package_has_pages_completions_and_links_and_names_each_file_in_cargo_toml() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let program = env!("CARGO_BIN_EXE_lbpayload");
    let mut command = Command::new(root.join("scripts/debian/tree"));
    check(command.args([program, program]).arg(&tree));
    let link = |path: &str| std::fs::read_link(tree.join(path)).unwrap();
    assert_eq!(link("usr/bin/payload-import"), Path::new("lbpayload"));
    for name in ["mount.lbpayload", "mount.fuse.lbpayload"] {
        assert_eq!(
            link(&format!("usr/sbin/{name}")),
            Path::new("../bin/lbpayload")
        );
        let page = tree.join(format!("usr/share/man/man8/{name}.8.gz"));
        let page = check(Command::new("zcat").arg(page));
        let target = format!("usr/share/man/{}.gz", page[".so ".len()..].trim());
        assert!(tree.join(target).exists(), "{page}");
    }
    for file in [
        "man/man1/lbpayload-import.1.gz",
        "bash-completion/completions/lbpayload",
        "zsh/vendor-completions/_lbpayload",
        "fish/vendor_completions.d/lbpayload.fish",
        "doc/lbpayload/README.md",
    ] {
        let len = std::fs::metadata(tree.join("usr/share").join(file))
            .unwrap()
            .len();
        assert!(len > 100, "{file}");
    }
    let completion = tree.join("usr/share/bash-completion/completions/lbpayload");
    check(Command::new("bash").arg("-n").arg(completion));
    // cargo-deb packages what these patterns name.
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let patterns = manifest.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("[\"target/release/package/")?;
        rest.split(['*', '[']).next()
    });
    let patterns: Vec<&str> = patterns.collect();
    let files = check(
        Command::new("find")
            .arg(".")
            .args(["!", "-type", "d"])
            .current_dir(&tree),
    );
    for file in files.lines().map(|line| &line[2..]) {
        let named = patterns.iter().any(|pattern| file.starts_with(pattern));
        assert!(named, "{file} is in no asset of Cargo.toml: {patterns:?}");
    }
}
