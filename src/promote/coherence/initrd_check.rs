//! Compares the modules in an initramfs with those in `rootfs/`.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use super::compression::{Compression, split_suffix};
use super::cpio::Entry;
use super::initrd;
use super::module;
use super::module_tree::{MODULES, is_module};
use super::report::{Findings, in_rootfs};
use super::staged_image::{self, Side, StagedImage};
use crate::durable::Tree;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The most modules in an initramfs that are compared. The largest kernels have about 7,000.
const MAX_MODULES: usize = 20_000;

/// What was found in an initramfs.
#[derive(Debug, Clone, Default)]
pub(super) struct Comparison {
    /// The number of modules in it.
    pub(super) modules: u64,
    pub(super) findings: Findings,
}

/// The result for a module: nothing if it is the same as in `rootfs/`, or what is wrong.
type Outcome = std::result::Result<(), (bool, String)>;

/// Compares the modules in the initramfs at `path`, below `Linux_for_Tegra/`.
///
/// # Errors
/// The user asks to stop.
pub(super) fn compare(
    image: &StagedImage,
    path: &Path,
    release: Option<&str>,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let mut found = Comparison::default();
    let rootfs = match image.rootfs() {
        Ok(rootfs) => rootfs,
        Err(e) => {
            found.findings.error("rootfs", &e);
            return Ok(found);
        }
    };
    let file = match image.file(path) {
        Ok(file) => file,
        Err(e) => {
            found.findings.error(path, &e);
            return Ok(found);
        }
    };
    // By path without the compression, because a later entry replaces an earlier one.
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    let mut wrong_names = Vec::new();
    let walked = initrd::walk(&file, &mut |entry, data| {
        if progress.cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        if !entry.is_file() {
            return Ok(());
        }
        let name = match module_path(&entry.name) {
            Name::Module(name) => name,
            Name::Other => return Ok(()),
            Name::Climbs => {
                wrong_names.push(String::from_utf8_lossy(&entry.name).into_owned());
                return Ok(());
            }
        };
        let outcome = compare_module(rootfs, entry, &name, data)?;
        let key = split_suffix(&name).0.to_owned();
        outcomes.insert(key, outcome);
        match outcomes.len() + wrong_names.len() {
            0..=MAX_MODULES => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it has more than 20,000 modules",
            )),
        }
    });
    if progress.cancelled() {
        return Err(Error::interrupted());
    }
    for name in wrong_names {
        let name = crate::error::printable(&name);
        let message = format!("it has a file with .. in its name, {name}");
        found.findings.failed(path, message);
    }
    if let Err(e) = walked {
        found.findings.error(path, &e);
    }
    found.modules = outcomes.len() as u64;
    let has = |release: &str| {
        let start = format!("{release}/");
        outcomes.keys().any(|name| name.starts_with(&start))
    };
    if let Some(release) = release.filter(|release| found.modules > 0 && !has(release)) {
        let message = format!("it has modules, and none for {release}");
        found.findings.failed(path, message);
    }
    for (name, outcome) in outcomes {
        let name = in_rootfs(&Path::new(MODULES).join(name));
        match outcome {
            Ok(()) => {}
            Err((true, message)) => found.findings.failed(name, message),
            Err((false, message)) => found.findings.unchecked(name, message),
        }
    }
    Ok(found)
}

/// What the name of an entry says.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    /// It is a module: the path below `lib/modules/`.
    Module(String),
    /// It is another file.
    Other,
    /// It has `..` in it. No tool writes such names, and they could stand for any file.
    Climbs,
}

/// Reads the name of an entry. The kernel unpacks an absolute name in the same place as the one
/// without its slash.
fn module_path(name: &[u8]) -> Name {
    let parts = || {
        let parts = name.split(|byte| *byte == b'/');
        parts.filter(|part| !matches!(*part, b"" | b"."))
    };
    if parts().any(|part| part == b"..") {
        return Name::Climbs;
    }
    if !is_module(name) {
        return Name::Other;
    }
    let mut rest = parts().peekable();
    rest.next_if(|part| *part == b"usr");
    if rest.next() != Some(b"lib") || rest.next() != Some(b"modules") {
        return Name::Other;
    }
    let rest: Vec<_> = rest.map(String::from_utf8_lossy).collect();
    Name::Module(rest.join("/"))
}

fn compare_module(
    rootfs: &Tree,
    entry: &Entry,
    name: &str,
    data: &mut dyn Read,
) -> io::Result<Outcome> {
    if entry.is_hard_link() {
        let message = "it is a hard link in the initramfs, which lbpayload does not follow";
        return Ok(Err((false, message.into())));
    }
    let (there, there_name) = match open(rootfs, name) {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(Err((
                true,
                "it is in the initramfs, and not in rootfs".into(),
            )));
        }
        Err(e) => return Ok(Err((false, Error::io("", e).cause()))),
    };
    // The compressed data of an entry can be wrong while the archive is right.
    let inside = module::open(name, data);
    let outside = module::open(&there_name, there);
    let same = match (inside, outside) {
        (Ok(mut inside), Ok(mut outside)) => staged_image::same(&mut *inside, &mut *outside),
        (Err(e), _) => Err((Side::One, e)),
        (_, Err(e)) => Err((Side::Other, e)),
    };
    Ok(match same {
        Ok(true) => Ok(()),
        Ok(false) => Err((true, "it is another version than in the initramfs".into())),
        Err((Side::One, e)) => {
            return match split_suffix(name).1 {
                // The next entry is where the header of this one says.
                Some(_) if e.raw_os_error().is_none() => Ok(Err((
                    e.kind() != io::ErrorKind::Unsupported,
                    format!("it cannot be read in the initramfs: {e}"),
                ))),
                _ => Err(e),
            };
        }
        Err((Side::Other, e)) if e.raw_os_error().is_some() => {
            Err((false, Error::io("", e).cause()))
        }
        Err((Side::Other, e)) => Err((true, e.to_string())),
    })
}

/// Opens the module in `rootfs/`, which may be compressed in another way than in the initramfs.
fn open(rootfs: &Tree, name: &str) -> io::Result<(std::fs::File, String)> {
    let (plain, _) = split_suffix(name);
    let others = Compression::SUFFIXES.map(|(suffix, _)| format!("{plain}{suffix}"));
    let mut names = vec![name.to_owned(), plain.to_owned()];
    names.extend(others);
    for name in names {
        match staged_image::open(rootfs, &Path::new(MODULES).join(&name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return Ok((other?, name)),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_and_slashes_stand_for_the_same_module() {
        let module = Name::Module("6.8/a.ko".into());
        for name in [
            "lib/modules/6.8/a.ko",
            "usr/lib/modules/6.8/a.ko",
            "./lib/modules/6.8/a.ko",
            "/usr/lib/./modules//6.8/a.ko",
        ] {
            assert_eq!(module_path(name.as_bytes()), module, "{name}");
        }
        for name in [
            "a.ko",
            "lib/a.ko",
            "lib/modules/6.8/modules.dep",
            "usr",
            "",
            "/",
        ] {
            assert_eq!(module_path(name.as_bytes()), Name::Other, "{name}");
        }
        for name in ["..", "lib/modules/../modules/6.8/a.ko", "/../etc/passwd"] {
            assert_eq!(module_path(name.as_bytes()), Name::Climbs, "{name}");
        }
    }
}
