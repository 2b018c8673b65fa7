//! Finds the trailer of a payload.

use std::io;
use std::sync::Arc;

use crate::block::{AlignedBuf, PAGE, Source, read_exact_at};
use crate::format;
use crate::progress::Progress;

use super::geometry::{BLOCK, GROUP, Geometry};
use super::header::{Header, HeaderFault, MAGIC};
use super::metadata::{Check, Metadata};
use super::spare::Spare;
use super::tree::{chaining_value, short};

/// The number of blocks that are compared to tell whether a trailer belongs to a payload.
const SAMPLES: u64 = 64;
/// The number of bytes that a search reads at a time.
const SEARCH_BYTES: usize = 1 << 20;

/// The length of the smallest trailer, in bytes: two headers, two copies of one page of hashes and
/// one of headers, and two recovery blocks.
const SMALLEST: u64 = 8 * BLOCK;
/// The number of blocks before a lost header in which the copy of the headers is looked for.
const COPY: u64 = 16;
/// The redundancy that most trailers have, in percent.
const USUAL_PERCENT: u32 = 5;

/// What was found out about the trailer of a payload.
#[derive(Debug)]
#[non_exhaustive]
pub enum Trailer {
    /// There is none.
    None,
    /// This is its header.
    Found(Box<Header>),
    /// There is one, but it cannot be used. The text says why.
    Unusable(String),
    /// There is one, but all copies of its header are damaged.
    Damaged,
}

/// What a walk over the headers of the payload found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walked {
    /// The payload ends here, and all headers are valid.
    Valid(u64),
    /// The same, and the length of all headers and names is known too.
    Whole {
        /// Where the payload ends.
        end: u64,
        /// The number of bytes of all headers and names.
        headers_len: u64,
    },
    /// The headers are damaged, or there is no payload.
    Invalid,
}

impl Walked {
    /// Returns where the payload ends, if that is known.
    pub fn end(self) -> Option<u64> {
        match self {
            Self::Valid(end) | Self::Whole { end, .. } => Some(end),
            Self::Invalid => None,
        }
    }
}

/// What is known about the trailer of a source, while it is searched for.
#[derive(Default)]
struct Search {
    /// Why a header that was found is not used.
    unusable: Option<String>,
    /// Whether a block was found that can only be a damaged header.
    damaged: bool,
}

impl Search {
    /// Returns the header at an offset if it can be used.
    fn try_at(
        &mut self,
        source: &Arc<dyn Source>,
        at: u64,
        walk: &mut dyn FnMut() -> Walked,
    ) -> Option<Box<Header>> {
        match header_at(&**source, at) {
            Ok(header) if header.incomplete => self.unusable = Some(incomplete()),
            Ok(header) => {
                // A newer trailer of the same payload may end earlier. It starts at the same place.
                let first = header_at(&**source, header.geometry.start).ok();
                let first = first.filter(|first| !first.incomplete && *first != header);
                for header in first.into_iter().chain([header]) {
                    match belongs(source, &header, walk) {
                        Ok(()) => return Some(Box::new(header)),
                        Err(why) => self.unusable = Some(why),
                    }
                }
            }
            Err(HeaderFault::NoMagic) => {}
            Err(HeaderFault::Damaged) => self.damaged = true,
            Err(fault) => self.unusable = Some(fault.to_string()),
        }
        None
    }
}

/// Looks for a trailer in the last block of the source and behind the payload. `walk` is called
/// only if the end of the payload has to be known.
///
/// If the first header is lost and the last block holds no other, the second header is looked for
/// where the writer puts it. This needs the length of the headers ([`Walked::Whole`]). At last, the
/// copy of the payload's headers before the last block tells where the payload ends.
pub fn find(source: &Arc<dyn Source>, walk: &mut dyn FnMut() -> Walked) -> Trailer {
    let mut search = Search::default();
    let mut walked = None;
    let mut walk = || *walked.get_or_insert_with(&mut *walk);
    if let Some(at) = last_block(source.len()) {
        if let Some(header) = search.try_at(source, at, &mut walk) {
            return Trailer::Found(header);
        }
    }
    let walked = walk();
    let start = walked
        .end()
        .and_then(|end| end.checked_next_multiple_of(BLOCK));
    if let Some(start) = start {
        if let Some(header) = search.try_at(source, start, &mut walk) {
            return Trailer::Found(header);
        }
        let first = match start.checked_add(SMALLEST) {
            Some(end) if end <= source.len() => remains(&**source, start, &mut search),
            _ => First::Nothing,
        };
        if let Walked::Whole { end, headers_len } = walked {
            for percent in first.percents() {
                let plan = Geometry::plan(end, headers_len, percent);
                let Some(plan) = plan.filter(|plan| plan.end() <= source.len()) else {
                    continue;
                };
                if let Some(header) = search.try_at(source, plan.header2, &mut walk) {
                    return Trailer::Found(header);
                }
            }
        }
    }
    // A payload that fills the source has nothing behind it.
    let has_room = start.is_none_or(|start| start.saturating_add(SMALLEST) <= source.len());
    let by_copy = has_room.then(|| end_by_copy(&**source)).flatten();
    let by_copy = by_copy.and_then(|end| end.checked_next_multiple_of(BLOCK));
    if let Some(start) = by_copy.filter(|by_copy| Some(*by_copy) != start) {
        if let Some(header) = search.try_at(source, start, &mut walk) {
            return Trailer::Found(header);
        }
    }
    match search.unusable {
        Some(why) => Trailer::Unusable(why),
        None if search.damaged => Trailer::Damaged,
        None => Trailer::None,
    }
}

