//! Mounts that accept only what a trusted key has signed: without a kernel, and real ones.

use std::io::Cursor;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;
use std::{fs, io};

use lbpayload::block::{ReadMode, Source};
use lbpayload::error::Error;
use lbpayload::mount::{Filesystem, Refusal, Strictness, attribute};
use lbpayload::payload::{Payload, TrustedKeys};
use rustix::process::Signal;

use crate::fixture::{Fixture, attribute as attribute_of, is_running, kill, until};
use crate::memory_filesystem::over;
use crate::support::memory::Memory;
use crate::support::{Image, Ran, lbpayload, noise, sha256sum};

/// A key, and what it has signed.
struct Key(minisign::KeyPair);

impl Key {
    fn new() -> Self {
        Self(minisign::KeyPair::generate_unencrypted_keypair().unwrap())
    }

    fn text(&self) -> String {
        self.0.pk.to_base64()
    }

    fn keys(&self) -> TrustedKeys {
        let mut keys = TrustedKeys::default();
        keys.add(&self.text()).unwrap();
        keys
    }

    /// Returns the two entries that sign these checksums.
    fn sign(&self, sums: &str) -> [(Vec<u8>, Vec<u8>); 2] {
        let signed = minisign::sign(
            Some(&self.0.pk),
            &self.0.sk,
            Cursor::new(sums.as_bytes()),
            None,
            None,
        );
        let signature = signed.unwrap().to_string();
        [
            (b"SHA256SUMS".to_vec(), sums.into()),
            (b"SHA256SUMS.minisig".to_vec(), signature.into()),
        ]
    }

    /// Returns an image of these files, and the signed checksums of them.
    fn image(&self, files: &[(&str, &[u8])]) -> Image {
        let mut image = Image::new(files);
        let lines = files
            .iter()
            .map(|(name, data)| format!("{}  {name}\n", sha256sum(data)));
        let sums: String = lines.collect();
        image.files.extend(self.sign(&sums));
        image
    }
}

const FILES: usize = 3;

fn signed(key: &Key) -> Image {
    key.image(&[
        ("good", &noise(1, 300_000)),
        ("bad", &noise(2, 70_001)),
        ("empty", b""),
    ])
}

/// Changes a byte of the data of the file `bad`.
fn forged(image: &Image) -> Vec<u8> {
    let mut bytes = image.bytes();
    let data = &image.files[1].1;
    let at = bytes.windows(50).position(|w| *w == data[..50]).unwrap();
    bytes[at + 65_000] ^= 1;
    bytes
}

fn mounted(bytes: Vec<u8>, keys: &TrustedKeys) -> Result<Filesystem, Error> {
    let (filesystem, _) = over(Memory::new(bytes).shared(), Strictness::Strict)?;
    filesystem.trusting(keys)
}

fn refused(bytes: Vec<u8>, keys: &TrustedKeys) -> String {
    let refused = mounted(bytes, keys).err().expect("it must be refused");
    refused.code().to_owned()
}

fn read(filesystem: &Filesystem, ino: u64) -> Result<Vec<u8>, Refusal> {
    filesystem.read(ino, 10, 1000, <[u8]>::to_vec)
}

fn text(filesystem: &Filesystem, ino: u64, name: &str) -> Option<String> {
    let name = format!("user.lbpayload.{name}");
    let value = attribute(filesystem, ino, name.as_bytes()).ok()?;
    Some(String::from_utf8(value).unwrap())
}

