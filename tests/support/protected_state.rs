//! Reads a protected payload from the bytes of a disk, as the program does with a device that was
//! named.

use std::sync::Arc;

use lbpayload::block::{AlignedBuf, Source, read_exact_at};
use lbpayload::progress::Silent;
use lbpayload::protect::walk;
use lbpayload::protection::{Healer, ProtectedSource, Trailer, Walked, find, search};

use super::memory::Memory;

const MEMORY: usize = 4 << 20;

/// Returns the bytes of the payload, `None` if there is none, or why not all of it can be read.
pub fn read_payload(bytes: Vec<u8>) -> Result<Option<Vec<u8>>, String> {
    let mut memory = Memory::new(bytes);
    memory.device = true;
    let source = memory.shared();
    let mut walked = None;
    let header = match find(&source, &mut || *walked.insert(walk(&source))) {
        Trailer::Found(header) => Some(*header),
        _ if walked == Some(Walked::Invalid) => search(&source, &Silent).unwrap(),
        _ => None,
    };
    let source: Arc<dyn Source> = match header {
        Some(header) => {
            let healer = Healer::new(Arc::clone(&source), header, MEMORY);
            Arc::new(ProtectedSource::new(source, healer, MEMORY))
        }
        None => source,
    };
    let Walked::Valid(end) = walk(&source) else {
        return Ok(None);
    };
    let len = end as usize;
    let padded = len.next_multiple_of(4096);
    let mut buf = AlignedBuf::new(padded).unwrap();
    match read_exact_at(&*source, &mut buf[..padded], 0) {
        Ok(n) if n >= len => Ok(Some(buf[..len].to_vec())),
        Ok(n) => Err(format!("{n} of {len} bytes")),
        Err(e) => Err(e.to_string()),
    }
}