/// Returns where the payload ends according to the second copy of its headers, if that is behind
/// everything else but the lost second header.
fn end_by_copy(source: &dyn Source) -> Option<u64> {
    let header = last_block(source.len())?;
    let len = header.min(COPY * BLOCK) as usize;
    let mut buf = AlignedBuf::new(len).ok()?;
    if read_exact_at(source, &mut buf[..len], header - len as u64).ok()? < len {
        return None;
    }
    let mut blocks = buf[..len].chunks(PAGE);
    let first = blocks.rposition(|block| block.starts_with(format::MAGIC))?;
    Some(Spare::new(buf[first * PAGE..len].to_vec()).payload_end())
}

/// What is in the block where a trailer would start, if it is no valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// Nothing points to a trailer.
    Nothing,
    /// Any data.
    Data,
    /// There is, or may well be, a trailer.
    Likely,
}

impl First {
    /// Returns the percentages of redundancy with which the second header is looked for. Each of
    /// them costs a read.
    fn percents(self) -> impl Iterator<Item = u32> {
        let (usual, others) = match self {
            Self::Nothing => (None, 0),
            Self::Data => (Some(USUAL_PERCENT), 0),
            Self::Likely => (Some(USUAL_PERCENT), 50),
        };
        let others = (1..=others).filter(|percent| *percent != USUAL_PERCENT);
        usual.into_iter().chain(others)
    }
}

/// Looks at the two blocks where a trailer would start.
fn remains(source: &dyn Source, start: u64, search: &mut Search) -> First {
    if search.unusable.is_some() {
        // What else is there is older, such as a trailer that was being replaced.
        return First::Nothing;
    }
    if search.damaged {
        return First::Likely;
    }
    let Ok(mut buf) = AlignedBuf::new(2 * PAGE) else {
        return First::Nothing;
    };
    let Ok(read) = read_exact_at(source, &mut buf[..2 * PAGE], start) else {
        return First::Likely;
    };
    if read < 2 * PAGE {
        return First::Nothing;
    }
    let (header, next) = buf[..2 * PAGE].split_at(PAGE);
    let same = header.iter().zip(&MAGIC).filter(|(a, b)| a == b).count();
    if same >= MAGIC.len() / 2 {
        search.damaged = true;
        return First::Likely;
    }
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    match (is_zero(header), is_zero(next)) {
        // A lost header before the hash tree. What lies behind other payloads starts at once.
        (true, false) => First::Likely,
        (true, true) => First::Nothing,
        (false, _) => First::Data,
    }
}

fn incomplete() -> String {
    "it is incomplete, its writer was interrupted".into()
}

/// Searches the whole source for a trailer.
///
/// # Errors
/// An interruption, or too little memory.
pub fn search(source: &Arc<dyn Source>, progress: &dyn Progress) -> io::Result<Option<Header>> {
    let mut buf = AlignedBuf::new(SEARCH_BYTES)?;
    let len = source.len() / BLOCK * BLOCK;
    progress.begin("searching", len);
    let mut at = 0;
    while at < len {
        if progress.cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let part = (SEARCH_BYTES as u64).min(len - at);
        let part = part as usize;
        let read = read_exact_at(&**source, &mut buf[..part], at);
        for (n, block) in buf[..part].chunks_mut(PAGE).enumerate() {
            let place = at + (n * PAGE) as u64;
            let there = match &read {
                Ok(read) => *read >= (n + 1) * PAGE,
                Err(_) => matches!(read_exact_at(&**source, block, place), Ok(PAGE)),
            };
            if !there || block[..8] != MAGIC {
                continue;
            }
            if let Ok(header) = Header::parse(block) {
                let g = &header.geometry;
                // A header inside the data of a file is at another place than it says.
                let right_place = g.start == place || g.header2 == place;
                let usable = right_place && !header.incomplete && fits(&header, source.len());
                // An old trailer on a device that was written again is not taken.
                if usable && belongs(source, &header, &mut || Walked::Invalid).is_ok() {
                    progress.end();
                    return Ok(Some(header));
                }
            }
        }
        progress.advance(part as u64);
        at += part as u64;
    }
    progress.end();
    Ok(None)
}

