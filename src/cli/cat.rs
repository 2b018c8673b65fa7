//! `lbpayload cat`

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use sha2::{Digest, Sha256};

use crate::block::Ranges;
use crate::error::{Error, Kind, Result, printable};
use crate::payload::{
    Cause, CopyReader, Entry, EntryReader, Index, Payload, Sha256Sum, TrustedKeys,
    refuse_other_headers, signed_checksums,
};
use crate::progress::Silent;

use super::args::CatArgs;
use super::exit::Outcome;
use super::list;
use super::output::Out;
use super::source::warn_if_unchecked;

/// The size of the pieces in which several copies are read, in bytes.
const PIECE: u64 = 1 << 20;

pub(super) fn run(args: &CatArgs) -> Result<Outcome> {
    let mut names = args.names.clone();
    let mut paths = args.device.clone();
    match (&args.source, paths.is_empty()) {
        (Some(source), true) => paths.push(source.clone()),
        // With --device, the first argument is a name too.
        (Some(first), false) => names.insert(0, first.into()),
        (None, _) => {}
    }
    if names.is_empty() {
        let message = "the names of files in the payload are missing";
        return Err(Error::new(Kind::Usage, message).advice("lbpayload cat --help"));
    }
    let trust = args.trust.keys()?;
    let (payload, protected) = list::open(&paths, &args.input)?;
    let checked = protected.protection.is_some() || !trust.is_empty();
    warn_if_unchecked(&**payload.source(), checked);
    let mut out = Out::new();
    if !trust.is_empty() {
        cat_signed(&payload, &trust, &names, &mut out)?;
    } else if paths.len() > 1 {
        cat_copies(&payload.recording_faults(), &names, &mut out)?;
    } else {
        let found = find(&payload, &names)?;
        for entry in names.iter().filter_map(|name| found.get(name)) {
            let mut reader = EntryReader::new(&payload, entry)?;
            while let Some(bytes) = reader.next_block()? {
                out.put(bytes)?;
            }
        }
    }
    out.end()?;
    protected.warn();
    Ok(Outcome::Done)
}

/// Writes files of a signed payload. Each is checked as a whole before its first byte is written,
/// and once more while it is written: a disk may return other bytes the second time.
fn cat_signed(
    payload: &Payload,
    trust: &TrustedKeys,
    names: &[OsString],
    out: &mut Out,
) -> Result<()> {
    let index = Index::strict(payload, &Silent)?;
    refuse_other_headers(&index, &Silent)?;
    let sums = signed_checksums(&index, trust)?;
    let found = find(payload, names)?;
    for entry in names.iter().filter_map(|name| found.get(name)) {
        let Some(expected) = sums.get(&entry.shown_name()) else {
            return Err(Error::bug("a file without a signed checksum"));
        };
        for write in [false, true] {
            let mut hasher = Sha256::new();
            let mut reader = EntryReader::new(payload, entry)?;
            while let Some(bytes) = reader.next_block()? {
                hasher.update(bytes);
                if write {
                    out.put(bytes)?;
                }
            }
            let found = Sha256Sum::from_hasher(hasher);
            if found != expected {
                let problem = entry.mismatch(expected, found);
                return Err(problem.into_error(&**payload.source()));
            }
        }
    }
    Ok(())
}

/// Writes files of a payload that exists in several copies. What cannot be read from the first
/// comes from the next that holds the same file.
fn cat_copies(payload: &Payload, names: &[OsString], out: &mut Out) -> Result<()> {
    let index = Index::strict(payload, &Silent)?;
    refuse_other_headers(&index, &Silent)?;
    let found = find(payload, names)?;
    let mut reader = CopyReader::new(payload, &Silent)?;
    for entry in names.iter().filter_map(|name| found.get(name)) {
        let mut order = vec![0];
        let mut differs = None;
        let mut at = entry.data_offset;
        while at < entry.end() {
            let piece = at..entry.end().min(at + PIECE);
            let mut missing = Ranges::default();
            let mut bytes = Vec::new();
            for attempt in 0..2 {
                bytes.clear();
                missing = reader.read(&order, piece.clone(), &mut |read| {
                    bytes.extend_from_slice(read);
                    Ok(())
                })?;
                if missing.is_empty() || attempt > 0 || order.len() > 1 {
                    break;
                }
                for copy in 1..reader.copies() {
                    match reader.difference(0, copy, entry.data_offset..entry.end())? {
                        None => order.push(copy),
                        Some(at) => {
                            let other = reader.copy(copy).path().to_owned();
                            differs = Some(entry.problem(at, Cause::CopiesDiffer { other }));
                        }
                    }
                }
            }
            if !missing.is_empty() {
                let problem = differs.unwrap_or_else(|| reader.problem(entry, &missing));
                return Err(problem.into_error(&**payload.source()));
            }
            out.put(&bytes)?;
            at = piece.end;
        }
    }
    Ok(())
}

/// Finds all of `names` before a byte is written. The walk ends with the last of them, so damage
/// behind it does not matter.
fn find(payload: &Payload, names: &[OsString]) -> Result<HashMap<OsString, Entry>> {
    let mut absent: Vec<&OsString> = names.iter().collect();
    absent.sort();
    absent.dedup();
    let mut found = HashMap::new();
    for step in payload.walk()? {
        if absent.is_empty() {
            break;
        }
        let entry = match step {
            Ok(entry) => entry,
            Err(problem) => {
                log::error!("not found before the damage: {}", shown(&absent));
                return Err(problem.into_error(&**payload.source()));
            }
        };
        if let Ok(place) = absent.binary_search_by(|name| name.as_bytes().cmp(&entry.raw_name)) {
            found.insert(absent.remove(place).clone(), entry);
        }
    }
    if absent.is_empty() {
        return Ok(found);
    }
    Err(Error::new(
        Kind::Refused,
        format!("the payload has no file `{}`", shown(&absent)),
    )
    .with_code("no-such-entry")
    .with_path(payload.source().path())
    .advice(format!(
        "`lbpayload list {}` shows the names",
        payload.source().path().display()
    )))
}

fn shown(names: &[&OsString]) -> String {
    let names: Vec<String> = names
        .iter()
        .map(|name| printable(&name.to_string_lossy()))
        .collect();
    names.join("`, `")
}
