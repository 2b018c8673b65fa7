//! Files to fetch, and the places where they go.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::server::{After, Request, Server, good, not_found};
use crate::support::{Ran, lbpayload, noise, sha256sum};

/// Files by name.
#[derive(Clone)]
pub struct Files(Arc<BTreeMap<String, Vec<u8>>>);

impl Files {
    /// `count` files of about `len` bytes.
    pub fn new(count: usize, len: usize) -> Self {
        let file = |n: usize| {
            let name = format!("f{n:03}.tar.gz");
            (name, noise(n as u64 + 1, len + n))
        };
        Self(Arc::new((0..count).map(file).collect()))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, data)| (&**name, &**data))
    }

    /// The content of the file that a request asks for.
    pub fn of(&self, request: &Request) -> Option<&[u8]> {
        let name = request.path().rsplit('/').next()?;
        self.0.get(name).map(Vec::as_slice)
    }

    /// Answers a request as a good server does.
    pub fn answer(&self, request: &Request, out: &mut TcpStream) -> std::io::Result<After> {
        match self.of(request) {
            Some(body) => good(request, out, body),
            None => not_found(out),
        }
    }

    /// A good server that has all files.
    pub fn serve(&self) -> Server {
        let files = self.clone();
        Server::start(move |request, out| files.answer(request, out))
    }
}

/// A directory with a list of files, and a destination.
pub struct Place {
    pub temp: TempDir,
    pub files: Files,
}

impl Place {
    pub fn new(files: &Files) -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
            files: files.clone(),
        }
    }

    pub fn dest(&self) -> PathBuf {
        self.temp.path().join("distfiles")
    }

    /// Writes the list of all files, each with the URL that `url` gives for its name.
    pub fn list(&self, url: impl Fn(&str) -> String) -> PathBuf {
        let path = self.temp.path().join("list");
        let line =
            |(name, data): (&str, &[u8])| format!("{} {} {name}\n", url(name), sha256sum(data));
        std::fs::write(&path, self.files.iter().map(line).collect::<String>()).unwrap();
        path
    }

    /// The command that fetches the list into the destination.
    pub fn fetch(&self, url: impl Fn(&str) -> String, options: &[&str]) -> Command {
        let mut command = lbpayload();
        command.args(["fetch", "--list"]).arg(self.list(url));
        command.arg("--dest").arg(self.dest()).args(options);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command
                .env_remove(name)
                .env_remove(name.to_ascii_lowercase());
        }
        command
    }

    /// Fetches the files that only mirrors have.
    pub fn fetch_from(&self, mirrors: &[&str], options: &[&str]) -> Command {
        let mut command = self.fetch(|_| "_".into(), options);
        for mirror in mirrors {
            command.args(["--mirror", mirror]);
        }
        command
    }

    /// Asserts that the destination holds the files and nothing else.
    #[track_caller]
    pub fn has_all(&self) {
        let found = crate::support::tree(&self.dest());
        let names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
        let wanted: Vec<&str> = self.files.iter().map(|(name, _)| name).collect();
        assert_eq!(names, wanted);
        assert!(self.has_nothing_wrong());
    }

    /// Whether every file under its name has the right content.
    pub fn has_nothing_wrong(&self) -> bool {
        self.files
            .iter()
            .all(|(name, data)| match std::fs::read(self.dest().join(name)) {
                Ok(found) => found == data,
                Err(e) => e.kind() == std::io::ErrorKind::NotFound,
            })
    }
}

/// Runs a command that prints a JSON report.
#[track_caller]
pub fn json(command: &mut Command, status: i32) -> serde_json::Value {
    let ran = Ran::of(command.arg("--json")).exits(status);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.stdout))
}

/// The results of all tries of the file with this number, joined.
pub fn tries(report: &serde_json::Value, file: usize) -> String {
    let tries = report["entries"][file]["tries"].as_array().unwrap();
    let results = tries.iter().map(|t| t["result"].as_str().unwrap());
    results.collect::<Vec<_>>().join(", ")
}

/// A checkout of live-bootstrap with these packages and their `sources`.
pub fn checkout(dir: &Path, manifest: &str, packages: &[(&str, String)]) -> PathBuf {
    let root = dir.join("live-bootstrap");
    std::fs::create_dir_all(root.join("steps")).unwrap();
    std::fs::write(root.join("steps/manifest"), manifest).unwrap();
    for (package, sources) in packages {
        std::fs::create_dir_all(root.join("steps").join(package)).unwrap();
        std::fs::write(root.join("steps").join(package).join("sources"), sources).unwrap();
    }
    root
}
