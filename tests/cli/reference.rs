//! Called as `payload-import`: the reference importer with all its options.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::fixture::{Place, as_tree, sample, spoil, sums_of};
use crate::support::{Lacks, Ran, lbpayload, skip, tree};

/// Runs the program through a symlink with the reference's name.
fn payload_import(place: &Place, args: &[&Path]) -> Ran {
    Ran::of(Command::new(place.link_drop_in()).args(args))
}

fn option(text: &str) -> &Path {
    Path::new(text)
}

fn lines(place: &Place) -> String {
    let mut lines = format!(
        "payload-import: reading 5 files from {}\n",
        place.image.display()
    );
    for (name, _) in as_tree(&sample()) {
        lines += &format!("payload-import: {name}\n");
    }
    lines
}

#[test]
fn drop_in_copies_all_files_and_prints_the_lines_of_the_reference() {
    for image in [sample(), sample().narrow()] {
        let place = Place::new(&image);
        let ran = payload_import(&place, &[option("--device"), &place.image, &place.dest]).exits(0);
        assert_eq!(ran.stdout, lines(&place));
        assert_eq!(ran.stderr, "");
        assert!(tree(&place.dest) == as_tree(&image));
    }
}

#[test]
fn drop_in_prints_every_file_in_order_on_a_second_run_too() {
    let place = Place::new(&sample());
    payload_import(&place, &[option("--device"), &place.image, &place.dest]).exits(0);
    let ran = payload_import(&place, &[option("--device"), &place.image, &place.dest]).exits(0);
    assert_eq!(ran.stdout, lines(&place));
}

#[test]
fn drop_in_prints_in_payload_order_if_some_files_exist() {
    let place = Place::new(&sample());
    place.fill_dest(&[("d-medium", &sample().files[3].1)]);
    let ran = payload_import(&place, &[option("--device"), &place.image, &place.dest]).exits(0);
    assert_eq!(ran.stdout, lines(&place));
}

#[test]
fn drop_in_overwrites_existing_files() {
    let place = Place::new(&sample());
    place.fill_dest(&[("b-small", b"another"), ("stranger", b"mine")]);
    payload_import(&place, &[option("--device"), &place.image, &place.dest]).exits(0);
    assert_eq!(std::fs::read(place.dest.join("b-small")).unwrap(), b"hello");
    assert_eq!(std::fs::read(place.dest.join("stranger")).unwrap(), b"mine");
}

#[test]
fn drop_in_uses_the_last_of_several_devices() {
    let place = Place::new(&sample());
    let missing = place.dir().join("missing");
    let (device, image, dest) = (option("--device"), &*place.image, &*place.dest);
    for args in [
        [device, &missing, device, image, dest],
        [device, &missing, dest, device, image],
        [dest, device, &missing, device, image],
    ] {
        let ran = payload_import(&place, &args).exits(0);
        assert_eq!(ran.stdout, lines(&place));
        assert!(tree(dest) == as_tree(&sample()));
        std::fs::remove_dir_all(dest).unwrap();
    }
    payload_import(&place, &[device, image, device, &missing, dest]).exits(1);
    assert!(!dest.exists());
}

#[test]
fn drop_in_replaces_a_file_whose_owner_is_not_mapped_in_a_container() {
    if !nix::unistd::geteuid().is_root() {
        return skip(Lacks::Setup, "only root gives files away");
    }
    let place = Place::new(&sample());
    place.fill_dest(&[("b-small", b"another")]);
    chown(place.dest.join("b-small"), Some(123), Some(456)).unwrap();
    // The namespace maps only root.
    let mut command = Command::new("unshare");
    command.args(["-Ur", "--"]).arg(place.link_drop_in());
    let ran = Ran::of(command.arg("--device").args([&place.image, &place.dest]));
    if ran.stderr.contains("unshare: ") {
        return skip(Lacks::Machine, &ran.stderr);
    }
    ran.exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn drop_in_keeps_mode_and_owner_of_replaced_files_and_import_does_not() {
    let image = sample();
    let replaced = [("b-small", 0o600), ("c-large", 0o4755), ("e-last", 0o444)];
    let root = nix::unistd::geteuid().is_root();
    for (options, keeps) in [(&["--device"][..], true), (&["import", "--device"], false)] {
        let place = Place::new(&image);
        place.fill_dest(&[("d-medium", &image.files[3].1)]);
        let at = |name: &str| place.dest.join(name);
        for (name, _) in replaced {
            std::fs::write(at(name), "another").unwrap();
            if root {
                chown(at(name), Some(123), Some(456)).unwrap();
            }
        }
        for (name, mode) in replaced.into_iter().chain([("d-medium", 0o640)]) {
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        let program = if keeps {
            place.link_drop_in()
        } else {
            lbpayload().get_program().into()
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", "umask 027; exec \"$0\" \"$@\""])
            .arg(program);
        Ran::of(command.args(options).args([&place.image, &place.dest])).exits(0);
        assert!(tree(&place.dest) == as_tree(&image));
        let looks = |name: &str| {
            let meta = at(name).metadata().unwrap();
            (meta.mode() & 0o7777, (meta.uid(), meta.gid()))
        };
        let ours = {
            let meta = place.dir().metadata().unwrap();
            (meta.uid(), meta.gid())
        };
        let theirs = if root { (123, 456) } else { ours };
        for (name, mode) in replaced {
            // Different content must not become a program that runs as its owner.
            let expected = match keeps {
                true => (mode & 0o777, theirs),
                false => (0o640, ours),
            };
            assert_eq!(looks(name), expected, "{name} {options:?}");
        }
        assert_eq!(
            looks("d-medium"),
            (0o640, ours),
            "it has the content already"
        );
        assert_eq!(looks("a-empty"), (0o640, ours), "it is new");
    }
}

#[test]
fn drop_in_replaces_a_symlink_and_not_its_target() {
    let place = Place::new(&sample());
    place.fill_dest(&[]);
    let other = place.file("other", "precious");
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o600)).unwrap();
    symlink(&other, place.dest.join("b-small")).unwrap();
    std::fs::write(place.dest.join("e-last"), "another").unwrap();
    let hard_link = place.dir().join("hard-link");
    std::fs::hard_link(place.dest.join("e-last"), &hard_link).unwrap();
    payload_import(&place, &[option("--device"), &place.image, &place.dest]).exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
    assert_eq!(std::fs::read(&other).unwrap(), b"precious");
    assert_eq!(std::fs::read(&hard_link).unwrap(), b"another");
}

