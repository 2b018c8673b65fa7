//! Shows what a promote would change: for each file, the text that differs, or the sizes and the
//! checksums.
//!
//! A device tree is compared as dtc decompiles it, and a module by what it says about itself.

mod device_tree;
mod readable;
mod unified;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::durable::Lookup;
use crate::error::{Error, Result, printable};
use crate::progress::Progress;
use crate::promote::inputs::content::Sources;
use crate::promote::inputs::git::Git;
use crate::promote::inputs::workspace::L4T;
use crate::promote::parallel::try_map;
use crate::promote::plan::union::{Channel, Item};
use crate::promote::report::Report;
use crate::promote::tree::bytes::sum;
use crate::promote::trees::Trees;

pub use readable::Kind;
use readable::Readable;

/// The number of files that are compared before the next ones are read.
const FILES_AT_ONCE: usize = 64;

/// The size in bytes of all unified diffs together. Behind it, files have only checksums.
const MAX_TEXT: usize = 16 << 20;

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The image does not have it yet.
    New,
    /// It is replaced.
    Changed,
    /// It is removed.
    Removed,
    /// Only root can tell whether it is replaced.
    Unknown,
}

/// One side of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// A file.
    File {
        /// Its length in bytes.
        bytes: u64,
        /// The SHA-256 sum of its bytes.
        sha256: String,
    },
    /// A symlink, and its target.
    Symlink(PathBuf),
}

/// A file that a promote would write or remove.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The path below `Linux_for_Tegra/`, as the overlay or the manifest names it.
    pub path: PathBuf,
    /// The path below `Linux_for_Tegra/` without symlinks.
    pub place: PathBuf,
    /// The channel that it comes from.
    pub channel: Channel,
    /// What happens to it.
    pub change: Change,
    /// What the content is.
    pub kind: Kind,
    /// What the image has now.
    pub old: Option<Side>,
    /// What it gets.
    pub new: Option<Side>,
    /// A unified diff of the text, of the decompiled device tree, or of the module's fields.
    pub text: Option<String>,
    /// Why there is no text, or not all of it.
    pub note: Option<String>,
}

/// Returns the differences between the plan of a dry run and the image, in the order of the plan.
///
/// # Errors
/// A file cannot be read, although the dry run could read it, or the user asks to stop.
pub fn differences(report: &Report, progress: &dyn Progress) -> Result<Vec<Difference>> {
    let overlay = Git::at(&report.source.join(L4T))?;
    let sources = Sources::new(&report.image, overlay.as_ref())?;
    let trees = Trees::open(&report.image, false)?;
    let wanted = report.items.iter().filter(|item| item.is_to_be_written());
    let wanted: Vec<&Item> = wanted.collect();
    progress.begin("comparing", wanted.iter().map(|item| item.bytes).sum());
    let mut left = MAX_TEXT;
    let mut differences = Vec::new();
    for items in wanted.chunks(FILES_AT_ONCE) {
        let found = try_map(items, |item| {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let found = difference(item, &trees, &sources, left > 0)?;
            progress.advance(item.bytes);
            Ok(found)
        })?;
        for mut found in found {
            let length = found.text.as_ref().map_or(0, String::len);
            if length > left {
                found.text = None;
                found.note = Some(TOO_MUCH.into());
            }
            left = left.saturating_sub(length);
            differences.push(found);
        }
    }
    progress.end();
    Ok(differences)
}

const TOO_MUCH: &str = "not shown, because the diffs of the files before it are large";

/// A side with its open file.
type Opened = (Side, Option<File>);

