//! Looks again at the files that could not be read in large blocks: sector by sector, and from the
//! other copies.

use crate::block::Ranges;
use crate::error::Result;
use crate::payload::{Cause, CopyReader, Entry, Problem, Sha256Sum};

/// Returns the problem of an entry, or `None` if the copies together can give it. `sum` is its
/// checksum, if it has one.
pub(super) fn look_again(
    reader: &mut CopyReader<'_>,
    entry: &Entry,
    sum: Option<Sha256Sum>,
) -> Result<Option<Problem>> {
    match sum {
        Some(expected) => with_sum(reader, entry, expected),
        None => without_sum(reader, entry),
    }
}

/// The checksum decides which copies are right. Each of them comes first once.
fn with_sum(
    reader: &mut CopyReader<'_>,
    entry: &Entry,
    expected: Sha256Sum,
) -> Result<Option<Problem>> {
    let copies = reader.copies();
    let mut problem = None;
    for first in 0..copies {
        let order: Vec<usize> = (0..copies).map(|n| (first + n) % copies).collect();
        match reader.sum(&order, entry)? {
            Ok(found) if found == expected => return Ok(None),
            Ok(found) => problem = problem.or(Some(entry.mismatch(expected, found))),
            // The others do not have these sectors either.
            Err(missing) => return Ok(Some(reader.problem(entry, &missing))),
        }
    }
    Ok(problem)
}

fn without_sum(reader: &mut CopyReader<'_>, entry: &Entry) -> Result<Option<Problem>> {
    let range = entry.data_offset..entry.end();
    let holes = match reader.copy(0).faults() {
        Some(faults) => faults.holes_in(range.clone()),
        None => Ranges::from(range.clone()),
    };
    let mut missing = reader.fill(0, &holes, &mut |_, _| Ok(()))?;
    for copy in 1..reader.copies() {
        if missing.is_empty() {
            break;
        }
        if let Some(at) = reader.difference(0, copy, range.clone())? {
            let other = reader.copy(copy).path().to_owned();
            return Ok(Some(entry.problem(at, Cause::CopiesDiffer { other })));
        }
        missing = reader.fill(copy, &missing, &mut |_, _| Ok(()))?;
    }
    Ok((!missing.is_empty()).then(|| reader.problem(entry, &missing)))
}