/// Returns the offset of the last whole block of a source of `len` bytes.
pub fn last_block(len: u64) -> Option<u64> {
    (len / BLOCK).checked_sub(1).map(|block| block * BLOCK)
}

/// Reads a header. A trailer that does not fit into the source is refused, but it may be cut off
/// behind its first header.
pub fn header_at(source: &dyn Source, at: u64) -> Result<Header, HeaderFault> {
    let end = at.checked_add(BLOCK).ok_or(HeaderFault::NoMagic)?;
    if end > source.len() {
        return Err(HeaderFault::NoMagic);
    }
    let mut buf = AlignedBuf::new(PAGE).map_err(|_| HeaderFault::NoMagic)?;
    match read_exact_at(source, &mut buf[..PAGE], at) {
        Ok(PAGE) => {}
        _ => return Err(HeaderFault::NoMagic),
    }
    let header = Header::parse(&buf)?;
    if !fits(&header, source.len()) {
        return Err(HeaderFault::Numbers);
    }
    Ok(header)
}

fn fits(header: &Header, len: u64) -> bool {
    let start = header.geometry.start;
    start.checked_add(BLOCK).is_some_and(|end| end <= len)
}

/// Decides whether a trailer belongs to the payload in the source, or was left there by another
/// one. A trailer is used if in doubt: then too much damage is an error, and not ignored.
fn belongs(
    source: &Arc<dyn Source>,
    header: &Header,
    walk: &mut dyn FnMut() -> Walked,
) -> Result<(), String> {
    let g = &header.geometry;
    if g.recovery_at > source.len() {
        return Err("it is cut off".into());
    }
    let meta = Metadata::new(Arc::clone(source), header.clone(), 1 << 20);
    let first_is_right = || check_group(source, &meta, 0) == Some(Check::Right);
    if header_at(&**source, g.start).as_ref() == Ok(header) && first_is_right() {
        return Ok(());
    }
    let (mut wrong, mut compared, mut unknown) = (0, 0, 0);
    let count = SAMPLES.min(g.blocks);
    let mut buf = AlignedBuf::new(PAGE).map_err(|e| e.to_string())?;
    for n in 0..count {
        // u128, because the product of two numbers from the header may not fit.
        let block = (u128::from(g.blocks) * u128::from(n) / u128::from(count)) as u64;
        let len = g.block_len(block);
        match read_exact_at(&**source, &mut buf[..PAGE], block * BLOCK) {
            Ok(n) if n >= len => {}
            _ => continue,
        }
        let found = short(&chaining_value(&buf[..len], block * BLOCK));
        let known = [meta.block_hash(0, block), meta.block_hash(1, block)];
        if known.contains(&Some(found)) {
            compared += 1;
            continue;
        }
        // The hashes may be what is damaged, or not be there at all.
        let agree = known[0].is_some() && known[0] == known[1] && known[0] != Some([0; 8]);
        match check_group(source, &meta, block / (GROUP / BLOCK)) {
            Some(Check::Right) => compared += 1,
            _ if agree => (wrong, compared) = (wrong + 1, compared + 1),
            _ => unknown += 1,
        }
    }
    let foreign = match walk().end() {
        Some(end) if end == g.payload_len() => false,
        Some(_) => (wrong + unknown) * 2 > compared + unknown,
        // All blocks of a small payload can be damaged, and still be healed.
        None if g.blocks <= SAMPLES && wrong <= g.recovery_blocks => false,
        None => compared > 0 && wrong * 16 >= compared * 15,
    };
    if foreign {
        return Err(format!(
            "it belongs to another payload of {} bytes: {} of {} blocks that were compared differ",
            g.payload_len(),
            wrong + unknown,
            compared + unknown
        ));
    }
    Ok(())
}

/// Compares a group of the payload with the tree. Returns `None` if it cannot be read.
fn check_group(source: &Arc<dyn Source>, meta: &Metadata, group: u64) -> Option<Check> {
    let mut buf = AlignedBuf::new(GROUP as usize).ok()?;
    let len = meta.geometry().group_len(group);
    let padded = len.next_multiple_of(PAGE);
    let n = read_exact_at(&**source, &mut buf[..padded], group * GROUP).ok()?;
    (n >= len).then(|| meta.check(group, &buf[..len]))
}
