//! Shared by the modules: a payload in a directory of its own.

use std::path::{Path, PathBuf};

use crate::support::{Image, Ran, TempDir, noise, sha256sum};

/// An image and a destination that does not exist yet. Both are removed on drop.
pub(crate) struct Place {
    dir: TempDir,
    pub(crate) image: PathBuf,
    pub(crate) dest: PathBuf,
}

impl Place {
    pub(crate) fn with_bytes(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("external.img");
        std::fs::write(&image, bytes).unwrap();
        let dest = dir.path().join("distfiles");
        Self { dir, image, dest }
    }

    pub(crate) fn new(image: &Image) -> Self {
        Self::with_bytes(&image.bytes())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file next to the image.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Creates the destination with files in it.
    pub(crate) fn fill_dest(&self, files: &[(&str, &[u8])]) {
        std::fs::create_dir(&self.dest).unwrap();
        for (name, content) in files {
            std::fs::write(self.dest.join(name), content).unwrap();
        }
    }

    /// The program under the reference importer's name.
    pub(crate) fn link_drop_in(&self) -> PathBuf {
        let link = self.dir.path().join("payload-import");
        if !link.exists() {
            std::os::unix::fs::symlink(crate::support::lbpayload().get_program(), &link).unwrap();
        }
        link
    }

    pub(crate) fn import(&self) -> Ran {
        lb!["import", "--device", &self.image, &self.dest]
    }
}

/// Files of many sizes, at unaligned offsets: empty, a few bytes, larger than a small
/// file, and larger than a block.
pub(crate) fn sample() -> Image {
    Image::new(&[
        ("a-empty", b""),
        ("b-small", b"hello"),
        ("c-large", &noise(1, 2_500_001)),
        ("d-medium", &noise(2, 70_003)),
        ("e-last", "größe".as_bytes()),
    ])
}

/// The files of `image` as [`crate::support::tree`] shows them once imported.
pub(crate) fn as_tree(image: &Image) -> Vec<(String, Vec<u8>)> {
    let own = |(name, data): &(Vec<u8>, Vec<u8>)| {
        (String::from_utf8(name.clone()).unwrap(), data.clone())
    };
    let mut tree: Vec<_> = image.files.iter().map(own).collect();
    tree.sort();
    tree
}

/// The lines of sha256sum(1) over the files of `image`.
pub(crate) fn sums_of(image: &Image) -> String {
    let line = |(name, data): &(Vec<u8>, Vec<u8>)| {
        format!("{}  {}\n", sha256sum(data), String::from_utf8_lossy(name))
    };
    image.files.iter().map(line).collect()
}

/// Replaces the checksum of `name` with a wrong one.
pub(crate) fn spoil(sums: &str, name: &str) -> String {
    let wrong = sha256sum(b"something else");
    let spoiled = sums
        .lines()
        .map(|line| match line.strip_suffix(&format!("  {name}")) {
            Some(_) => format!("{wrong}  {name}\n"),
            None => format!("{line}\n"),
        });
    let spoiled = spoiled.collect();
    assert_ne!(sums, spoiled, "{name} is there to be spoiled");
    spoiled
}

/// Parses what a command printed as JSON.
#[track_caller]
pub(crate) fn json(ran: &Ran) -> serde_json::Value {
    serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|e| panic!("{e}\nstdout: {}\nstderr: {}", ran.stdout, ran.stderr))
}

/// Asserts that a command failed with this code in its JSON error, and gave advice.
#[track_caller]
pub(crate) fn fails_with(ran: Ran, code: &str) -> serde_json::Value {
    let ran = ran.exits(1);
    let error = json(&ran)["error"].clone();
    assert_eq!(error["code"], code, "{}", ran.stderr);
    assert!(error["help"][0].is_string(), "no help: {}", ran.stderr);
    error
}

/// A checkout of live-bootstrap: `(directive line, sources)` of the manifest.
pub(crate) fn checkout(dir: &Path, manifest: &str, packages: &[(&str, &str)]) -> PathBuf {
    let root = dir.join("live-bootstrap");
    std::fs::create_dir_all(root.join("steps")).unwrap();
    std::fs::create_dir_all(root.join("distfiles")).unwrap();
    std::fs::write(root.join("steps/manifest"), manifest).unwrap();
    for (package, sources) in packages {
        std::fs::create_dir_all(root.join("steps").join(package)).unwrap();
        std::fs::write(root.join("steps").join(package).join("sources"), sources).unwrap();
    }
    root
}
