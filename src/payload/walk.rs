//! Reads the entry headers one after the other and skips the data between them.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use crate::block::{
    AlignedBuf, CopiesSource, FaultRecorder, PAGE, ReadAhead, Source, read_exact_at,
};
use crate::error::{Error, Result};
use crate::format::{
    Dialect, EMBEDDED_SIGNATURE, EMBEDDED_SUMS, Fault, Header, MAX_HEADER_LEN,
    MAX_WALKABLE_NAME_LEN, Name, NameFault,
};

use super::digest::Sha256Sum;
use super::packed::{Packed, take};
use super::problem::{Cause, Problem};

/// The default memory limit of an index, in bytes.
const INDEX_MEMORY: usize = 24 << 20;

/// From this memory limit of an index on, in bytes, a walk over all entries reads in advance.
const ADVANCE_FROM: usize = 16 << 20;

/// A payload: a source that starts with a valid payload header.
#[derive(Clone)]
pub struct Payload {
    source: Arc<dyn Source>,
    header: Header,
    index_memory: usize,
    header_retries: u32,
    /// The packed entries, if they have been read already.
    known: Option<Arc<Packed>>,
}

/// One file of a payload, as its header describes it. The data lies within the source;
/// nothing else has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The number of the entry, from 0.
    pub index: u64,
    /// The bytes of its name. There are 1 to 1024 of them, and they may have any value.
    pub raw_name: Vec<u8>,
    /// The offset of its header, in bytes from the start of the source.
    pub header_offset: u64,
    /// The offset of its data, in bytes from the start of the source.
    pub data_offset: u64,
    /// The size of its data in bytes.
    pub size: u64,
}

impl Payload {
    /// Reads the payload header at the start of `source`.
    ///
    /// # Errors
    /// There is no payload, its header is invalid, or it cannot be read.
    pub fn open(source: Arc<dyn Source>) -> Result<Self> {
        Self::try_open(Arc::clone(&source)).map_err(|p| p.into_error(&*source))
    }

    /// Does the same as [`Payload::open`], and returns a problem instead of an error.
    ///
    /// # Errors
    /// The same as for [`Payload::open`].
    pub fn try_open(source: Arc<dyn Source>) -> std::result::Result<Self, Problem> {
        let payload = Self::open_whatever_its_count(source)?;
        match payload.problem_of_count() {
            Some(problem) => Err(problem),
            None => Ok(payload),
        }
    }

    /// Does the same as [`Payload::try_open`], and also accepts a payload that is cut off.
    ///
    /// The header of such a payload may count more files than the source can hold.
    /// [`Payload::problem_of_count`] returns that problem.
    ///
    /// # Errors
    /// There is no payload, its header is invalid, or it cannot be read.
    pub fn open_whatever_its_count(source: Arc<dyn Source>) -> std::result::Result<Self, Problem> {
        let header = {
            let failed = |e| header_problem(Cause::Io(e));
            let mut buf = AlignedBuf::new(PAGE).map_err(failed)?;
            // One sector only: a bad sector behind it is found when its data is read.
            // A device without a single sector is empty. It refuses to be read.
            let want = source.len().min(MAX_HEADER_LEN as u64) as usize;
            let len = want.next_multiple_of(source.alignment());
            let n = match read_exact_at(&*source, &mut buf[..len], 0) {
                Ok(n) => n,
                Err(e) => match source.read_spare(&mut buf[..want], 0) {
                    true => want,
                    false => return Err(failed(e)),
                },
            };
            Header::parse_whatever_its_count(&buf[..n.min(MAX_HEADER_LEN)])
                .map_err(|f| header_problem(Cause::Fault(f)))?
        };
        Ok(Self {
            source,
            header,
            index_memory: INDEX_MEMORY,
            header_retries: 0,
            known: None,
        })
    }

    /// Returns a problem if the header counts more files than the source can hold.
    pub fn problem_of_count(&self) -> Option<Problem> {
        let fault = self.header.check_count(self.source.len()).err()?;
        Some(header_problem(Cause::Fault(fault)))
    }

