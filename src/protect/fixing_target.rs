//! Writes a trailer where only a part of it is damaged.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::{AlignedBuf, PAGE};
use crate::protection::Target;

/// Writes only blocks that differ from what is there.
pub(super) struct FixingTarget<'a> {
    target: &'a dyn Target,
    written: AtomicU64,
}

impl<'a> FixingTarget<'a> {
    pub(super) fn new(target: &'a dyn Target) -> Self {
        Self {
            target,
            written: AtomicU64::new(0),
        }
    }

    /// Returns the number of blocks that were written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl Target for FixingTarget<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.target.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut there = AlignedBuf::new(buf.len())?;
        let whole = self.target.read_at(&mut there[..buf.len()], offset);
        for (n, block) in buf.chunks(PAGE).enumerate() {
            let at = n * PAGE;
            let place = offset + at as u64;
            let same = match &whole {
                Ok(read) => *read >= at + PAGE && there[at..at + PAGE] == *block,
                Err(_) => {
                    let mut one = AlignedBuf::new(PAGE)?;
                    let read = self.target.read_at(&mut one[..PAGE], place);
                    matches!(read, Ok(PAGE)) && one[..PAGE] == *block
                }
            };
            if !same {
                self.target.write_all_at(block, place)?;
                self.written.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.target.sync()
    }
}
