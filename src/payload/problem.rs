//! Problems of a payload and where they are, for reports and errors.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::block::Source;
use crate::error::{Error, Kind, printable};
use crate::format::Fault;

use super::digest::Sha256Sum;

/// Something wrong with a payload.
#[derive(Debug)]
pub struct Problem {
    /// The number of the entry, from 0. `None` for the payload's header.
    pub index: Option<u64>,
    /// The entry's name as far as it is known, with unprintable characters escaped.
    pub name: Option<String>,
    /// The byte offset in the source. The error of [`Problem::into_error`] counts from the start
    /// of the file or device instead.
    pub offset: u64,
    /// What is wrong.
    pub cause: Cause,
}

/// The first [`Problems::MAX`] problems of a payload, and the number of all.
#[derive(Debug, Default)]
pub struct Problems {
    first: Vec<Problem>,
    count: u64,
}

impl Problems {
    /// The number of problems that are kept. Further ones are only counted, because an
    /// image may consist of nothing but problems.
    pub const MAX: usize = 1000;

    /// Adds a problem.
    pub fn add(&mut self, problem: Problem) {
        self.count += 1;
        if self.first.len() < Self::MAX {
            self.first.push(problem);
        }
    }

    /// Returns the number of all problems.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the number of problems that are counted but not kept.
    pub fn more(&self) -> u64 {
        self.count - self.first.len() as u64
    }

    /// Sorts the problems that are kept by their entries.
    pub fn sort(&mut self) {
        self.first.sort_by_key(|problem| problem.index);
    }

    /// Adds the problems of `other`.
    pub fn append(&mut self, other: Self) {
        self.count += other.more();
        other
            .first
            .into_iter()
            .for_each(|problem| self.add(problem));
    }
}

impl std::ops::Deref for Problems {
    type Target = [Problem];

    fn deref(&self) -> &[Problem] {
        &self.first
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter()
    }
}

/// Advice for a device that was removed from the machine.
const GONE: &str = "the device was disconnected or became smaller, check its connection and \
                    `dmesg`, then run it again";

/// Returns whether the kernel reports with this error that a device was removed.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENXIO | libc::ENOMEDIUM)
    )
}

/// What is wrong.
#[derive(Debug)]
pub enum Cause {
    /// The format is broken.
    Fault(Fault),
    /// The source cannot be read at this offset.
    Io(io::Error),
    /// Parts of the data cannot be read.
    BadSectors {
        /// The error of the system.
        error: io::Error,
        /// The parts, in bytes from the start of the source.
        ranges: Vec<Range<u64>>,
    },
    /// The header cannot be read, so this file and those behind it cannot be found.
    Lost {
        /// The error of the system.
        error: io::Error,
        /// The number of files that cannot be found.
        files: u64,
    },
    /// Two copies of the payload hold different data, and no checksum decides which is right.
    CopiesDiffer {
        /// The path of the other copy.
        other: PathBuf,
    },
    /// The source is shorter than when it was opened.
    Shrunk,
    /// The data does not match its checksum.
    Checksum {
        /// The checksum that was given.
        expected: Sha256Sum,
        /// The checksum of the data that was read.
        found: Sha256Sum,
    },
    /// A checksum was given for a name that the payload does not hold.
    Missing,
    /// The embedded checksums cannot be parsed.
    BadSums(String),
}

