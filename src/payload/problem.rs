//! Problems of a payload and where they are, for reports and errors.

use std::io;

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
    /// The byte offset in the source.
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
const GONE: &str = "the device was taken away, or made smaller (the kernel's log may say why): \
                    see to its connection, and run it again";

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
            Cause::Io(_) => "io",
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
            Cause::Io(e) => e.to_string(),
            Cause::Shrunk => "the source ends here; it was longer when it was opened".into(),
            Cause::Checksum { expected, found } => {
                format!("the checksum does not match: expected {expected}, found {found}")
            }
            Cause::BadSums(why) => printable(why),
            Cause::Missing => "a checksum is given and the payload has no such file".into(),
        }
    }

    /// Converts the problem to an error about `source`, with advice.
    pub fn into_error(self, source: &dyn Source) -> Error {
        let advice = self.advice(source);
        let message = self.message();
        let code = self.slug();
        let error = match self.cause {
            Cause::Io(e) => Error::io("read", e),
            Cause::Shrunk => Error::new(Kind::Changed, message),
            Cause::Checksum { .. } | Cause::Missing | Cause::BadSums(_) => {
                Error::new(Kind::Checksum, message)
            }
            Cause::Fault(_) => Error::new(Kind::Format, message),
        };
        let error = error
            .with_code(code)
            .doing("read")
            .with_path(source.path())
            .advice(advice);
        match (self.index, self.name) {
            (Some(index), name) => error
                .with_offset(self.offset)
                .with_entry(index, name.as_deref()),
            (None, Some(name)) => error.with_name(&name),
            (None, None) => error.with_offset(self.offset),
        }
    }

    fn advice(&self, source: &dyn Source) -> &'static str {
        let ends_early = match &self.cause {
            // When a USB stick is removed, the kernel reports a length of 0.
            Cause::Shrunk if source.is_device() => return GONE,
            Cause::Io(e) if source.is_device() && is_gone(e) => return GONE,
            Cause::Io(_) if source.is_device() => {
                return "the drive cannot read this place; save what it still gives with ddrescue \
                        and import from the copy";
            }
            Cause::Io(_) => return "check the disk that holds the image",
            Cause::Shrunk => return "let nothing write to the source, and run it again",
            Cause::Checksum { .. } => {
                return "the image holds other bytes than it should: get it, or that file, again";
            }
            Cause::BadSums(_) => {
                return "give the checksums with --checksums FILE, which then count alone";
            }
            Cause::Missing => {
                return "pack the file too, or leave its checksum away";
            }
            Cause::Fault(fault) if fault.is_about_the_name() => {
                return "import refuses the whole payload for it; pack it again under another \
                        name, or take single files out with lbpayload cat";
            }
            Cause::Fault(Fault::WrongMagic { found }) if !found.is_empty() => {
                return "lbpayload probe finds the disks that hold a payload";
            }
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
            Cause::Fault(Fault::CountTooLarge { .. }) => 1,
            Cause::Fault(Fault::WrongMagic { .. }) => 1,
            Cause::Fault(_) => return "the image is damaged; get it, or pack it, again",
        };
        // Rounding down to whole sectors loses less than one sector.
        if source.is_device() && ends_early < 4096 {
            "a loop device or a disk shows whole sectors only, so an image whose size is no \
             multiple of the sector loses its tail: pad it (truncate -s %4096 IMAGE, or \
             lbpayload pack --pad 4096) and attach it again"
        } else if source.is_device() {
            "the device is smaller than its payload; write the whole image to a larger one"
        } else {
            "the image is cut off or damaged; get it, or pack it, again"
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

    fn said(cause: Cause, is_device: bool) -> String {
        let problem = Problem {
            index: Some(3),
            name: Some("gcc.tar.xz".into()),
            offset: 5 << 20,
            cause,
        };
        problem.into_error(&Named(is_device)).to_string()
    }

    #[test]
    fn advice_for_a_removed_device_is_to_check_its_connection() {
        let errno = |n| Cause::Io(io::Error::from_raw_os_error(n));
        for cause in [Cause::Shrunk, errno(libc::ENODEV), errno(libc::ENXIO)] {
            let said = said(cause, true);
            assert!(said.contains("the device was taken away"), "{said}");
        }
        assert!(said(errno(libc::EIO), true).contains("ddrescue"));
        assert!(said(Cause::Shrunk, false).contains("let nothing write to the source"));
    }
}
