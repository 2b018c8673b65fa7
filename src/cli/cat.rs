//! `lbpayload cat`

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Kind, Result, printable};
use crate::payload::{Entry, EntryReader, Payload};

use super::args::CatArgs;
use super::exit::Outcome;
use super::list;
use super::output::Out;

pub(super) fn run(args: &CatArgs) -> Result<Outcome> {
    let payload = list::open(&args.source, &args.input)?;
    let found = find(&payload, &args.names)?;
    let mut out = Out::new();
    for name in &args.names {
        if let Some(entry) = found.get(name) {
            let mut reader = EntryReader::new(&payload, entry)?;
            while let Some(bytes) = reader.next_block()? {
                out.put(bytes)?;
            }
        }
    }
    out.end()?;
    Ok(Outcome::Done)
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
