//! The copy of the payload's headers, to be read in place of lost ones.

use crate::format::{Header, MAX_HEADER_LEN};

/// The headers of a payload, by their offsets in it.
pub(super) struct Spare {
    bytes: Vec<u8>,
    /// The runs of bytes without data between them: the offset in the payload, and in `bytes`.
    runs: Vec<(u64, usize)>,
    /// Where the last entry ends.
    end: u64,
}

impl Spare {
    /// Takes the copy of the headers. Its hash is right, but that does not make it well-formed.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let (mut runs, mut end_of_last) = (vec![(0, 0)], 0);
        let first = &bytes[..bytes.len().min(MAX_HEADER_LEN)];
        if let Ok(header) = Header::parse_whatever_its_count(first) {
            let mut at = header.dialect.header_len() as usize;
            let mut offset = at as u64;
            end_of_last = offset;
            while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
                let Ok(entry) = header.dialect.entry_header(rest) else {
                    break;
                };
                let len = header.dialect.entry_header_len() + entry.name_len;
                at += len as usize;
                let end = offset.checked_add(len + entry.size);
                let Some(end) = end.filter(|_| at <= bytes.len()) else {
                    break;
                };
                (offset, end_of_last) = (end, end);
                if entry.size > 0 {
                    runs.push((offset, at));
                }
            }
        }
        Self {
            bytes,
            runs,
            end: end_of_last,
        }
    }

    /// Returns where the last entry of the payload ends. The copy may be filled up with zeros.
    pub(super) fn payload_end(&self) -> u64 {
        self.end
    }

    /// Fills `buf` with the bytes at `offset` of the payload, if they are all headers.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> bool {
        let run = self.runs.partition_point(|(start, _)| *start <= offset);
        let Some((start, at)) = run.checked_sub(1).and_then(|run| self.runs.get(run)) else {
            return false;
        };
        let end = self.runs.get(run).map_or(self.bytes.len(), |(_, at)| *at);
        let from = (offset - start).saturating_add(*at as u64);
        if from.saturating_add(buf.len() as u64) > end as u64 {
            return false;
        }
        let from = from as usize;
        buf.copy_from_slice(&self.bytes[from..from + buf.len()]);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_at_their_offsets_and_data_is_not() {
        // Two files, `a` of 5 bytes and `bc` of none, then `d` of 1 byte, with 32-bit numbers.
        let mut bytes = b"LBPAYLD1\x03\0\0\0".to_vec();
        bytes.extend(b"\x01\0\0\0\x05\0\0\0a\x02\0\0\0\0\0\0\0bc\x01\0\0\0\x01\0\0\0d");
        let spare = Spare::new(bytes.clone());
        let mut buf = [0; 21];
        assert!(spare.read(&mut buf, 0));
        assert_eq!(buf[..], bytes[..21]);
        assert!(!spare.read(&mut buf[..2], 20), "data follows");
        assert!(!spare.read(&mut buf[..1], 22));
        // The second entry starts behind the 5 bytes of data.
        assert!(spare.read(&mut buf[..10], 26));
        assert_eq!(buf[..10], bytes[21..31]);
        assert!(spare.read(&mut buf[..9], 36));
        assert!(!spare.read(&mut buf[..1], 45));
        assert!(!spare.read(&mut buf[..1], u64::MAX));
        // Any bytes do.
        for len in 0..bytes.len() {
            Spare::new(bytes[..len].to_vec()).read(&mut buf[..1], 30);
        }
        bytes.fill(0xff);
        assert!(!Spare::new(bytes).read(&mut buf[..1], 100));
    }
}
