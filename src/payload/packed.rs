//! The names and sizes of entries in packed form, in memory.

/// Names and sizes in packed form: about 40 bytes for each entry.
#[derive(Debug)]
pub(super) struct Packed {
    bytes: Vec<u8>,
    max: usize,
}

impl Packed {
    /// Returns an empty list that takes at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            max,
        }
    }

    /// Adds the next entry. Returns whether there was room for it. If not, the list is of no use.
    #[must_use]
    pub(super) fn put(&mut self, raw_name: &[u8], size: u64) -> bool {
        // Two varints of at most ten bytes, and the name.
        if self.bytes.try_reserve(20 + raw_name.len()).is_err() {
            return false;
        }
        put_varint(&mut self.bytes, raw_name.len() as u64);
        put_varint(&mut self.bytes, size);
        self.bytes.extend_from_slice(raw_name);
        self.bytes.len() <= self.max
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes the name and the size of the next entry.
pub(super) fn take<'a>(from: &mut &'a [u8]) -> (&'a [u8], u64) {
    let name_len = take_varint(from);
    let size = take_varint(from);
    let (name, rest) = from.split_at(name_len as usize);
    *from = rest;
    (name, size)
}

/// Appends `value` in groups of seven bits, lowest first. The top bit is set in every
/// byte but the last.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a value that [`put_varint`] wrote.
fn take_varint(from: &mut &[u8]) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    while let Some((&byte, rest)) = from.split_first() {
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_is_read_back_as_written() {
        let values = [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ];
        let mut bytes = Vec::new();
        for value in values {
            put_varint(&mut bytes, value);
        }
        let mut rest = &bytes[..];
        for value in values {
            assert_eq!(take_varint(&mut rest), value);
        }
        assert!(rest.is_empty());
    }
}
