//! An object store: moto plays S3, and its own client signs the URLs.
//!
//! `scripts/setup moto` installs it from PyPI below the target directory.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::{Image, Lacks, Ran, noise, skip, tree};
use crate::url::command;

const SERVE: &str = "
import sys, threading, boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
s3 = boto3.client('s3', endpoint_url=f'http://127.0.0.1:{port}', region_name='us-east-1',
                  aws_access_key_id='key', aws_secret_access_key='hunter2')
s3.create_bucket(Bucket='images')
for line in sys.stdin:
    s3.put_object(Bucket='images', Key='external.img', Body=open(line.strip(), 'rb').read())
    print(s3.generate_presigned_url('get_object', Params={'Bucket': 'images', 'Key': 'external.img'}), flush=True)
";

/// A running moto that ends on drop.
struct Moto(Child, BufReader<std::process::ChildStdout>);

impl Moto {
    /// Starts it, or reports that it is missing.
    fn start() -> Option<Self> {
        let python = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../moto/bin/python3");
        if !python.exists() {
            skip(
                Lacks::Machine,
                "no moto, `scripts/setup moto` installs it from PyPI",
            );
            return None;
        }
        let mut child = Command::new(python)
            .args(["-c", SERVE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Some(Self(child, out))
    }

    /// Stores the image, and returns a URL for it that is signed for GET.
    fn put(&mut self, path: &std::path::Path) -> String {
        use std::io::Write;
        let mut input = self.0.stdin.as_ref().unwrap();
        writeln!(input, "{}", path.display()).unwrap();
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_presigned_url_of_an_object_store_is_read_and_its_signature_is_shown_nowhere() {
    let Some(mut moto) = Moto::start() else {
        return;
    };
    let file = |n: u64| (format!("f{n:02}").into_bytes(), noise(n, 400_000));
    let image = Image {
        wide: true,
        files: (0..10).map(file).collect(),
    };
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("image");
    image.write(&path);
    let url = moto.put(&path);
    let signature = url.split_once("Signature=").unwrap().1;
    let signature = signature.split('&').next().unwrap();
    assert!(signature.len() > 8, "{url}");
    let dest = temp.path().join("out");
    for args in [
        &["list", "--json", &url][..],
        &["verify", "--json", &url],
        &["probe", "--json", &url],
        &[
            "import",
            "-vvv",
            "--json",
            "--device",
            &url,
            dest.to_str().unwrap(),
        ],
    ] {
        let mut command = command(args);
        let ran = Ran::of(command.env("RUST_LOG", "trace")).exits(0);
        for said in [&ran.stdout, &ran.stderr] {
            assert!(!said.contains(signature), "{args:?}: {said}");
        }
        assert!(
            ran.stdout.contains("/images/external.img"),
            "{}",
            ran.stdout
        );
    }
    let names = tree(&dest).into_iter().map(|(name, _)| name.into_bytes());
    assert!(names.eq(image.files.iter().map(|(name, _)| name.clone())));
    for (name, data) in &image.files {
        let name = std::str::from_utf8(name).unwrap();
        assert!(std::fs::read(dest.join(name)).unwrap() == *data);
    }
    // The object store answers with an XML page.
    let gone = url.replace("external.img", "other.img");
    Ran::of(&mut command(&["list", &gone]))
        .exits(1)
        .says("404 Not Found");
}

#[test]
fn an_object_that_is_replaced_in_the_store_is_not_mixed_with_the_old_one() {
    use lbpayload::block::{AlignedBuf, Source};
    use lbpayload::net::{HttpOptions, HttpSource};
    let Some(mut moto) = Moto::start() else {
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("image");
    std::fs::write(&path, noise(1, 3_000_000)).unwrap();
    let source = HttpSource::open(&moto.put(&path), HttpOptions::default()).unwrap();
    std::fs::write(&path, noise(2, 3_000_000)).unwrap();
    moto.put(&path);
    let mut buf = AlignedBuf::new(4096).unwrap();
    let error = source.read_at(&mut buf[..100], 2_000_000).unwrap_err();
    assert!(error.to_string().contains("has changed"), "{error}");
}
