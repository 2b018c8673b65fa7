//! Compares what was written with what comes back, and recognizes a device that is smaller
//! than it claims.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::ops::Range;

use crate::block::{AlignedBuf, PAGE, Source, read_exact_at, read_to_fault};
use crate::error::{Error, Result};
use crate::progress::Progress;

use super::mismatch::{Fault, Mismatch};

/// The size of one write, and of what one hash covers, in bytes.
pub(super) const BLOCK: usize = 1 << 20;

/// The number of blocks that are read at once.
const GROUP: u64 = 8;

/// A piece that is searched on a device, in bytes. Addresses are multiples of [`STEP`].
const PIECE: usize = PAGE;
const STEP: usize = 512;

/// The number of blocks or places that are tried to confirm a suspicion.
const SAMPLES: u64 = 16;

/// A hash of each block that was written: 8 bytes of memory for each MiB. The hashes are
/// keyed. They detect faults, not forgeries.
pub(super) struct Written {
    hasher: RandomState,
    blocks: Vec<u64>,
    len: u64,
}

/// Passes on what is written to it in blocks, and notes each of them if that is wanted.
pub(super) struct Blocks<W> {
    out: W,
    buf: Vec<u8>,
    written: Option<Written>,
}

impl<W: Write> Blocks<W> {
    pub(super) fn new(out: W, written: Option<Written>) -> Self {
        let buf = Vec::with_capacity(BLOCK);
        Self { out, buf, written }
    }

    /// Writes the last block. Returns the writer and the notes.
    pub(super) fn complete(mut self) -> io::Result<(W, Option<Written>)> {
        self.pass_on()?;
        Ok((self.out, self.written))
    }

    fn pass_on(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buf)?;
        if let Some(written) = &mut self.written {
            written.note(&self.buf);
        }
        self.buf.clear();
        Ok(())
    }
}