#[test]
fn files_with_the_signed_content_are_read_and_others_are_not() {
    let key = Key::new();
    let image = signed(&key);
    let filesystem = mounted(forged(&image), &key.keys()).unwrap();
    assert_eq!(read(&filesystem, 2).unwrap(), image.files[0].1[10..1010]);
    let sum = sha256sum(&image.files[0].1);
    assert_eq!(text(&filesystem, 2, "sha256"), Some(sum));
    assert_eq!(text(&filesystem, 2, "problem"), None);
    // Its first bytes are right, but the file is not.
    for _ in 0..2 {
        assert!(matches!(read(&filesystem, 3), Err(Refusal::Unreadable)));
        let problem = text(&filesystem, 3, "problem").unwrap();
        assert!(problem.contains("it is not what was signed"), "{problem}");
    }
    assert_eq!(text(&filesystem, 3, "sha256"), None);
    assert_eq!(text(&filesystem, 1, "errors"), Some("3".into()));
    for ino in FILES as u64 + 2..FILES as u64 + 4 {
        let data = &image.files[ino as usize - 2].1;
        let got = filesystem.read(ino, 0, data.len(), <[u8]>::to_vec);
        assert_eq!(got.unwrap(), *data);
    }
}

#[test]
fn what_nobody_trusted_has_signed_is_refused_when_it_is_mounted() {
    let key = Key::new();
    let image = signed(&key);
    assert_eq!(refused(image.bytes(), &Key::new().keys()), "unknown-key");
    let unsigned = Image::new(&[("a", b"a")]);
    assert_eq!(refused(unsigned.bytes(), &key.keys()), "not-signed");
    let mut added = signed(&key);
    added.files.push((b"added".to_vec(), b"x".to_vec()));
    assert_eq!(refused(added.bytes(), &key.keys()), "unlisted-file");
    let mut changed = signed(&key);
    changed.files[3].1[0] ^= 1;
    assert_eq!(refused(changed.bytes(), &key.keys()), "bad-signature");
    // The kernel never reads an empty file.
    let mut emptied = signed(&key);
    emptied.files[0].1.clear();
    assert_eq!(refused(emptied.bytes(), &key.keys()), "checksum");
    assert!(mounted(image.bytes(), &key.keys()).is_ok());
}

#[test]
fn saved_index_does_not_change_what_is_accepted() {
    let key = Key::new();
    let image = signed(&key);
    let whole = mounted(image.bytes(), &key.keys()).unwrap();
    let mut index = Vec::new();
    whole
        .write_index(SystemTime::UNIX_EPOCH, &mut index)
        .unwrap();
    let again = |keys: &TrustedKeys| {
        let payload = Payload::open(Memory::new(forged(&image)).shared()).unwrap();
        let filesystem = Filesystem::from_index(payload, SystemTime::UNIX_EPOCH, &index[..]);
        filesystem.ok().unwrap().trusting(keys)
    };
    let filesystem = again(&key.keys()).unwrap();
    assert!(read(&filesystem, 2).is_ok());
    assert!(matches!(read(&filesystem, 3), Err(Refusal::Unreadable)));
    let refused = again(&Key::new().keys()).err().unwrap();
    assert_eq!(refused.code(), "unknown-key");
}

/// A source that returns other bytes at first.
struct Turning {
    first: Memory,
    then: Memory,
    turned: AtomicBool,
}

impl Source for Turning {
    fn path(&self) -> &Path {
        self.then.path()
    }

    fn len(&self) -> u64 {
        self.then.len()
    }

    fn alignment(&self) -> usize {
        1
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.turned.load(Ordering::Relaxed) {
            true => self.then.read_at(buf, offset),
            false => self.first.read_at(buf, offset),
        }
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }
}

#[test]
fn refused_file_stays_refused_although_the_disk_has_changed() {
    let key = Key::new();
    let image = signed(&key);
    let source = Arc::new(Turning {
        first: Memory::new(forged(&image)),
        then: Memory::new(image.bytes()),
        turned: AtomicBool::new(false),
    });
    let (filesystem, _) = over(source.clone(), Strictness::Strict).unwrap();
    let filesystem = filesystem.trusting(&key.keys()).unwrap();
    assert!(matches!(read(&filesystem, 3), Err(Refusal::Unreadable)));
    source.turned.store(true, Ordering::Relaxed);
    assert!(matches!(read(&filesystem, 3), Err(Refusal::Unreadable)));
    assert!(read(&filesystem, 2).is_ok());
}

