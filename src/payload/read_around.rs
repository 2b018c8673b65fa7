//! Reads around bad sectors.

use std::ops::Range;

use crate::block::{AlignedBuf, Ranges, Source, read_exact_at};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Reads `range` of `source`, which records its bad places, in pieces of up to `buf`. Passes what
/// can be read to `give`, with its offset in the source, and returns the ranges that cannot be
/// read. Where a larger read has failed, it reads single sectors.
///
/// # Errors
/// An error of `give`, or an interruption.
pub fn read_around(
    source: &dyn Source,
    range: Range<u64>,
    buf: &mut AlignedBuf,
    progress: &dyn Progress,
    give: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<Ranges> {
    let Some(faults) = source.faults() else {
        return Err(Error::bug("the source does not record its bad places"));
    };
    let alignment = source.alignment() as u64;
    let mut bad = Ranges::default();
    let mut at = range.start;
    while at < range.end {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        if faults.is_lost(at) {
            faults.add_bad(at..range.end);
            bad.add(at..range.end);
            break;
        }
        let start = at - at % alignment;
        let end = match faults.next_piece(at..range.end) {
            Ok(end) => end.min(start + buf.len() as u64),
            Err(end) => {
                bad.add(at..end);
                at = end;
                continue;
            }
        };
        let len = (end - start).next_multiple_of(alignment) as usize;
        // The record says after a failure how to go on.
        if let Ok(n) = read_exact_at(source, &mut buf[..len], start) {
            let upto = (start + n as u64).min(end);
            if upto <= at {
                faults.add_end(upto);
            } else {
                give(at, &buf[(at - start) as usize..(upto - start) as usize])?;
                at = upto;
            }
        }
    }
    Ok(bad)
}