impl Problem {
    /// Returns a short word for reports that programs read. These words never change.
    pub fn slug(&self) -> &'static str {
        match &self.cause {
            Cause::Fault(fault) => fault.slug(),
            Cause::Io(_) | Cause::BadSectors { .. } => "io",
            Cause::Lost { .. } => "header-unreadable",
            Cause::CopiesDiffer { .. } => "copies-differ",
            Cause::Shrunk => "source-shrunk",
            Cause::Checksum { .. } => "checksum",
            Cause::Missing => "missing",
            Cause::BadSums(_) => "bad-checksums",
        }
    }

    /// Returns a description of the problem.
    pub fn message(&self) -> String {
        match &self.cause {
            Cause::Fault(fault) => printable(&fault.to_string()),
            Cause::Io(e) | Cause::BadSectors { error: e, .. } => e.to_string(),
            Cause::CopiesDiffer { other } => {
                let other = printable(&other.to_string_lossy());
                format!("it has other data in `{other}`, and no checksum decides")
            }
            Cause::Lost { files, .. } => {
                format!("its header cannot be read, {files} files from here on cannot be found")
            }
            Cause::Shrunk => "the image became shorter while it was read".into(),
            Cause::Checksum { expected, found } => {
                format!("its checksum does not match: expected {expected}, found {found}")
            }
            Cause::BadSums(why) => printable(why),
            Cause::Missing => "it has a checksum, the payload has no such file".into(),
        }
    }

    /// Converts the problem to an error about `source`, with advice.
    pub fn into_error(self, source: &dyn Source) -> Error {
        let image = printable(&source.path().to_string_lossy());
        let line = self.line(&image);
        let note = self.note(source.start());
        let advice = self.advice(source, &image);
        let message = self.message();
        let code = self.slug();
        let error = match self.cause {
            Cause::Io(e) | Cause::BadSectors { error: e, .. } | Cause::Lost { error: e, .. } => {
                Error::io("read", e)
            }
            Cause::Shrunk => Error::new(Kind::Changed, message),
            Cause::Checksum { .. }
            | Cause::Missing
            | Cause::BadSums(_)
            | Cause::CopiesDiffer { .. } => Error::new(Kind::Checksum, message),
            Cause::Fault(_) => Error::new(Kind::Format, message),
        };
        let mut error = error.with_code(code).with_path(source.path());
        if let Some(advice) = advice {
            error = error.advice(advice);
        }
        if let Some(line) = line {
            error = error.with_line(line);
        }
        for note in note {
            error = error.note(note);
        }
        let offset = source.start().saturating_add(self.offset);
        match (self.index, self.name) {
            (Some(index), name) => error.with_offset(offset).with_entry(index, name.as_deref()),
            (None, Some(name)) => error.with_name(&name),
            (None, None) => error.with_offset(offset),
        }
    }

    /// Returns the file or the entry that the problem is about.
    fn subject(&self) -> String {
        match (self.index, &self.name) {
            (_, Some(name)) => format!("`{}`", printable(name)),
            (Some(index), None) => format!("entry {index}"),
            (None, None) => "the header".into(),
        }
    }

    /// Returns one line that says what is wrong with which file.
    fn line(&self, image: &str) -> Option<String> {
        let from = self.subject();
        let damaged = |why: &str| Some(format!("{from} of `{image}` is damaged: {why}"));
        match &self.cause {
            Cause::Io(_) | Cause::BadSectors { .. } => None,
            Cause::CopiesDiffer { other } => Some(format!(
                "{from} of `{image}` differs from its copy in `{}`",
                printable(&other.to_string_lossy())
            )),
            Cause::Lost { files: 1, .. } => Some(format!(
                "the header of {from} of `{image}` cannot be read, its file cannot be found"
            )),
            Cause::Lost { files, .. } => Some(format!(
                "the header of {from} of `{image}` cannot be read, {files} files cannot be found"
            )),
            Cause::Shrunk => Some(format!("`{image}` became shorter while it was read")),
            Cause::Checksum { .. } => damaged("its checksum does not match"),
            Cause::Missing => Some(format!("{from} is missing in `{image}`, it has a checksum")),
            Cause::BadSums(why) => Some(format!(
                "{from} of `{image}` cannot be used: {}",
                printable(why)
            )),
            Cause::Fault(Fault::WrongMagic { found }) if found.is_empty() => {
                Some(format!("`{image}` is empty, expected a payload"))
            }
            Cause::Fault(Fault::WrongMagic { found }) if found.len() < 8 => Some(format!(
                "`{image}` is not a payload: its length is {} of at least 8 bytes",
                found.len()
            )),
            Cause::Fault(fault @ Fault::WrongMagic { .. }) => Some(format!("`{image}` is {fault}")),
            Cause::Fault(Fault::CutOff { .. }) if self.index.is_none() => {
                Some(format!("`{image}` is cut off in its header"))
            }
            Cause::Fault(Fault::DataPastEnd { .. } | Fault::CutOff { .. }) => Some(format!(
                "`{image}` is cut off: {} missing, from {from} on",
                missing_bytes(self.missing())
            )),
            Cause::Fault(Fault::CountTooLarge { count, .. }) => Some(format!(
                "`{image}` is cut off or damaged: it is too short for {count} files"
            )),
            Cause::Fault(fault) if fault.is_about_the_name() => {
                let from = self.index.map_or(from, |index| format!("entry {index}"));
                Some(format!(
                    "{from} of `{image}` has a bad name: {}",
                    self.message()
                ))
            }
            Cause::Fault(_) => damaged(&self.message()),
        }
    }

    /// Returns the exact numbers, if the first line does not contain them.
    fn note(&self, start: u64) -> Vec<String> {
        match &self.cause {
            Cause::Checksum { expected, found } => {
                vec![format!("expected {expected}"), format!("found {found}")]
            }
            Cause::Fault(
                Fault::DataPastEnd { .. } | Fault::CutOff { .. } | Fault::CountTooLarge { .. },
            ) => vec![self.message()],
            Cause::Fault(Fault::Name(_) | Fault::Repeated { .. }) => self
                .name
                .iter()
                .map(|name| format!("name `{}`", printable(name)))
                .collect(),
            Cause::BadSectors { ranges, .. } => vec![unreadable(ranges, start)],
            Cause::CopiesDiffer { .. } => {
                vec!["parts of it cannot be read, and two versions are never mixed".into()]
            }
            Cause::Lost { error, .. } => vec![error.to_string()],
            _ => Vec::new(),
        }
    }

    /// Returns the number of bytes that are missing from the source, at least.
    fn missing(&self) -> u64 {
        match &self.cause {
            Cause::Fault(Fault::DataPastEnd {
                size,
                data_offset,
                source_len,
            }) => data_offset
                .saturating_add(*size)
                .saturating_sub(*source_len),
            Cause::Fault(Fault::CutOff {
                expected, found, ..
            }) => expected.saturating_sub(*found),
            _ => 1,
        }
    }

    /// Returns what to do next, if that depends only on the problem.
    fn advice(&self, source: &dyn Source, image: &str) -> Option<String> {
        let advice = match &self.cause {
            // When a USB stick is removed, the kernel reports a length of 0.
            Cause::Shrunk if source.is_device() => GONE,
            Cause::Io(e) | Cause::BadSectors { error: e, .. } | Cause::Lost { error: e, .. }
                if source.is_device() && is_gone(e) =>
            {
                GONE
            }
            // A protected payload with more damage than can be healed.
            Cause::Io(e) | Cause::BadSectors { error: e, .. } | Cause::Lost { error: e, .. }
                if e.kind() == io::ErrorKind::InvalidData =>
            {
                return None;
            }
            Cause::Io(_) | Cause::BadSectors { .. } | Cause::Lost { .. } if source.is_device() => {
                return Some(format!(
                    "`ddrescue {image} copy.img copy.map` saves what can still be read, \
                     then import from copy.img"
                ));
            }
            Cause::Io(_) | Cause::BadSectors { .. } | Cause::Lost { .. } => {
                "check the disk that holds the image"
            }
            Cause::Shrunk => "run it again while nothing writes to the image",
            Cause::CopiesDiffer { .. } => return None,
            Cause::Checksum { .. } => "get the image, or that file, again",
            Cause::Missing => "pack the file too, or remove its checksum",
            Cause::Fault(Fault::WrongMagic { found }) if !found.is_empty() => return None,
            Cause::Fault(fault) if fault.is_about_the_name() => return None,
            Cause::Fault(
                Fault::WrongMagic { .. }
                | Fault::CutOff { .. }
                | Fault::CountTooLarge { .. }
                | Fault::DataPastEnd { .. },
            ) if source.is_device() => {
                // Rounding down to whole sectors loses less than one sector.
                if self.missing() < 4096 {
                    "disks and loop devices have whole sectors only, so make the image longer \
                     with `truncate -s %4096 IMAGE` and attach it again"
                } else {
                    "the device is smaller than its payload, write the image to a larger one"
                }
            }
            Cause::Fault(_) if self.index.is_none_or(|index| index == 0) => {
                "get or pack the image again"
            }
            Cause::BadSums(_) | Cause::Fault(_) => return None,
        };
        Some(advice.into())
    }
}