    /// Returns the source that holds the payload.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Returns the same payload on a source that records its bad places ([`FaultRecorder`]).
    #[must_use]
    pub fn recording_faults(&self) -> Self {
        let record = |source: &Arc<dyn Source>| -> Arc<dyn Source> {
            match source.faults() {
                Some(_) => Arc::clone(source),
                None => Arc::new(FaultRecorder::new(Arc::clone(source))),
            }
        };
        let copies = self.source.copies().iter().map(record).collect();
        let source = match CopiesSource::new(copies) {
            Some(copies) => Arc::new(copies),
            None => record(&self.source),
        };
        Self {
            known: self.known.clone(),
            ..self.over(&source)
        }
    }

    /// Returns the same payload, whose entries are known.
    pub(super) fn with_known(mut self, known: Option<Arc<Packed>>) -> Self {
        self.known = known;
        self
    }

    /// Returns the header of the payload itself.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Returns whether the headers of two payloads are equal.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.header == other.header
    }

    /// Sets how often a header that cannot be read is read again. The default is 0.
    #[must_use]
    pub fn with_header_retries(mut self, retries: u32) -> Self {
        self.header_retries = retries;
        self
    }

    /// Returns the same payload on the first copy that its source consists of.
    #[must_use]
    pub fn first_copy(&self) -> Self {
        match self.source.copies().first() {
            Some(copy) => self.over(copy),
            None => self.clone(),
        }
    }

    /// Returns the same payload on another source.
    pub(super) fn over(&self, source: &Arc<dyn Source>) -> Self {
        Self {
            source: Arc::clone(source),
            known: None,
            ..self.clone()
        }
    }

    /// Sets the memory limit of an index of this payload, in bytes. With less memory,
    /// headers are read more often. The default is 24 MiB, the minimum 1 MiB.
    #[must_use]
    pub fn with_index_memory(mut self, bytes: usize) -> Self {
        self.index_memory = bytes.max(1 << 20);
        self
    }

    /// Returns the memory limit of an index of this payload, in bytes.
    pub(super) fn index_memory(&self) -> usize {
        self.index_memory
    }

    /// Returns the dialect, which is the width of the integers.
    pub fn dialect(&self) -> Dialect {
        self.header.dialect
    }

    /// Returns the number of files that the header claims. The source is large enough for
    /// them, but they have not been read yet.
    pub fn claimed_files(&self) -> u64 {
        self.header.files
    }

    /// Returns the bytes of the name between a header and its data, given their offsets as
    /// a problem or an entry has them.
    ///
    /// # Errors
    /// The name cannot be read.
    pub fn raw_name(&self, header_offset: u64, data_offset: u64) -> Result<Vec<u8>> {
        let failed = |e| Error::io("read", e).with_path(self.source.path());
        let name_at = header_offset + self.dialect().entry_header_len();
        let len = data_offset
            .saturating_sub(name_at)
            .min(MAX_WALKABLE_NAME_LEN);
        let mut window = ReadAhead::new(&*self.source).map_err(failed)?;
        let name = window
            .at(name_at, len as usize)
            .map_err(|e| failed(e).with_offset(self.source.start() + name_at))?;
        Ok(name.to_vec())
    }

    /// Returns whether the header before `data_offset` is still the one that an earlier
    /// walk found there.
    ///
    /// # Errors
    /// The header cannot be read.
    pub fn has_header(
        &self,
        index: u64,
        data_offset: u64,
        raw_name: &[u8],
        size: u64,
    ) -> io::Result<bool> {
        let len = self.dialect().entry_header_len() + raw_name.len() as u64;
        let Some(header_offset) = data_offset.checked_sub(len) else {
            return Ok(false);
        };
        let mut walk = Walker {
            next: index,
            offset: header_offset,
            ..self.walk_in(ReadAhead::new(&*self.source)?)
        };
        match walk.step() {
            Ok(entry) => Ok(entry.raw_name == raw_name && entry.size == size),
            Err(problem) => match problem.cause {
                Cause::Io(e) => Err(e),
                _ => Ok(false),
            },
        }
    }

    /// Returns an iterator that starts at entry `index`, whose header is at `header_offset`.
    /// Both values come from an earlier walk.
    ///
    /// # Errors
    /// There is no memory for the iterator's buffer.
    pub fn walk_from(&self, index: u64, header_offset: u64) -> Result<Walker<'_>> {
        Ok(Walker {
            next: index,
            offset: header_offset,
            known: None,
            ..self.walk()?
        })
    }

    /// Returns an iterator over the entries.
    ///
    /// # Errors
    /// There is no memory for the iterator's buffer.
    pub fn walk(&self) -> Result<Walker<'_>> {
        let window = ReadAhead::new(&*self.source)
            .map_err(|e| Error::io("get memory to read", e).with_path(self.source.path()))?;
        Ok(Walker {
            known: self.known.clone().map(|known| (known, 0)),
            ..self.walk_in(window)
        })
    }

    /// Does the same as [`Payload::walk`], for a walk over all entries. If the memory limit of
    /// the index allows it, it reads in advance where all files are small.
    ///
    /// # Errors
    /// There is no memory for the iterator's buffer.
    pub(super) fn walk_all(&self) -> Result<Walker<'_>> {
        let mut walk = self.walk()?;
        if self.index_memory >= ADVANCE_FROM {
            walk.window = walk.window.in_advance(&self.source);
        }
        Ok(walk)
    }

    fn walk_in<'a>(&self, window: ReadAhead<'a>) -> Walker<'a> {
        Walker {
            window,
            source_len: self.source.len(),
            header: self.header,
            retries: self.header_retries,
            next: 0,
            offset: self.header.dialect.header_len(),
            ended: false,
            known: None,
        }
    }
}