impl<W: Write> Write for Blocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let (true, Some(block)) = (self.buf.is_empty(), bytes.get(..BLOCK)) {
            self.out.write_all(block)?;
            if let Some(written) = &mut self.written {
                written.note(block);
            }
            return Ok(BLOCK);
        }
        let n = bytes.len().min(BLOCK - self.buf.len());
        self.buf.extend_from_slice(&bytes[..n]);
        if self.buf.len() == BLOCK {
            self.pass_on()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            blocks: Vec::new(),
            len: 0,
        }
    }

    /// Notes the next block. All but the last have [`BLOCK`] bytes.
    pub(super) fn note(&mut self, block: &[u8]) {
        debug_assert_eq!(self.len % BLOCK as u64, 0);
        if !block.is_empty() {
            self.blocks.push(self.hasher.hash_one(block));
            self.len += block.len() as u64;
        }
    }

    /// Reads everything back and returns the first difference, if there is one.
    ///
    /// # Errors
    /// The user interrupts it, or there is no memory for buffers.
    pub(super) fn compare(
        &self,
        source: &dyn Source,
        progress: &dyn Progress,
    ) -> Result<Option<Mismatch>> {
        let mut buf = AlignedBuf::new(GROUP as usize * BLOCK)
            .map_err(|e| Error::io("get a buffer to read", e).with_path(source.path()))?;
        progress.begin("reading back", self.len);
        let count = self.blocks.len() as u64;
        for first in (0..count).step_by(GROUP as usize) {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let group = first..count.min(first + GROUP);
            if !self.are_intact(group.clone(), source, &mut buf) {
                for block in group.clone() {
                    if let Some(wrong) = self.check(block, source, progress, &mut buf)? {
                        return Ok(Some(wrong));
                    }
                }
            }
            progress.advance(self.range(group.end - 1).end - self.range(first).start);
        }
        progress.end();
        Ok(None)
    }

    /// Reads several blocks at once, which is faster than one by one. Returns false if one of
    /// them is wrong or cannot be read.
    fn are_intact(&self, blocks: Range<u64>, source: &dyn Source, buf: &mut [u8]) -> bool {
        let start = self.range(blocks.start).start;
        let len = (self.range(blocks.end - 1).end - start) as usize;
        let aligned = len.next_multiple_of(source.alignment());
        let read = read_exact_at(source, &mut buf[..aligned], start);
        let mut parts = blocks.zip(buf.chunks(BLOCK));
        read.is_ok_and(|n| n >= len) && parts.all(|(block, part)| self.is_intact(block, part))
    }

    /// Reads a block and returns what is wrong with it.
    fn check(
        &self,
        block: u64,
        source: &dyn Source,
        progress: &dyn Progress,
        buf: &mut [u8],
    ) -> Result<Option<Mismatch>> {
        let range = self.range(block);
        match self.read(block, source, buf) {
            Ok(()) if self.is_intact(block, buf) => Ok(None),
            Ok(()) => {
                let fault = self.explain(block, source, progress, buf)?;
                Ok(Some(Mismatch { range, fault }))
            }
            Err((start, fault)) => Ok(Some(Mismatch {
                range: start..range.end.min(start + STEP as u64),
                fault: Fault::Unreadable(fault),
            })),
        }
    }

    fn range(&self, block: u64) -> Range<u64> {
        let start = block * BLOCK as u64;
        start..self.len.min(start + BLOCK as u64)
    }

    /// Reads a block into `buf`. An error has the offset at which the block cannot be read.
    fn read(
        &self,
        block: u64,
        source: &dyn Source,
        buf: &mut [u8],
    ) -> std::result::Result<(), (u64, io::Error)> {
        let Range { start, end } = self.range(block);
        let want = (end - start) as usize;
        let aligned = want.next_multiple_of(source.alignment());
        match read_exact_at(source, &mut buf[..aligned], start) {
            Ok(n) if n >= want => Ok(()),
            Ok(n) => Err((start + n as u64, io::ErrorKind::UnexpectedEof.into())),
            Err(_) => match read_to_fault(source, buf, want, start) {
                (n, Some(fault)) => Err((start + n as u64, fault)),
                (_, None) => Ok(()),
            },
        }
    }

    /// Returns whether a block in `buf` is what was written.
    fn is_intact(&self, block: u64, buf: &[u8]) -> bool {
        let hash = self.hasher.hash_one(self.part(block, buf));
        self.blocks.get(block as usize) == Some(&hash)
    }

    /// Returns the part of `buf` that belongs to a block.
    fn part<'a>(&self, block: u64, buf: &'a [u8]) -> &'a [u8] {
        let Range { start, end } = self.range(block);
        &buf[..(end - start) as usize]
    }

    /// Finds out why the block `wrong`, which is in `buf`, is not what was written.
    fn explain(
        &self,
        wrong: u64,
        source: &dyn Source,
        progress: &dyn Progress,
        buf: &mut [u8],
    ) -> Result<Fault> {
        let start = self.range(wrong).start;
        let block = self.part(wrong, buf);
        // What a device repeats is wrong from the start of the first block on if it wrote over
        // that block, and up to the end of a later block if it did not.
        let starts = || (0..block.len().saturating_sub(PIECE - 1)).step_by(STEP);
        let usable = |at: &usize| !is_constant(&block[*at..*at + STEP]);
        let pieces = [starts().find(usable), starts().rev().find(usable)].map(|at| {
            let at = at?;
            Some((start + at as u64, block[at..at + PIECE].to_vec()))
        });
        if let Some(at) = constant_from(block) {
            if self.is_constant_behind(wrong, source, buf) {
                return Ok(Fault::Drops(start + at as u64));
            }
        }
        for (place, piece) in pieces.into_iter().flatten() {
            let found = self.find_again(&piece, place, source, progress, buf)?;
            if let Some(size) = found.filter(|&size| self.repeats_after(size, source)) {
                return Ok(Fault::Repeats(size));
            }
        }
        Ok(Fault::Differs)
    }

    /// Returns whether the blocks behind `wrong` are wrong too and hold only one byte value.
    fn is_constant_behind(&self, wrong: u64, source: &dyn Source, buf: &mut [u8]) -> bool {
        let behind = self.blocks.len() as u64 - wrong - 1;
        let samples = behind.min(SAMPLES);
        let mut seen_wrong = false;
        for sample in 1..=samples {
            let block = wrong + sample * behind / samples;
            if self.read(block, source, buf).is_err() || !is_constant(self.part(block, buf)) {
                return false;
            }
            seen_wrong |= !self.is_intact(block, buf);
        }
        seen_wrong
    }

    /// Searches for another place that shows `piece`, which the device shows at `place`.
    /// Returns the distance.
    fn find_again(
        &self,
        piece: &[u8],
        place: u64,
        source: &dyn Source,
        progress: &dyn Progress,
        buf: &mut [u8],
    ) -> Result<Option<u64>> {
        progress.begin("looking for the real size", self.len);
        for block in 0..self.blocks.len() as u64 {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            if self.read(block, source, buf).is_err() {
                return Ok(None);
            }
            let start = self.range(block).start;
            for (n, sector) in self.part(block, buf).chunks_exact(STEP).enumerate() {
                let at = start + (n * STEP) as u64;
                // The piece may end in the next block.
                if sector == &piece[..STEP]
                    && at != place
                    && read_piece(source, at).as_deref() == Some(piece)
                {
                    return Ok(Some(at.abs_diff(place)));
                }
            }
            progress.advance(self.part(block, buf).len() as u64);
        }
        progress.end();
        Ok(None)
    }

    /// Returns whether the device shows the same bytes again after `size` bytes, wherever this
    /// is tried.
    fn repeats_after(&self, size: u64, source: &dyn Source) -> bool {
        let Some(common) = self.len.checked_sub(size.saturating_add(PIECE as u64)) else {
            return false;
        };
        let mut any_content = false;
        for sample in 0..=SAMPLES {
            let at = common / SAMPLES * sample;
            let at = at - at % STEP as u64;
            let Some(here) = read_piece(source, at) else {
                return false;
            };
            if read_piece(source, at + size).as_ref() != Some(&here) {
                return false;
            }
            any_content |= !is_constant(&here);
        }
        any_content
    }
}

