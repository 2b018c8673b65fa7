//! Signed payloads: `pack --sign` and `--signature`, and `--trust` of the readers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Place, as_tree, fails_with, sample};
use crate::support::{Image, Lacks, Ran, lbpayload, skip, tree};

/// A key pair without a password, made by minisign.
struct Key {
    secret: PathBuf,
    public: PathBuf,
}

fn minisign(args: &[&std::ffi::OsStr]) -> std::process::Output {
    Command::new("minisign").args(args).output().unwrap()
}

fn key(dir: &Path, name: &str) -> Key {
    let key = Key {
        secret: dir.join(format!("{name}.key")),
        public: dir.join(format!("{name}.pub")),
    };
    let args: [&std::ffi::OsStr; 6] = [
        "-G".as_ref(),
        "-W".as_ref(),
        "-p".as_ref(),
        key.public.as_ref(),
        "-s".as_ref(),
        key.secret.as_ref(),
    ];
    let ran = minisign(&args);
    assert!(ran.status.success(), "{ran:?}");
    key
}

fn has_minisign() -> bool {
    Command::new("minisign").arg("-v").output().is_ok()
}

macro_rules! needs_minisign {
    () => {
        if !has_minisign() {
            return skip(Lacks::Setup, "minisign is not installed");
        }
    };
}

/// A payload of the sample, signed with a key.
fn signed(name: &str) -> (Place, Key, PathBuf) {
    let place = Place::new(&sample());
    let key = key(place.dir(), name);
    let input = place.dir().join("input");
    std::fs::create_dir(&input).unwrap();
    for (name, data) in as_tree(&sample()) {
        std::fs::write(input.join(name), data).unwrap();
    }
    let image = place.dir().join("signed.img");
    lb![
        "pack",
        "-o",
        &image,
        "--embed-checksums",
        "--sign",
        &key.secret,
        &input
    ]
    .exits(0);
    (place, key, image)
}

#[test]
fn signed_payload_is_read_by_who_trusts_the_key_and_minisign_verifies_it() {
    needs_minisign!();
    let (place, key, image) = signed("key");
    lb!["verify", "--trust", &key.public, &image].exits(0);
    let text = std::fs::read_to_string(&key.public).unwrap();
    let text = text.lines().nth(1).unwrap().to_owned();
    lb!["import", "--trust", &text, "--device", &image, &place.dest].exits(0);
    let ran = minisign(&[
        "-V".as_ref(),
        "-p".as_ref(),
        key.public.as_ref(),
        "-m".as_ref(),
        place.dest.join("SHA256SUMS").as_ref(),
    ]);
    assert!(ran.status.success(), "{ran:?}");
    let names = tree(&place.dest).len();
    assert_eq!(names, as_tree(&sample()).len() + 2);
    let ran = Ran::of(
        lbpayload()
            .args(["cat".as_ref(), image.as_os_str(), "b-small".as_ref()])
            .env("LBPAYLOAD_TRUST", format!("{}:", key.public.display())),
    )
    .exits(0);
    let expected = as_tree(&sample());
    let (_, data) = expected.iter().find(|(name, _)| name == "b-small").unwrap();
    assert_eq!(ran.stdout.as_bytes(), &data[..]);
}

#[test]
fn payload_that_is_not_signed_or_by_another_key_is_refused_before_anything_is_written() {
    needs_minisign!();
    let (place, key, image) = signed("key");
    let other = self::key(place.dir(), "other");
    let sets: [(&Path, &Path, &str); 2] = [
        (&image, &other.public, "unknown-key"),
        (&place.image, &key.public, "not-signed"),
    ];
    for (image, key, code) in sets {
        let dest = place.dir().join("dest");
        fails_with(
            lb!["import", "--json", "--trust", key, "--device", image, &dest],
            code,
        );
        assert!(!dest.exists(), "{code}");
        fails_with(lb!["verify", "--json", "--trust", key, image], code);
        let ran = lb!["cat", "--trust", key, image, "b-small"].exits(1);
        assert_eq!(ran.stdout, "");
    }
    // One of several keys is enough.
    lb![
        "verify",
        "--trust",
        &other.public,
        "--trust",
        &key.public,
        &image
    ]
    .exits(0);
}