fn header_problem(cause: Cause) -> Problem {
    Problem {
        index: None,
        name: None,
        offset: 0,
        cause,
    }
}

impl Entry {
    /// Returns the entry whose header is at `header_offset`, from its name and size.
    pub(super) fn after(
        dialect: &Dialect,
        index: u64,
        header_offset: u64,
        (raw_name, size): (&[u8], u64),
    ) -> Self {
        let len = dialect.entry_header_len() + raw_name.len() as u64;
        Self {
            index,
            raw_name: raw_name.to_vec(),
            header_offset,
            data_offset: header_offset + len,
            size,
        }
    }

    /// Returns the name, if this project accepts it.
    ///
    /// # Errors
    /// The fault in the name.
    pub fn name(&self) -> std::result::Result<Name, NameFault> {
        Name::new(&self.raw_name)
    }

    /// Returns the name for display. A name that is not UTF-8 or not printable is escaped.
    pub fn shown_name(&self) -> Cow<'_, str> {
        match std::str::from_utf8(&self.raw_name) {
            Ok(text) if !text.chars().any(char::is_control) => Cow::Borrowed(text),
            _ => Cow::Owned(self.raw_name.escape_ascii().to_string()),
        }
    }

    /// Returns the offset of the first byte after its data. It lies within the source, so it
    /// cannot overflow.
    pub fn end(&self) -> u64 {
        self.data_offset + self.size
    }

    /// Returns whether this entry holds the embedded checksums. It has no checksum itself.
    pub fn is_embedded_sums(&self) -> bool {
        self.raw_name == EMBEDDED_SUMS.as_bytes()
    }

    /// Returns whether this entry holds the signature of the embedded checksums.
    pub fn is_signature(&self) -> bool {
        self.raw_name == EMBEDDED_SIGNATURE.as_bytes()
    }

    /// Returns whether the embedded checksums cover this entry: all but themselves and their
    /// signature.
    pub fn needs_checksum(&self) -> bool {
        !self.is_embedded_sums() && !self.is_signature()
    }

    /// Returns the problem that the checksum does not match.
    pub fn mismatch(&self, expected: Sha256Sum, found: Sha256Sum) -> Problem {
        self.problem(self.data_offset, Cause::Checksum { expected, found })
    }

    /// Returns a problem with this entry, at `offset`.
    pub fn problem(&self, offset: u64, cause: Cause) -> Problem {
        Problem {
            index: Some(self.index),
            name: Some(self.shown_name().into_owned()),
            offset,
            cause,
        }
    }
}

