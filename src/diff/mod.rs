//! Compares the files of two payloads.

mod content;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::error::{Error, Result};
use crate::payload::{Checksums, Entry, Index, embedded_checksums};
use crate::progress::Progress;

use content::Content;

/// The number of names that are compared in one pass. It bounds the memory, at about 50 bytes
/// for each.
const NAMES_A_PASS: u64 = 1 << 18;

/// How a file differs between the old and the new payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Both have it, with other content.
    Changed,
    /// Only the new payload has it.
    Added,
    /// Only the old payload has it.
    Removed,
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The number of files that are the same in both.
    pub common: u64,
    /// The number of files in both with other content.
    pub changed: u64,
    /// The number of files that only the new payload has.
    pub added: u64,
    /// The number of files that only the old payload has.
    pub removed: u64,
    /// The number of files in both that were compared by the embedded checksums, without
    /// reading them.
    pub by_checksum: u64,
}

impl Report {
    /// Returns whether both payloads hold the same files.
    pub fn is_same(&self) -> bool {
        self.changed + self.added + self.removed == 0
    }
}

/// A file of the new payload, without its name.
struct New {
    index: u64,
    header_offset: u64,
    data_offset: u64,
    size: u64,
    seen: bool,
}

/// Compares the files of `old` and `new`, whatever their order is, and tells each difference.
///
/// Files of different size differ. Where both payloads embed a checksum of a file, the
/// checksums decide, and otherwise its bytes.
///
/// # Errors
/// The embedded checksums cannot be understood, a payload cannot be read, an interruption, or
/// the error of `tell`.
pub fn diff(
    old: &Index,
    new: &Index,
    progress: &dyn Progress,
    tell: &mut dyn FnMut(&str, Change) -> Result<()>,
) -> Result<Report> {
    in_passes(old, new, NAMES_A_PASS, progress, tell)
}

fn in_passes(
    old: &Index,
    new: &Index,
    names_a_pass: u64,
    progress: &dyn Progress,
    tell: &mut dyn FnMut(&str, Change) -> Result<()>,
) -> Result<Report> {
    let (mut old_sums, mut new_sums) = (Checksums::new(), Checksums::new());
    embedded_checksums(old, &mut old_sums)?;
    embedded_checksums(new, &mut new_sums)?;
    let mut content = Content::new(&**old.payload().source(), &**new.payload().source())?;
    let mut report = Report::default();
    let hashers = [RandomState::new(), RandomState::new()];
    let passes = new.files().div_ceil(names_a_pass).max(1);
    progress.begin("comparing", old.data_bytes());
    for pass in 0..passes {
        // Two keyed hashes of 64 bits stand for a name. Names are in this pass by the first.
        let key = |entry: &Entry| {
            let [first, second] = [0, 1].map(|n: usize| hashers[n].hash_one(&entry.raw_name));
            (first % passes == pass).then_some((first, second))
        };
        let mut files: HashMap<(u64, u64), New> = HashMap::new();
        for entry in new.entries()? {
            let entry = entry?;
            if let Some(key) = key(&entry) {
                files
                    .try_reserve(1)
                    .map_err(|_| Error::no_memory("compare the names"))?;
                let file = New {
                    index: entry.index,
                    header_offset: entry.header_offset,
                    data_offset: entry.data_offset,
                    size: entry.size,
                    seen: false,
                };
                files.insert(key, file);
            }
        }
        for entry in old.entries()? {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let entry = entry?;
            let Some(key) = key(&entry) else { continue };
            let name = entry.shown_name();
            let Some(other) = files.get_mut(&key) else {
                report.removed += 1;
                tell(&name, Change::Removed)?;
                progress.advance(entry.size);
                continue;
            };
            other.seen = true;
            let sums = (old_sums.get(&name), new_sums.get(&name));
            let is_same = match sums {
                _ if entry.size != other.size => false,
                (Some(old), Some(new)) => {
                    report.by_checksum += 1;
                    old == new
                }
                _ => {
                    let other = Entry {
                        index: other.index,
                        raw_name: entry.raw_name.clone(),
                        header_offset: other.header_offset,
                        data_offset: other.data_offset,
                        size: other.size,
                    };
                    content.is_same(&entry, &other, progress)?
                }
            };
            progress.advance(entry.size);
            if is_same {
                report.common += 1;
            } else {
                report.changed += 1;
                tell(&name, Change::Changed)?;
            }
            progress.file_done(&name);
        }
        for entry in new.entries()? {
            let entry = entry?;
            let Some(key) = key(&entry) else { continue };
            if files.get(&key).is_some_and(|file| !file.seen) {
                report.added += 1;
                tell(&entry.shown_name(), Change::Added)?;
            }
        }
    }
    progress.end();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::block::SourceOptions;
    use crate::format::{Dialect, Name};
    use crate::payload::{Payload, PayloadWriter};
    use crate::progress::Silent;

    use super::*;

    /// An image of files that hold their names, with this prefix.
    fn image(path: &Path, dialect: Dialect, files: &[(u32, &str)]) -> Index {
        let file = std::fs::File::create(path).unwrap();
        let mut writer = PayloadWriter::new(file, dialect, files.len() as u64).unwrap();
        for (number, prefix) in files {
            let name = number.to_string();
            let data = format!("{prefix}{name}");
            let name = Name::new(name.as_bytes()).unwrap();
            writer.entry(&name, data.len() as u64).unwrap();
            writer.data(data.as_bytes()).unwrap();
        }
        writer.finish(0).unwrap();
        let source = SourceOptions::default().open(path).unwrap();
        Index::strict(&Payload::open(source).unwrap(), &Silent).unwrap()
    }

    #[test]
    fn the_result_is_the_same_in_any_number_of_passes() {
        let dir = tempfile::tempdir().unwrap();
        let old: Vec<_> = (0..300).map(|n| (n, "a")).collect();
        let new: Vec<_> = (100..350)
            .rev()
            .map(|n| (n, if n % 50 == 0 { "b" } else { "a" }))
            .collect();
        let old = image(&dir.path().join("old"), Dialect::U64, &old);
        let new = image(&dir.path().join("new"), Dialect::U32, &new);
        for names_a_pass in [1, 7, 100, 1000] {
            let mut told: Vec<(u32, Change)> = Vec::new();
            let report = in_passes(&old, &new, names_a_pass, &Silent, &mut |name, change| {
                told.push((name.parse().unwrap(), change));
                Ok(())
            });
            let expected = Report {
                common: 196,
                changed: 4,
                added: 50,
                removed: 100,
                by_checksum: 0,
            };
            assert_eq!(report.unwrap(), expected);
            told.sort_by_key(|&(name, _)| name);
            let removed = (0..100).map(|n| (n, Change::Removed));
            let changed = (100..300).step_by(50).map(|n| (n, Change::Changed));
            let added = (300..350).map(|n| (n, Change::Added));
            assert_eq!(
                told,
                removed.chain(changed).chain(added).collect::<Vec<_>>()
            );
        }
    }
}