#[test]
fn changed_file_checksums_signature_or_added_file_is_refused() {
    needs_minisign!();
    let (place, key, image) = signed("key");
    let good = std::fs::read(&image).unwrap();
    let dest = place.dir().join("dest");
    let import = || lb!["import", "--trust", &key.public, "--device", &image, &dest];

    // A byte of a file: only that file does not arrive.
    let files = as_tree(&sample());
    let (_, data) = files.iter().find(|(name, _)| name == "b-small").unwrap();
    let at = good
        .windows(data.len())
        .position(|w| w == &data[..])
        .unwrap();
    let mut bad = good.clone();
    bad[at] ^= 1;
    std::fs::write(&image, &bad).unwrap();
    import().exits(1).says("`b-small`");
    assert!(!dest.join("b-small").exists());
    let ran = lb!["cat", "--trust", &key.public, &image, "b-small"].exits(1);
    assert_eq!(ran.stdout, "", "not one byte is given out");
    std::fs::remove_dir_all(&dest).unwrap();

    // A digit of the checksums, and a byte of the signature.
    let sums = good.windows(10).position(|w| w == b"SHA256SUMS").unwrap() + 10;
    let signature = good.windows(8).rposition(|w| w == b"comment:").unwrap();
    for (at, to) in [(sums, b'0'), (sums, b'1'), (signature + 10, b'X')] {
        let mut bad = good.clone();
        if bad[at] == to {
            continue;
        }
        bad[at] = to;
        std::fs::write(&image, &bad).unwrap();
        let ran = lb![
            "import",
            "--json",
            "--trust",
            &key.public,
            "--device",
            &image,
            &dest
        ];
        fails_with(ran, "bad-signature");
        assert!(!dest.exists());
    }

    // A file that the checksums do not have.
    let mut entries: Vec<(String, Vec<u8>)> = files.clone();
    let read = |name: &str| {
        lb!["cat", &place.dir().join("good.img"), name]
            .exits(0)
            .stdout
    };
    std::fs::write(place.dir().join("good.img"), &good).unwrap();
    entries.push(("SHA256SUMS".into(), read("SHA256SUMS").into_bytes()));
    entries.push((
        "SHA256SUMS.minisig".into(),
        read("SHA256SUMS.minisig").into_bytes(),
    ));
    entries.push(("added".into(), b"bytes".to_vec()));
    let entries: Vec<(&str, &[u8])> = entries.iter().map(|(n, d)| (&n[..], &d[..])).collect();
    Image::new(&entries).write(&image);
    let ran = lb![
        "import",
        "--json",
        "--trust",
        &key.public,
        "--device",
        &image,
        &dest
    ];
    fails_with(ran, "unlisted-file");
    assert!(!dest.exists());
    Image::new(&entries[..entries.len() - 1]).write(&image);
    import().exits(0);
}

#[test]
fn signature_made_elsewhere_is_packed() {
    needs_minisign!();
    let (place, key, image) = signed("key");
    let sums = place.file(
        "SHA256SUMS",
        lb!["cat", &image, "SHA256SUMS"].exits(0).stdout,
    );
    let args: [&std::ffi::OsStr; 5] = [
        "-S".as_ref(),
        "-s".as_ref(),
        key.secret.as_ref(),
        "-m".as_ref(),
        sums.as_ref(),
    ];
    assert!(minisign(&args).status.success());
    let signature = place.dir().join("SHA256SUMS.minisig");
    let input = place.dir().join("input");
    let again = place.dir().join("again.img");
    lb![
        "pack",
        "-o",
        &again,
        "--embed-checksums",
        "--signature",
        &signature,
        "--protect",
        &input
    ]
    .exits(0);
    lb!["verify", "--trust", &key.public, &again].exits(0);
    lb!["pack", "-o", &again, "--sign", &key.secret, &input].exits(2);
    let ran = lb![
        "pack",
        "--json",
        "-o",
        &again,
        "--embed-checksums",
        "--signature",
        &sums,
        &input
    ];
    fails_with(ran, "bad-signature");
}

#[test]
fn key_with_a_password_signs_with_the_password_of_the_variable() {
    let place = Place::new(&sample());
    let made = minisign::KeyPair::generate_encrypted_keypair(Some("secret".into())).unwrap();
    let secret = place.file("boxed.key", made.sk.to_box(None).unwrap().to_string());
    let public = place.file("boxed.pub", made.pk.to_box().unwrap().to_string());
    let out = place.dir().join("out.img");
    let pack = |password: &str| {
        let mut command = lbpayload();
        command
            .args(["pack", "--json", "--embed-checksums", "--sign"])
            .arg(&secret)
            .arg("-o")
            .arg(&out)
            .arg(&public)
            .env("MINISIGN_PASSWORD", password);
        Ran::of(&mut command)
    };
    fails_with(pack("wrong"), "bad-key");
    assert!(!out.exists());
    pack("secret").exits(0);
    lb!["verify", "--trust", &public, &out].exits(0);
    fails_with(lb!["verify", "--json", "--trust", &secret, &out], "bad-key");
}
