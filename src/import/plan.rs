//! Plans an import before anything is written.

use std::collections::HashSet;
use std::path::Path;
use std::str::FromStr;

use crate::durable::{Directory, Lookup, STAGING_NAME, settle};
use crate::error::{Error, Kind, Result, printable};
use crate::payload::{Bits, Checksums, Entry, Index, Payload};
use crate::progress::Progress;

use super::compare::{Comparer, has_sum};

/// What to do if a file with other content has an entry's name. A file with the same
/// content is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExistingPolicy {
    /// Replaces the file.
    #[default]
    Replace,
    /// Keeps the file as it is.
    Keep,
    /// Fails before anything is written.
    Error,
}

impl FromStr for ExistingPolicy {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "replace" => Ok(Self::Replace),
            "keep" => Ok(Self::Keep),
            "error" => Ok(Self::Error),
            _ => Err("expected replace, keep or error".into()),
        }
    }
}

/// What an existing file counts as if the payload's file cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// As different.
    Differs,
    /// The plan fails.
    Fails,
}

/// The selection of a payload's files.
#[derive(Debug)]
pub enum Selection {
    /// All files.
    All,
    /// The files with these names, all of which are in the payload.
    Some(HashSet<String>),
}

impl Selection {
    /// Selects the files with these names, or all files if `names` is empty.
    ///
    /// # Errors
    /// The payload has no file of one of the names.
    pub fn find(index: &Index, names: &[String]) -> Result<Self> {
        if names.is_empty() {
            return Ok(Self::All);
        }
        let wanted: HashSet<String> = names.iter().cloned().collect();
        let mut absent = wanted.clone();
        for entry in index.entries()? {
            absent.remove(&*entry?.shown_name());
        }
        let mut absent: Vec<String> = absent.into_iter().map(|n| printable(&n)).collect();
        absent.sort();
        if !absent.is_empty() && !index.is_whole() {
            log::warn!(
                "not found before the unreadable header: {}",
                absent.join(", ")
            );
            return Ok(Self::Some(wanted));
        }
        if absent.is_empty() {
            Ok(Self::Some(wanted))
        } else {
            Err(Error::new(
                Kind::Refused,
                format!("the payload has no file `{}`", absent.join("`, `")),
            )
            .with_code("no-such-entry")
            .with_path(index.payload().source().path()))
        }
    }

    fn holds(&self, entry: &Entry) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(&*entry.shown_name()),
        }
    }
}

/// The plan: what will be written, and what stays.
#[derive(Debug, Default)]
pub struct Plan {
    /// One bit for each entry: whether it is written.
    write: Bits,
    /// One bit for each entry: whether it replaces something.
    replace: Bits,
    /// One bit for each entry: whether its file exists already or stays as it is.
    keep: Bits,
    /// One bit for each entry: whether its file exists and must be compared with the payload's.
    compare: Bits,
    /// The number of these entries.
    pub undecided: u64,
    /// The number of entries examined.
    pub files: u64,
    /// The number of entries that are written.
    pub write_files: u64,
    /// The number of bytes of these entries.
    pub write_bytes: u64,
    /// The number of these bytes, with each entry rounded up to the file system's blocks.
    room_bytes: u64,
    /// The number of entries that replace something.
    pub replaced: u64,
    /// The number of entries whose file exists already or stays as it is.
    pub kept: u64,
    /// The number of entries that have a checksum.
    pub checked: u64,
    /// The number of entries without a checksum, if others have one.
    pub unlisted: u64,
}

