//! The headers of a payload that have been read, for another walk.

use std::sync::Arc;

use crate::block::Source;
use crate::format::{Header, MAX_HEADER_LEN};

use super::packed::Packed;
use super::walk::Payload;

/// The memory limit of headers that are kept for another walk, in bytes.
const KEPT_MAX: usize = 4 << 20;

/// The headers of an intact payload, so that they need not be read again.
#[derive(Debug, Clone)]
pub struct Headers {
    header: Header,
    /// `None` if they take more memory than allowed.
    packed: Option<Arc<Packed>>,
    payload_bytes: u64,
    data_bytes: u64,
}

impl Headers {
    /// Reads all headers of the payload in `source`. Returns `None` if there is no payload, or a
    /// header is damaged. Names are not checked.
    pub fn read(source: &Arc<dyn Source>) -> Option<Self> {
        let payload = Payload::try_open(Arc::clone(source)).ok()?;
        let mut walker = payload.walk().ok()?;
        let mut packed = Some(Packed::new(KEPT_MAX));
        let mut data_bytes = 0;
        for step in walker.by_ref() {
            let entry = step.ok()?;
            data_bytes += entry.size;
            packed = packed
                .and_then(|mut packed| packed.put(&entry.raw_name, entry.size).then_some(packed));
        }
        Some(Self {
            header: *payload.header(),
            packed: packed.map(Arc::new),
            payload_bytes: walker.offset(),
            data_bytes,
        })
    }

    /// Parses the headers and names of all entries, one directly after the other. Returns `None`
    /// if they are not those of a payload of `payload_bytes` bytes. Names are not checked.
    pub fn parse(bytes: &[u8], payload_bytes: u64) -> Option<Self> {
        let first = &bytes[..bytes.len().min(MAX_HEADER_LEN)];
        let header = Header::parse_whatever_its_count(first).ok()?;
        let dialect = header.dialect;
        let mut packed = Some(Packed::new(KEPT_MAX));
        let mut rest = bytes.get(dialect.header_len() as usize..)?;
        let (mut files, mut data_bytes) = (0, 0u64);
        while !rest.is_empty() {
            let entry = dialect.entry_header(rest).ok()?;
            let name_at = dialect.entry_header_len() as usize;
            let end = name_at + entry.name_len as usize;
            let name = rest.get(name_at..end)?;
            packed = packed.and_then(|mut packed| packed.put(name, entry.size).then_some(packed));
            data_bytes = data_bytes.checked_add(entry.size)?;
            files += 1;
            rest = &rest[end..];
        }
        let len = data_bytes.checked_add(bytes.len() as u64)?;
        (files == header.files && len == payload_bytes).then(|| Self {
            header,
            packed: packed.map(Arc::new),
            payload_bytes,
            data_bytes,
        })
    }

    /// Returns the length of the payload in bytes.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Returns the number of bytes of all headers and names.
    pub fn header_bytes(&self) -> u64 {
        self.payload_bytes - self.data_bytes
    }
}

impl Payload {
    /// Returns the same payload, whose headers have been read already. They are not read again.
    #[must_use]
    pub fn with_headers(self, headers: &Headers) -> Self {
        match *self.header() == headers.header {
            true => self.with_known(headers.packed.clone()),
            false => self,
        }
    }
}
