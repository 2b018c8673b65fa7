//! `lbpayload import`: unusual and invalid destinations.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use nix::unistd::geteuid;

use crate::fixture::{Place, as_tree, fails_with, json, sample};
use crate::support::{Image, Lacks, Ran, lbpayload, skip, tree};

#[test]
fn import_refuses_a_destination_that_is_a_file() {
    let place = Place::new(&sample());
    std::fs::write(&place.dest, "a file").unwrap();
    let ran = lb!["import", "--json", "--device", &place.image, &place.dest];
    let error = fails_with(ran, "not-a-directory");
    assert_eq!(error["path"], place.dest.to_str().unwrap());
    assert_eq!(std::fs::read(&place.dest).unwrap(), b"a file");
    let below = place.dest.join("below");
    lb!["import", "--device", &place.image, &below]
        .exits(1)
        .says(&below.to_string_lossy());
    let dry = lb!["import", "--dry-run", "--device", &place.image, &place.dest];
    dry.exits(1)
        .says(&place.dest.to_string_lossy())
        .says("expected a directory, found a regular file");
}

#[test]
fn import_names_the_type_of_a_destination_that_is_not_a_directory() {
    let place = Place::new(&sample());
    let (fifo, link) = (place.dir().join("fifo"), place.dir().join("link"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("missing", &link).unwrap();
    for (dest, found) in [
        (fifo.as_path(), "found a FIFO"),
        (&link, "found a symlink to a missing file"),
        (std::path::Path::new("/dev/null"), "/dev"),
    ] {
        for dry in [&["import"][..], &["import", "--dry-run"]] {
            let mut command = lbpayload();
            command
                .args(dry)
                .arg("--device")
                .arg(&place.image)
                .arg(dest);
            Ran::of(&mut command).exits(1).says(found);
        }
    }
}

#[test]
fn import_refuses_the_image_itself_as_the_destination() {
    let place = Place::new(&sample());
    let before = std::fs::read(&place.image).unwrap();
    let ran = lb!["import", "--device", &place.image, &place.image];
    assert_ne!(ran.status, Some(0));
    ran.says(&place.image.to_string_lossy());
    assert!(std::fs::read(&place.image).unwrap() == before);
}

#[test]
fn import_into_a_read_only_directory_fails_and_names_it() {
    let place = Place::new(&sample());
    place.fill_dest(&[("mine", b"precious")]);
    let program = lbpayload();
    let ran = if geteuid().is_root() {
        // Permissions do not stop root, so the test uses a read-only mount. It is in
        // a mount namespace of its own that ends with the process.
        let script = "mount --bind \"$2\" \"$2\" && mount -o remount,bind,ro \"$2\" || exit 77
                      exec \"$0\" import --device \"$1\" \"$2\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script])
            .arg(program.get_program());
        Ran::of(command.args([&place.image, &place.dest]))
    } else {
        std::fs::set_permissions(&place.dest, PermissionsExt::from_mode(0o555)).unwrap();
        let ran = place.import();
        std::fs::set_permissions(&place.dest, PermissionsExt::from_mode(0o755)).unwrap();
        ran
    };
    if geteuid().is_root() && ran.status != Some(1) && ran.stderr.contains("unshare: ")
        || ran.status == Some(77)
    {
        skip(
            Lacks::Setup,
            &format!("no mount namespace here: {}", ran.stderr),
        );
        return;
    }
    let ran = ran.exits(1).says(&place.dest.to_string_lossy());
    let why = ["Read-only file system", "Permission denied"];
    assert!(
        why.iter().any(|why| ran.stderr.contains(why)),
        "{}",
        ran.stderr
    );
    assert_eq!(
        tree(&place.dest),
        [("mine".to_owned(), b"precious".to_vec())]
    );
}

#[test]
fn import_refuses_a_directory_with_the_name_of_an_entry() {
    let place = Place::new(&sample());
    place.fill_dest(&[]);
    let taken = place.dest.join("e-last");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("inside"), "kept").unwrap();
    for existing in ["replace", "keep", "error"] {
        let ran = lb![
            "import",
            "--json",
            "--existing",
            existing,
            "--device",
            &place.image,
            &place.dest
        ];
        let error = fails_with(ran, "directory-in-the-way");
        assert_eq!(error["path"], taken.to_str().unwrap());
        let names: Vec<String> = tree(&place.dest)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["e-last"], "nothing else was made");
    }
    assert_eq!(std::fs::read(taken.join("inside")).unwrap(), b"kept");
}

#[test]
fn import_replaces_a_symlink_and_never_writes_through_it() {
    let place = Place::new(&sample());
    let victim = place.file("victim", "precious");
    place.fill_dest(&[]);
    symlink(&victim, place.dest.join("b-small")).unwrap();
    symlink("nowhere/at/all", place.dest.join("c-large")).unwrap();
    symlink(place.dir(), place.dest.join("e-last")).unwrap();
    place.import().exits(0);
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert!(
        tree(&place.dest) == as_tree(&sample()),
        "all are regular files now"
    );
    assert!(!place.dir().join("nowhere").exists());
}

#[test]
fn import_replaces_a_symlink_to_identical_content_with_a_file() {
    let place = Place::new(&sample());
    let elsewhere = place.file("elsewhere", "hello");
    place.fill_dest(&[]);
    symlink(&elsewhere, place.dest.join("b-small")).unwrap();
    place.import().exits(0);
    assert!(
        place
            .dest
            .join("b-small")
            .symlink_metadata()
            .unwrap()
            .is_file()
    );
}