impl Plan {
    /// Examines each selected entry and the file of that name in `dest`.
    ///
    /// A file that has a checksum is compared with the checksum, so that the source is not read.
    /// Others need the payload's data, and are left for [`Plan::decide`].
    ///
    /// # Errors
    /// A name cannot be used there, a file differs and `existing` is an error, something
    /// cannot be read, or the import is interrupted.
    pub fn make(
        index: &Index,
        selection: &Selection,
        dest: Option<&Directory>,
        sums: &mut Checksums,
        existing: ExistingPolicy,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut plan = Self::default();
        let payload = index.payload();
        let room = dest.map(Directory::room).transpose()?;
        let nothing_there = dest.map_or(Ok(true), Directory::is_empty)?;
        let has_sums = !sums.is_empty();
        progress.begin("comparing", index.data_bytes());
        for entry in index.entries()? {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let entry = entry?;
            let name = entry.shown_name().into_owned();
            let sum = sums.take(&name);
            if !selection.holds(&entry) {
                progress.skip(entry.size);
                continue;
            }
            refuse_unusable(
                &entry,
                &name,
                payload,
                room.as_ref().map(|r| r.max_name_len),
            )?;
            plan.files += 1;
            match sum {
                Some(_) => plan.checked += 1,
                None if has_sums && entry.needs_checksum() => plan.unlisted += 1,
                None => {}
            }
            let at = || dest.map_or(Path::new(""), Directory::path).join(&name);
            let found = match dest {
                Some(dest) if !nothing_there => dest.lookup(&name)?,
                _ => Lookup::Nothing,
            };
            let is_read = matches!(&found, Lookup::File(_, meta) if meta.len() == entry.size);
            if !is_read || sum.is_none() {
                progress.skip(entry.size);
            }
            let replaces = match found {
                Lookup::Nothing => false,
                Lookup::Directory => {
                    return Err(
                        Error::new(Kind::Refused, "expected a file, found a directory")
                            .with_code("directory-in-the-way")
                            .with_path(at())
                            .advice("move the directory away"),
                    );
                }
                Lookup::File(_, meta) if payload.source().is_file(&meta) => {
                    return Err(Error::new(
                        Kind::Refused,
                        "an entry has the name of the image itself",
                    )
                    .with_code("would-replace-image")
                    .with_path(at())
                    .advice("move the image to another directory"));
                }
                Lookup::File(_, meta) if meta.len() != entry.size => true,
                Lookup::File(file, _) => match sum {
                    Some(sum) if !has_sum(&file, sum, progress)? => true,
                    None if entry.size > 0 => {
                        plan.compare.set(entry.index)?;
                        plan.undecided += 1;
                        continue;
                    }
                    _ => {
                        settle(&file).map_err(|e| Error::io("sync", e).with_path(at()))?;
                        plan.keep(&entry)?;
                        continue;
                    }
                },
                // A file that cannot be compared is replaced.
                Lookup::Unreadable(_) | Lookup::Symlink(..) | Lookup::Special => true,
            };
            let block_bytes = room.as_ref().map_or(4096, |r| r.block_bytes);
            if replaces {
                plan.add_existing(&entry, dest, existing, block_bytes)?;
            } else {
                plan.add(&entry, false, block_bytes)?;
            }
        }
        progress.end();
        Ok(plan)
    }

    /// Compares the files that [`Plan::make`] left undecided with the payload's. Returns the plan
    /// for them. A file that cannot be read from the source counts as different if `unreadable`
    /// says so: the copy finds out what is wrong.
    ///
    /// # Errors
    /// A file differs and `existing` is an error, something cannot be read, or the import is
    /// interrupted.
    pub fn decide(
        &self,
        index: &Index,
        dest: &Directory,
        existing: ExistingPolicy,
        unreadable: Unreadable,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut plan = Self::default();
        let payload = index.payload().first_copy();
        let block_bytes = dest.room()?.block_bytes;
        let mut comparer = Comparer::new(&payload)?;
        progress.begin("comparing", index.data_bytes());
        for entry in index.entries()? {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let entry = entry?;
            if !self.compare.get(entry.index) {
                progress.skip(entry.size);
                continue;
            }
            let name = entry.shown_name();
            let (file, is_same) = match dest.lookup(&name)? {
                Lookup::File(file, meta) if meta.len() == entry.size => {
                    let same = comparer.compare(&entry, &file, progress);
                    let same = match same {
                        Err(e) if e.kind() == Kind::Io && unreadable == Unreadable::Differs => {
                            log::debug!("not compared: {e}");
                            false
                        }
                        other => other?,
                    };
                    (Some(file), same)
                }
                _ => (None, false),
            };
            match file.filter(|_| is_same) {
                Some(file) => {
                    let at = || dest.path().join(&*name);
                    settle(&file).map_err(|e| Error::io("sync", e).with_path(at()))?;
                    plan.keep(&entry)?;
                }
                None => plan.add_existing(&entry, Some(dest), existing, block_bytes)?,
            }
        }
        progress.end();
        Ok(plan)
    }