fn difference(item: &Item, trees: &Trees, sources: &Sources, show: bool) -> Result<Difference> {
    let place = trees.path(&item.place);
    let failed = |e: io::Error| Error::io("compare with", e).with_path(&place);
    let new = match item.content.link() {
        Some(target) => Some((Side::Symlink(target.to_path_buf()), None)),
        None => match sources.open(&item.content)? {
            Some(opened) => Some(opened_side(opened.file).map_err(failed)?),
            None => None,
        },
    };
    let seen = match trees.tree(item.place.zone)?.lookup(&item.place.path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => None,
        Err(e) => return Err(failed(e)),
        Ok(seen) => Some(seen),
    };
    let (change, old) = match seen {
        None => (Change::Unknown, None),
        Some(Lookup::File(file, _)) => {
            let side = opened_side(file).map_err(failed)?;
            (Change::Changed, Some(side))
        }
        Some(Lookup::Symlink(target, _)) => (Change::Changed, Some((Side::Symlink(target), None))),
        Some(_) => (Change::New, None),
    };
    let change = match (&new, change) {
        (None, Change::Changed) => Change::Removed,
        (_, change) => change,
    };
    let path = item.dst.as_path();
    let (kind, text, note) = match change {
        Change::Unknown => (Kind::Binary, None, Some("only root can read it".into())),
        _ => compare(path, old.as_ref(), new.as_ref(), show).map_err(failed)?,
    };
    Ok(Difference {
        path: path.to_path_buf(),
        place: item.place.in_image(),
        channel: item.channel,
        change,
        kind,
        old: old.map(|(side, _)| side),
        new: new.map(|(side, _)| side),
        text,
        note,
    })
}

fn opened_side(file: File) -> io::Result<Opened> {
    let sha256 = sum(&file)?;
    let bytes = file.metadata()?.len();
    Ok((Side::File { bytes, sha256 }, Some(file)))
}

/// Returns the kind of a file, and the difference as text if it can be shown.
fn compare(
    path: &Path,
    old: Option<&Opened>,
    new: Option<&Opened>,
    show: bool,
) -> io::Result<(Kind, Option<String>, Option<String>)> {
    let read = |side: Option<&Opened>| match side {
        None => Ok(None),
        Some((Side::Symlink(_), _)) => Ok(Some(Readable::symlink())),
        Some((_, None)) => Ok(None),
        Some((_, Some(file))) => Readable::read(path, file).map(Some),
    };
    let (old, new) = (read(old)?, read(new)?);
    let kind = new.as_ref().or(old.as_ref());
    let kind = kind.map_or(Kind::Binary, |side| side.kind);
    let is_mixed = |side: &Readable| side.kind != kind;
    if old.as_ref().is_some_and(is_mixed) || kind == Kind::Symlink || kind == Kind::Binary {
        return Ok((kind, None, None));
    }
    // The whole text of a new device tree or module says less than its name.
    if kind != Kind::Text && (old.is_none() || new.is_none()) {
        return Ok((kind, None, None));
    }
    if !show {
        return Ok((kind, None, Some(TOO_MUCH.into())));
    }
    let name = printable(&path.to_string_lossy());
    let (has_old, has_new) = (old.is_some(), new.is_some());
    let text = |side: Option<Readable>, name: &str| match side.map(Readable::into_text) {
        None => Ok(String::new()),
        Some(text) => text.map_err(|why| format!("the {name} file is not decompiled: {why}")),
    };
    let (new, old) = match (text(new, "new"), text(old, "old")) {
        (Ok(new), Ok(old)) => (new, old),
        (Err(why), _) | (_, Err(why)) => return Ok((kind, None, Some(why))),
    };
    let header = |letter: char, is_there: bool| match is_there {
        true => format!("{letter}/{name}"),
        false => "/dev/null".into(),
    };
    let (header_old, header_new) = (header('a', has_old), header('b', has_new));
    let (text, more) = unified::unified(&old, &new, &header_old, &header_new);
    let note = match (more, text.is_empty(), kind) {
        (0, true, Kind::DeviceTree) => Some("the decompiled device trees are the same".into()),
        (0, true, Kind::Module) => Some("what the modules say about themselves is the same".into()),
        (0, ..) => None,
        (more, ..) => Some(format!("{more} more lines of the diff are not shown")),
    };
    Ok((kind, Some(text).filter(|text| !text.is_empty()), note))
}