#[test]
fn import_with_existing_keep_or_error_treats_a_symlink_as_an_existing_file() {
    let place = Place::new(&sample());
    let victim = place.file("victim", "precious");
    place.fill_dest(&[]);
    symlink(&victim, place.dest.join("b-small")).unwrap();
    lb![
        "import",
        "--existing",
        "error",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(1)
    .says("b-small");
    assert_eq!(tree(&place.dest).len(), 1);
    lb![
        "import",
        "--existing",
        "keep",
        "--device",
        &place.image,
        &place.dest
    ]
    .exits(0)
    .says("b-small");
    assert!(
        place
            .dest
            .join("b-small")
            .symlink_metadata()
            .unwrap()
            .is_symlink()
    );
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn import_replaces_a_fifo_without_waiting_for_it() {
    let place = Place::new(&sample());
    place.fill_dest(&[]);
    nix::unistd::mkfifo(&place.dest.join("b-small"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    place.import().exits(0);
    assert!(tree(&place.dest) == as_tree(&sample()));
}

#[test]
fn import_refuses_an_entry_with_the_name_of_its_own_staging_directory() {
    let place = Place::new(&Image::new(&[("a", b"1"), (".lbpayload-staging", b"2")]));
    let ran = lb!["import", "--json", "--device", &place.image, &place.dest];
    let error = fails_with(ran, "name-reserved");
    assert_eq!(
        (&error["entry"], &error["name"]),
        (&1.into(), &".lbpayload-staging".into())
    );
    assert_eq!(tree(&place.dest), []);
}

#[test]
fn import_refuses_a_staging_directory_that_is_a_symlink_or_a_file() {
    let place = Place::new(&sample());
    let outside = place.dir().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("0"), "precious").unwrap();
    place.fill_dest(&[]);
    let staging = place.dest.join(".lbpayload-staging");
    symlink(&outside, &staging).unwrap();
    let ran = place
        .import()
        .exits(1)
        .says(&format!("move {} away", staging.display()));
    assert_eq!(
        tree(&outside),
        [("0".to_owned(), b"precious".to_vec())],
        "{}",
        ran.stderr
    );
    assert_eq!(tree(&place.dest).len(), 1);
    std::fs::remove_file(&staging).unwrap();
    std::fs::write(&staging, "a file").unwrap();
    place
        .import()
        .exits(1)
        .says(&format!("move {} away", staging.display()));
    assert_eq!(
        tree(&place.dest),
        [(".lbpayload-staging".to_owned(), b"a file".to_vec())]
    );
}

#[test]
fn import_into_a_full_file_system_is_refused_before_writing() {
    // No disk can hold an entry of 8 EiB, and a sparse image does not prove its size.
    let place = Place::new(&Image::new(&[("a", b"1")]));
    let huge = place.dir().join("huge.img");
    let mut head = Image::new(&[("a", b"1"), ("huge", b"")]).bytes();
    let len = 1_u64 << 43;
    let at = head.len() - 4 - 8;
    head[at..at + 8].copy_from_slice(&len.to_le_bytes());
    std::fs::write(&huge, &head).unwrap();
    let file = std::fs::File::options().write(true).open(&huge).unwrap();
    file.set_len(head.len() as u64 + len).unwrap();
    let ran = lb!["import", "--json", "--device", &huge, &place.dest];
    let error = fails_with(ran, "no-space");
    assert_eq!(error["path"], place.dest.to_str().unwrap());
    assert_eq!(tree(&place.dest), []);
}

#[test]
fn image_given_as_destination_is_a_usage_error() {
    let place = Place::new(&sample());
    let out = place.dir().join("out");
    for args in [
        &["import".as_ref(), place.image.as_os_str()][..],
        &["import".as_ref(), place.image.as_os_str(), out.as_os_str()],
    ] {
        let mut args = args.to_vec();
        args.push("--json".as_ref());
        let ran = crate::support::run(args).exits(2);
        let error = &json(&ran)["error"];
        assert_eq!(error["kind"], "usage");
        assert_eq!(error["code"], "image-as-destination");
        let command = format!("import --device {}", place.image.display());
        assert!(error["help"][0].as_str().unwrap().contains(&command));
        assert!(!out.exists());
    }
    lb!["import", "--device", &place.image, &place.image].exits(1);
    lb!["import", "a", "b"].exits(2);
}

#[test]
fn import_that_cannot_start_leaves_no_staging_directory() {
    let place = Place::new(&sample());
    let script = "ulimit -n \"$0\"; exec \"$@\"";
    let mut failed = 0;
    // With each additional file descriptor a later step fails.
    for descriptors in 4..16 {
        std::fs::create_dir(&place.dest).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", script, &descriptors.to_string()])
            .arg(lbpayload().get_program())
            .args(["import", "--io", "uring", "--device"]);
        let ran = Ran::of(command.args([&place.image, &place.dest]));
        failed += u32::from(ran.status != Some(0));
        let all = as_tree(&sample());
        let left = tree(&place.dest);
        assert!(left.iter().all(|file| all.contains(file)), "{}", ran.stderr);
        let staging = place.dest.join(lbpayload::durable::STAGING_NAME);
        assert!(!staging.exists(), "{descriptors}: {}", ran.stderr);
        std::fs::remove_dir_all(&place.dest).unwrap();
    }
    assert!(failed > 3, "{failed}");
}