    /// Adds the decisions of `other` about the undecided files.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.write.add_all(&other.write)?;
        self.replace.add_all(&other.replace)?;
        self.keep.add_all(&other.keep)?;
        self.write_files += other.write_files;
        self.write_bytes += other.write_bytes;
        self.room_bytes = self.room_bytes.saturating_add(other.room_bytes);
        self.replaced += other.replaced;
        self.kept += other.kept;
        (self.compare, self.undecided) = (Bits::default(), 0);
        Ok(())
    }

    /// Adds an entry whose name something else has.
    fn add_existing(
        &mut self,
        entry: &Entry,
        dest: Option<&Directory>,
        existing: ExistingPolicy,
        block_bytes: u64,
    ) -> Result<()> {
        let name = entry.shown_name();
        match existing {
            ExistingPolicy::Replace => self.add(entry, true, block_bytes),
            ExistingPolicy::Keep => {
                log::warn!("{name}: kept, its content differs");
                self.keep(entry)
            }
            ExistingPolicy::Error => Err(Error::new(
                Kind::Refused,
                "a file with other content exists",
            )
            .with_code("content-differs")
            .with_path(dest.map_or(Path::new(""), Directory::path).join(&*name))),
        }
    }

    fn keep(&mut self, entry: &Entry) -> Result<()> {
        self.keep.set(entry.index)?;
        self.kept += 1;
        Ok(())
    }

    fn add(&mut self, entry: &Entry, replaces: bool, block_bytes: u64) -> Result<()> {
        self.write.set(entry.index)?;
        self.write_files += 1;
        self.write_bytes = self.write_bytes.saturating_add(entry.size);
        let rounded = entry
            .size
            .checked_next_multiple_of(block_bytes)
            .unwrap_or(u64::MAX);
        self.room_bytes = self.room_bytes.saturating_add(rounded);
        if replaces {
            self.replace.set(entry.index)?;
            self.replaced += 1;
        }
        Ok(())
    }

    /// Returns whether the entry is written.
    pub fn writes(&self, index: u64) -> bool {
        self.write.get(index)
    }

    /// Returns whether the entry replaces something.
    pub fn replaces(&self, index: u64) -> bool {
        self.replace.get(index)
    }

    /// Returns whether the entry's file exists already or stays as it is.
    pub fn keeps(&self, index: u64) -> bool {
        self.keep.get(index)
    }

    /// Returns whether the entry's file must still be compared.
    pub fn compares(&self, index: u64) -> bool {
        self.compare.get(index)
    }

    /// Fails if the destination has too little room, before anything is written.
    ///
    /// # Errors
    /// The destination has too few free bytes or files left.
    pub fn refuse_too_little_room(&self, dest: Option<&Directory>, path: &Path) -> Result<()> {
        let Some(dest) = dest else {
            return Ok(());
        };
        let room = dest.room()?;
        // One more for the staging directory.
        let files = self.write_files.saturating_add(1);
        let (what, need, free) = if self.room_bytes > room.free_bytes {
            ("bytes", self.room_bytes, room.free_bytes)
        } else if let Some(free) = room.free_files.filter(|&free| files > free) {
            ("files", files, free)
        } else {
            return Ok(());
        };
        Err(Error::new(
            Kind::Space,
            format!("the destination has room for {free} {what}, and {need} are needed"),
        )
        .with_path(path)
        .advice("nothing was written, free some space or use another destination"))
    }
}

fn refuse_unusable(
    entry: &Entry,
    name: &str,
    payload: &Payload,
    max_len: Option<usize>,
) -> Result<()> {
    let refuse = |code: &'static str, why: String| {
        Error::new(Kind::Refused, why)
            .with_code(code)
            .with_path(payload.source().path())
            .with_entry(entry.index, Some(name))
            .with_offset(payload.source().start() + entry.header_offset)
    };
    if name == STAGING_NAME {
        let why = "import uses this name for its incomplete files";
        return Err(refuse("name-reserved", why.into()));
    }
    match max_len {
        Some(max) if entry.raw_name.len() > max => Err(refuse(
            "name-too-long",
            format!(
                "the name has {} bytes, the destination stores at most {max}",
                entry.raw_name.len()
            ),
        )
        .advice("use a destination on another file system")),
        _ => Ok(()),
    }
}