#[test]
fn drop_in_creates_the_destination_with_mode_0755_but_no_parents() {
    let place = Place::new(&sample());
    let ran = payload_import(&place, &[option("--device"), &place.image, &place.dest]);
    ran.exits(0);
    let mode = place.dest.metadata().unwrap().permissions().mode();
    // Minus the umask, which a test cannot change only for itself.
    assert_eq!(mode & 0o7000, 0);
    assert_eq!(mode & 0o700, 0o700);
    assert_eq!(mode & 0o022, 0);
    let below = place.dir().join("no/parent");
    let ran = payload_import(&place, &[option("--device"), &place.image, &below]).exits(1);
    assert!(
        ran.stderr.contains(&*below.to_string_lossy()),
        "{}",
        ran.stderr
    );
    assert!(!place.dir().join("no").exists());
}

#[test]
fn drop_in_probe_prints_nothing() {
    let place = Place::new(&sample());
    let noise = place.file("noise", [7; 4096]);
    let empty = place.file("empty", "");
    // Only the magic: the data after it is not read.
    let corrupt = place.file("corrupt", "LBPAYLD1\u{7f}\u{7f}\u{7f}");
    let missing = place.dir().join("missing");
    for (device, status) in [
        (&place.image, 0),
        (&corrupt, 0),
        (&noise, 1),
        (&empty, 1),
        (&missing, 1),
    ] {
        let ran = payload_import(&place, &[option("--probe"), device]).exits(status);
        assert_eq!(
            (ran.stdout, ran.stderr),
            (String::new(), String::new()),
            "{device:?}"
        );
    }
    let directory = place.dir().to_owned();
    let ran = payload_import(&place, &[option("--probe"), &directory]).exits(1);
    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
}

#[test]
fn drop_in_accepts_that_proc_is_already_mounted() {
    let place = Place::new(&sample());
    let ran = payload_import(&place, &[option("--mount-proc")]).exits(0);
    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
}

#[test]
fn drop_in_fails_with_1_and_a_message_with_its_own_name() {
    let place = Place::new(&sample());
    let missing = place.dir().join("missing");
    let ran = payload_import(&place, &[option("--device"), &missing, &place.dest]).exits(1);
    assert!(ran.stderr.starts_with("payload-import: "), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("missing`: No such file"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stdout, "");
    assert!(!place.dest.exists());
    std::fs::write(&place.dest, "a file").unwrap();
    let ran = payload_import(&place, &[option("--device"), &place.image, &place.dest]).exits(1);
    assert!(ran.stderr.starts_with("payload-import: "), "{}", ran.stderr);
    assert_eq!(std::fs::read(&place.dest).unwrap(), b"a file");
}

#[test]
fn drop_in_refuses_other_arguments() {
    let place = Place::new(&sample());
    for args in [
        &[][..],
        &[option("--help")],
        &[option("--device")],
        &[option("--device"), &place.image],
        &[option("--probe")],
        &[option("--from-proc")],
        &[&place.image, &place.dest],
        &[
            option("--json"),
            option("--device"),
            &place.image,
            &place.dest,
        ],
    ] {
        let ran = payload_import(&place, args).exits(1);
        assert!(
            ran.stderr
                .contains("payload-import --device <device> <dest-dir>"),
            "{}",
            ran.stderr
        );
        assert!(!place.dest.exists());
    }
}

#[test]
fn drop_in_ignores_embedded_checksums_as_the_reference_does() {
    let mut image = sample();
    let sums = spoil(&sums_of(&image), "b-small");
    image
        .files
        .insert(0, (b"SHA256SUMS".to_vec(), sums.into_bytes()));
    let place = Place::new(&image);
    payload_import(&place, &[option("--device"), &place.image, &place.dest]).exits(0);
    assert!(tree(&place.dest) == as_tree(&image));
}

#[test]
fn drop_in_succeeds_if_its_output_is_not_read() {
    let place = Place::new(&sample());
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    let mut command = Command::new(place.link_drop_in());
    command
        .arg("--device")
        .args([&place.image, &place.dest])
        .stdout(OwnedFd::from(theirs));
    Ran::of(&mut command).exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
}
