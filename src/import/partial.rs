//! `NAME.partial`: what could be read of a damaged file, with zeros in place of the rest.
//!
//! A partial file is recognized by its content: it equals the complete file, or a better partial
//! file, except for zeros. So nothing that holds anything else is ever replaced or removed.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::durable::{Directory, Lookup, Store, settle};
use crate::error::{Error, Result, printable};
use crate::payload::{Bits, Index};
use crate::sys::drop_cached;

use super::commit::{Complete, commit_now};

const SUFFIX: &str = ".partial";

/// The number of names that are handled. An image may consist of nothing but such names.
const MAX: usize = 10_000;

/// The longest name that Linux stores, in bytes.
const NAME_MAX: usize = 255;

/// Gives the staged files in `slots` their names, and returns how many there are. An older partial
/// file that holds more stays. Where something else has the name, a warning says so.
pub(super) fn keep(
    dest: &Directory,
    store: &dyn Store,
    index: &Index,
    slots: &Bits,
) -> Result<u64> {
    let entries = names_of_entries(index)?;
    let mut batch = Vec::new();
    let mut kept = 0;
    for entry in index.entries()? {
        let entry = entry?;
        if !slots.get(entry.index) {
            continue;
        }
        let failed =
            |doing, e| Error::io(doing, e).with_entry(entry.index, Some(&entry.shown_name()));
        let name = format!("{}{SUFFIX}", entry.shown_name());
        let skip = |why: &str| log::warn!("`{}` is not written: {why}", printable(&name));
        let file = store
            .reopen(entry.index, entry.size)
            .map_err(|e| failed("open the staged file of", e))?;
        let replaces = match dest.lookup(&name)? {
            _ if name.len() > NAME_MAX => {
                skip("the name is too long");
                continue;
            }
            _ if entries.is_none() || entries.as_ref().is_some_and(|e| e.contains(&name)) => {
                skip("the payload has a file of this name");
                continue;
            }
            _ if batch.len() == MAX => {
                skip("there are too many");
                continue;
            }
            Lookup::Nothing => false,
            Lookup::File(old, _) => {
                let holds = |whole: &File, part: &File| {
                    holds(whole, part).map_err(|e| failed("compare the older parts of", e))
                };
                if !holds(&file, &old)? {
                    if holds(&old, &file)? {
                        kept += 1;
                    } else {
                        skip("a file of this name exists and is something else");
                    }
                    continue;
                }
                true
            }
            _ => {
                skip("something else has the name");
                continue;
            }
        };
        settle(&file).map_err(|e| failed("sync", e))?;
        batch.push(Complete {
            slot: entry.index,
            name,
            size: entry.size,
            replaces,
            cached: false,
        });
    }
    let committed = commit_now(store, batch);
    committed
        .result
        .map(|()| kept + committed.settled.len() as u64)
}

/// Removes the partial files in `dest` whose file is complete now.
pub(super) fn remove_ours(dest: &Directory, index: &Index) -> Result<()> {
    let found = dest.names_ending_in(SUFFIX, MAX)?;
    if found.is_empty() {
        return Ok(());
    }
    let Some(entries) = names_of_entries(index)? else {
        return Ok(());
    };
    let mut left: HashSet<String> = found.into_iter().filter(|n| !entries.contains(n)).collect();
    for entry in index.entries()? {
        let entry = entry?;
        let name = entry.shown_name();
        let Some(partial) = left.take(&format!("{name}{SUFFIX}")) else {
            continue;
        };
        let (Lookup::File(whole, _), Lookup::File(part, _)) =
            (dest.lookup(&name)?, dest.lookup(&partial)?)
        else {
            continue;
        };
        if holds(&whole, &part).unwrap_or(false) {
            log::info!(
                "removing `{}`, the file is complete now",
                printable(&partial)
            );
            dest.remove(&partial)?;
        }
    }
    Ok(())
}

/// Returns the names of entries that end as a partial file does, unless there are too many.
fn names_of_entries(index: &Index) -> Result<Option<HashSet<String>>> {
    let mut names = HashSet::new();
    for entry in index.entries()? {
        let entry = entry?;
        if entry.raw_name.ends_with(SUFFIX.as_bytes()) {
            names.insert(entry.shown_name().into_owned());
            if names.len() > MAX {
                return Ok(None);
            }
        }
    }
    Ok(Some(names))
}

/// Returns whether `part` holds nothing but zeros that `whole` does not hold too.
fn holds(whole: &File, part: &File) -> io::Result<bool> {
    let len = part.metadata()?.len();
    if whole.metadata()?.len() != len {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut at = 0;
    while at < len {
        let n = (len - at).min(a.len() as u64) as usize;
        whole.read_exact_at(&mut a[..n], at)?;
        part.read_exact_at(&mut b[..n], at)?;
        if a[..n].iter().zip(&b[..n]).any(|(a, b)| *b != 0 && a != b) {
            return Ok(false);
        }
        drop_cached(whole.as_fd(), at, n as u64);
        drop_cached(part.as_fd(), at, n as u64);
        at += n as u64;
    }
    Ok(true)
}