/// An iterator over the entries. It ends at the first header that is invalid or unreadable.
pub struct Walker<'a> {
    window: ReadAhead<'a>,
    source_len: u64,
    header: Header,
    retries: u32,
    next: u64,
    offset: u64,
    ended: bool,
    /// The packed entries if they are known, and how many bytes of them were taken.
    known: Option<(Arc<Packed>, usize)>,
}

impl Walker<'_> {
    /// Returns the offset after the last entry returned. At the end of the iteration, this
    /// is the length of the payload.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns a new iterator that starts at the current entry.
    pub(super) fn fork<'a>(&self, payload: &'a Payload) -> Result<Walker<'a>> {
        Ok(Walker {
            next: self.next,
            offset: self.offset,
            ended: self.ended,
            known: self.known.clone(),
            ..payload.walk()?
        })
    }

    /// Returns the next entry, if the entries are known.
    fn known_step(&mut self) -> Option<Entry> {
        let (known, at) = self.known.as_mut()?;
        let mut rest = &known.bytes()[*at..];
        let (name, size) = take(&mut rest);
        *at = known.bytes().len() - rest.len();
        let entry = Entry::after(&self.header.dialect, self.next, self.offset, (name, size));
        self.offset = entry.end();
        self.next += 1;
        Some(entry)
    }

    fn step(&mut self) -> std::result::Result<Entry, Problem> {
        let (index, at) = (self.next, self.offset);
        let dialect = self.header.dialect;
        let head = dialect.entry_header_len() as usize;
        let problem = |offset, cause| Problem {
            index: Some(index),
            name: None,
            offset,
            cause,
        };
        self.window.hop_to(at);
        // Read the header and a name of usual length at once. If that touches a bad
        // sector, read the header alone.
        let want = match self.window.at(at, head + 64) {
            Ok(_) => head + 64,
            Err(_) => head,
        };
        let bytes = self
            .window
            .at(at, want)
            .map_err(|e| problem(at, Cause::Io(e)))?;
        let header = dialect
            .entry_header(bytes)
            .map_err(|f| problem(at, Cause::Fault(f)))?;
        let name_at = at + head as u64;
        let name_len = header.name_len as usize;
        let name = self
            .window
            .at(name_at, name_len)
            .map_err(|e| problem(name_at, Cause::Io(e)))?;
        if name.len() < name_len {
            let fault = Fault::CutOff {
                what: "name",
                expected: header.name_len,
                found: name.len() as u64,
            };
            return Err(problem(name_at, Cause::Fault(fault)));
        }
        let entry = Entry {
            index,
            raw_name: name.to_vec(),
            header_offset: at,
            data_offset: name_at + header.name_len,
            size: header.size,
        };
        let (size, data_offset) = (entry.size, entry.data_offset);
        match data_offset.checked_add(size) {
            None => {
                let fault = Fault::Overflow { size, data_offset };
                Err(entry.problem(at, Cause::Fault(fault)))
            }
            Some(end) if end > self.source_len => {
                let fault = Fault::DataPastEnd {
                    size,
                    data_offset,
                    source_len: self.source_len,
                };
                Err(entry.problem(at, Cause::Fault(fault)))
            }
            Some(_) => Ok(entry),
        }
    }
}

impl Iterator for Walker<'_> {
    type Item = std::result::Result<Entry, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || self.next == self.header.files {
            return None;
        }
        if let Some(entry) = self.known_step() {
            return Some(Ok(entry));
        }
        let mut step = self.step();
        for _ in 0..self.retries {
            if !matches!(&step, Err(problem) if matches!(problem.cause, Cause::Io(_))) {
                break;
            }
            self.window.allow_retry();
            step = self.step();
        }
        match &step {
            Ok(entry) => {
                self.offset = entry.end();
                self.next += 1;
            }
            Err(_) => self.ended = true,
        }
        Some(step)
    }
}