#[test]
fn mount_gives_out_signed_files_alone_and_logs_others_once() {
    needs_fuse!();
    let key = Key::new();
    let image = signed(&key);
    let fixture = Fixture::with_bytes(&forged(&image));
    let log = fixture.dir().join("log");
    let log_option = format!("log={}", log.display());
    let key_file = fixture.dir().join("key,1.pub");
    fs::write(&key_file, key.0.pk.to_box().unwrap().to_string()).unwrap();
    let escaped = key_file.to_str().unwrap().replace(',', "\\,");
    let trust_option = format!("trust={escaped}");
    for how in 0..3 {
        let mut command = lbpayload();
        command.args(["mount", "-o", &log_option]);
        match how {
            0 => command.args(["--trust", &Key::new().text(), "--trust", &key.text()]),
            1 => command.args(["-o", &trust_option]),
            _ => command.env("LBPAYLOAD_TRUST", &key_file),
        };
        command.arg(&fixture.image).arg(&fixture.point);
        let ran = Ran::of(&mut command).exits(0);
        assert_eq!((&*ran.stdout, &*ran.stderr), ("", ""));
        let good = fs::read(fixture.file("good")).unwrap();
        assert!(good == image.files[0].1);
        for _ in 0..2 {
            let error = fs::read(fixture.file("bad")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
        }
        let problem = attribute_of(&fixture.file("bad"), "problem").unwrap();
        assert!(problem.contains("not what was signed"), "{problem}");
        assert_eq!(fs::read(fixture.file("empty")).unwrap(), b"");
        fixture.unmount(&[]).exits(0);
        let logged = fs::read_to_string(&log).unwrap();
        assert_eq!(logged.matches("not what was signed").count(), how + 1);
    }
    fixture
        .mount(&["--trust", &Key::new().text()])
        .exits(1)
        .says("signed by a key that is not trusted");
    fixture.is_clean();
}

#[test]
fn check_of_a_huge_file_ends_with_its_reader_or_the_mount() {
    needs_fuse!();
    let key = Key::new();
    // A file of 64 GiB of holes, and one that is read meanwhile.
    let sums = format!(
        "{}  huge\n{}  small\n",
        sha256sum(b"?"),
        sha256sum(b"hello")
    );
    let fixture = Fixture::with_bytes(b"");
    let mut files = key.sign(&sums).to_vec();
    files.push((b"small".to_vec(), b"hello".to_vec()));
    let mut head = Image { wide: true, files }.bytes();
    head[8..16].copy_from_slice(&4_u64.to_le_bytes());
    head.extend(4_u64.to_le_bytes());
    head.extend((1_u64 << 36).to_le_bytes());
    head.extend(b"huge");
    fs::write(&fixture.image, &head).unwrap();
    let image = fs::OpenOptions::new().write(true).open(&fixture.image);
    let len = head.len() as u64 + (1 << 36);
    image.unwrap().set_len(len).unwrap();
    let reader = || {
        let mut command = Command::new("head");
        command.args(["-c", "1"]).arg(fixture.file("huge"));
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    // It waits for an answer of the server, and cannot be interrupted.
    let waits = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains("(head) D ")
    };
    fixture.mounted(&["--trust", &key.text()]);
    let server = fixture.server();
    let mut killed = reader();
    until("the file is checked", || waits(killed.id()));
    assert_eq!(fs::read(fixture.file("small")).unwrap(), b"hello");
    kill(killed.id() as i32, Signal::TERM);
    until("the reader ends", || killed.try_wait().unwrap().is_some());
    let mut other = reader();
    until("the file is checked", || waits(other.id()));
    fixture.unmount_in_use(&["--lazy"]).exits(0);
    until("the reader ends", || other.try_wait().unwrap().is_some());
    until("the server ends", || !is_running(server));
    fixture.is_clean();
}
