//! Filesystems without a kernel, in memory, and a source that shrinks.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lbpayload::block::{ReadMode, Source};
use lbpayload::error::{Error, Result};
use lbpayload::mount::{Filesystem, Strictness};
use lbpayload::payload::{Payload, Problem};
use lbpayload::progress::Silent;

use crate::support::memory::Memory;

/// A filesystem over `bytes`, which is read in multiples of `alignment`.
pub(crate) fn filesystem(bytes: Vec<u8>, alignment: usize) -> Filesystem {
    let memory = Memory {
        alignment,
        ..Memory::new(bytes)
    };
    over(memory.shared(), Strictness::Strict).unwrap().0
}

/// A filesystem over `source`, and the problems that were reported.
pub(crate) fn over(
    source: Arc<dyn Source>,
    strictness: Strictness,
) -> Result<(Filesystem, Vec<String>)> {
    let mut told = Vec::new();
    let mut tell = |problem: &Problem| told.push(problem.slug().to_owned());
    let payload = Payload::open_whatever_its_count(Arc::clone(&source))
        .map_err(|problem| problem.into_error(&*source))?;
    let filesystem = Filesystem::new(payload, strictness, &Silent, &mut tell)?;
    Ok((filesystem, told))
}

pub(crate) fn lenient(bytes: Vec<u8>) -> (Filesystem, Vec<String>) {
    over(Memory::new(bytes).shared(), Strictness::Lenient).unwrap()
}

pub(crate) fn strict_filesystem(bytes: Vec<u8>) -> Filesystem {
    let (filesystem, _) = over(Memory::new(bytes).shared(), Strictness::Strict).unwrap();
    filesystem
}

pub(crate) fn strict(bytes: Vec<u8>) -> Error {
    let refused = over(Memory::new(bytes).shared(), Strictness::Strict);
    refused.err().expect("strict mode must refuse it")
}

/// A source that reports its original length but ends at a given offset.
pub(crate) struct Shrinking {
    pub(crate) memory: Memory,
    pub(crate) end: AtomicU64,
}

impl Shrinking {
    pub(crate) fn new(bytes: Vec<u8>, alignment: usize) -> Arc<Self> {
        let end = AtomicU64::new(bytes.len() as u64);
        let memory = Memory {
            alignment,
            ..Memory::new(bytes)
        };
        Arc::new(Self { memory, end })
    }
}

impl Source for Shrinking {
    fn path(&self) -> &Path {
        self.memory.path()
    }

    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn alignment(&self) -> usize {
        self.memory.alignment()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.memory.read_at(buf, offset)?;
        let left = self.end.load(Ordering::Relaxed).saturating_sub(offset);
        Ok(n.min(left as usize))
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }
}