/// Reads [`PIECE`] bytes at a multiple of [`STEP`].
fn read_piece(source: &dyn Source, at: u64) -> Option<Vec<u8>> {
    let alignment = source.alignment() as u64;
    let start = at - at % alignment;
    let skip = (at - start) as usize;
    let mut buf = AlignedBuf::new(2 * PIECE).ok()?;
    let len = (skip + PIECE).next_multiple_of(alignment as usize);
    let read = read_exact_at(source, &mut buf[..len], start).ok()?;
    (read >= skip + PIECE).then(|| buf[skip..skip + PIECE].to_vec())
}

/// Returns where the bytes at the end of a block begin that are all equal, rounded up to a
/// sector. `None` if they do not fill a sector.
fn constant_from(block: &[u8]) -> Option<usize> {
    let last = block.last()?;
    let start = block.iter().rposition(|b| b != last).map_or(0, |at| at + 1);
    let start = start.next_multiple_of(STEP);
    (start + STEP <= block.len()).then_some(start)
}

fn is_constant(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| Some(b) == bytes.first())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::block::ReadMode;
    use crate::progress::Silent;

    use super::*;

    /// A device that claims more than it stores.
    struct Device {
        stored: Vec<u8>,
        /// What the device does behind the stored bytes.
        behind: Behind,
        bad: Range<u64>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Behind {
        /// Reads and writes go to the start again.
        Wraps,
        /// Writes are ignored, reads go to the start again.
        ReadsWrap,
        /// Writes are ignored, reads give this byte.
        Gives(u8),
    }

    impl Device {
        fn new(stored: usize, behind: Behind) -> Self {
            let stored = vec![0x55; stored];
            let bad = 0..0;
            Self {
                stored,
                behind,
                bad,
            }
        }

        /// Writes an image as [`DeviceWriter`] does, with the first sector cleared.
        ///
        /// [`DeviceWriter`]: super::super::device::DeviceWriter
        fn write(&mut self, image: &[u8]) -> Written {
            let mut image = image.to_vec();
            image[..512].fill(0);
            let mut written = Written::new();
            for (n, block) in image.chunks(BLOCK).enumerate() {
                written.note(block);
                let len = self.stored.len();
                for (n, sector) in (n * BLOCK / 512..).zip(block.chunks(512)) {
                    let at = n * 512;
                    if at < len || self.behind == Behind::Wraps {
                        self.stored[at % len..at % len + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            written
        }

        fn compare(&self, written: &Written) -> Option<Mismatch> {
            written.compare(self, &Silent).unwrap()
        }
    }

    impl Source for Device {
        fn path(&self) -> &Path {
            Path::new("device")
        }
        fn len(&self) -> u64 {
            1 << 40
        }
        fn alignment(&self) -> usize {
            512
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            assert_eq!((offset % 512, buf.len() % 512), (0, 0), "unaligned");
            let len = self.stored.len();
            for (n, sector) in (offset as usize / 512..).zip(buf.chunks_mut(512)) {
                let at = n * 512;
                if self.bad.contains(&(at as u64)) {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                match self.behind {
                    Behind::Gives(value) if at >= len => sector.fill(value),
                    _ => sector.copy_from_slice(&self.stored[at % len..at % len + 512]),
                }
            }
            Ok(buf.len())
        }
        fn mode(&self) -> ReadMode {
            ReadMode::Direct
        }
    }

    /// Bytes of which no two sectors are equal.
    fn image(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut image = Vec::with_capacity(len + 8);
        while image.len() < len {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            image.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
        }
        image.truncate(len);
        image
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn a_device_that_stores_everything_is_intact() {
        for len in [512, MIB, 3 * MIB - 512] {
            let mut device = Device::new(4 * MIB, Behind::Wraps);
            let written = device.write(&image(len));
            assert!(device.compare(&written).is_none());
        }
    }

    #[test]
    fn the_size_after_which_a_device_repeats_is_found() {
        for behind in [Behind::Wraps, Behind::ReadsWrap] {
            // Also sizes that are no multiple of a block, and several rounds.
            for size in [2 * MIB, MIB + 512, 300 * 512] {
                let mut device = Device::new(size, behind);
                let written = device.write(&image(3 * MIB + 1024));
                let wrong = device.compare(&written).unwrap();
                let Fault::Repeats(found) = wrong.fault else {
                    panic!("{size}: {wrong:?}")
                };
                assert_eq!(found, size as u64);
            }
        }
    }

    #[test]
    fn the_size_after_which_a_device_drops_data_is_found() {
        for value in [0, 0xff] {
            for size in [2 * MIB, MIB + 512] {
                let mut device = Device::new(size, Behind::Gives(value));
                let written = device.write(&image(4 * MIB));
                let wrong = device.compare(&written).unwrap();
                let Fault::Drops(found) = wrong.fault else {
                    panic!("{size}: {wrong:?}")
                };
                assert_eq!(found, size as u64);
                let block = size as u64 / BLOCK as u64 * BLOCK as u64;
                assert_eq!(wrong.range, block..block + BLOCK as u64);
            }
        }
    }

    #[test]
    fn a_device_with_wrong_bytes_is_not_taken_for_one_with_a_wrong_size() {
        let original = image(4 * MIB);
        let mut device = Device::new(4 * MIB, Behind::Wraps);
        let written = device.write(&original);
        let good = device.stored.clone();
        // A flipped bit, a cleared block, a block that shows another one, and a cleared end.
        let spoil: [fn(&mut [u8]); 4] = [
            |stored| stored[2 * MIB + 7] ^= 1,
            |stored| stored[2 * MIB..3 * MIB].fill(0),
            |stored| stored.copy_within(0..MIB, 2 * MIB),
            |stored| stored[4 * MIB - 512..].fill(0),
        ];
        for spoil in spoil {
            device.stored.clone_from(&good);
            spoil(&mut device.stored);
            let wrong = device.compare(&written).unwrap();
            assert!(matches!(wrong.fault, Fault::Differs), "{wrong:?}");
            assert!(wrong.range.start >= 2 * MIB as u64);
        }
    }

    #[test]
    fn repeated_content_is_not_taken_for_a_repeating_device() {
        let mut original = image(4 * MIB);
        original.copy_within(512..MIB, 2 * MIB + 512);
        let mut device = Device::new(4 * MIB, Behind::Wraps);
        let written = device.write(&original);
        assert!(device.compare(&written).is_none());
        device.stored[0] = 1;
        let wrong = device.compare(&written).unwrap();
        assert!(matches!(wrong.fault, Fault::Differs), "{wrong:?}");
    }

    #[test]
    fn every_block_of_every_group_is_compared() {
        let len = (GROUP as usize + 1) * MIB + 512;
        let mut device = Device::new(len, Behind::Wraps);
        let written = device.write(&image(len));
        assert!(device.compare(&written).is_none());
        for block in [0, GROUP - 1, GROUP, GROUP + 1] {
            let at = block as usize * MIB + 511;
            device.stored[at] ^= 1;
            let wrong = device.compare(&written).unwrap();
            assert_eq!(wrong.range.start, block * MIB as u64);
            device.stored[at] ^= 1;
        }
    }

    #[test]
    fn an_unreadable_sector_is_named() {
        let mut device = Device::new(4 * MIB, Behind::Wraps);
        let written = device.write(&image(3 * MIB));
        let sector = MIB as u64 + 512;
        device.bad = sector..sector + 512;
        let wrong = device.compare(&written).unwrap();
        assert!(matches!(wrong.fault, Fault::Unreadable(_)), "{wrong:?}");
        assert_eq!(wrong.range, sector..sector + 512);
    }
}