/// Returns in words how much of a file cannot be read, and where.
fn unreadable(ranges: &[Range<u64>], start: u64) -> String {
    const SHOWN: usize = 5;
    if let [range] = ranges {
        return format!("{} bytes cannot be read", range.end - range.start);
    }
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let mut places: Vec<String> = ranges
        .iter()
        .take(SHOWN)
        .map(|range| format!("{} at {}", range.end - range.start, start + range.start))
        .collect();
    if ranges.len() > SHOWN {
        places.push(format!("{} more", ranges.len() - SHOWN));
    }
    format!("{bytes} bytes cannot be read: {}", places.join(", "))
}

/// Returns a number of bytes in readable form, with the verb that fits it.
fn missing_bytes(count: u64) -> String {
    match count {
        1 => "1 byte is".into(),
        0..10_000 => format!("{count} bytes are"),
        _ => {
            let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
            let power = (count.ilog2() as usize / 10).min(units.len());
            let size = count as f64 / (1_u64 << (10 * power)) as f64;
            format!("{size:.1} {} are", units[power - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::block::ReadMode;

    /// A source that is never read. Only its `is_device` matters here.
    struct Named(bool);

    impl Source for Named {
        fn path(&self) -> &Path {
            Path::new("/dev/sdb")
        }
        fn len(&self) -> u64 {
            0
        }
        fn alignment(&self) -> usize {
            1
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Buffered
        }
        fn is_device(&self) -> bool {
            self.0
        }
    }

    fn error(cause: Cause, is_device: bool) -> Error {
        let problem = Problem {
            index: Some(3),
            name: Some("gcc.tar.xz".into()),
            offset: 5 << 20,
            cause,
        };
        problem.into_error(&Named(is_device))
    }

    #[test]
    fn the_advice_about_a_disconnected_device_is_about_its_connection() {
        let errno = |n| Cause::Io(io::Error::from_raw_os_error(n));
        for cause in [Cause::Shrunk, errno(libc::ENODEV), errno(libc::ENXIO)] {
            assert_eq!(error(cause, true).help(), Some(GONE));
        }
        let advice = error(errno(libc::EIO), true);
        assert!(advice.help().unwrap().contains("ddrescue /dev/sdb"));
        assert_ne!(error(Cause::Shrunk, false).help(), Some(GONE));
    }

    #[test]
    fn a_cut_off_image_is_named_first_with_the_bytes_that_are_missing() {
        let cause = Cause::Fault(Fault::DataPastEnd {
            size: 400,
            data_offset: 100,
            source_len: 141,
        });
        let error = error(cause, false);
        assert_eq!(
            error.to_string(),
            "`/dev/sdb` is cut off: 359 bytes are missing, from `gcc.tar.xz` on"
        );
        assert_eq!(error.code(), "data-past-end");
    }
}
