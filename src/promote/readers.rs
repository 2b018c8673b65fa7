//! The readers of promote by themselves, for fuzzing: what they get from bytes that anybody wrote.

use std::io::{self, Read};
use std::path::Path;

use crate::promote::coherence::{Modinfo, read_kernel, walk_initramfs};
use crate::promote::helper::parse_greeting;
use crate::promote::inputs::manifest::{self, BuildState, Manifest};
use crate::promote::tree::protocol::{Reply, Request};

/// Reads a manifest. Returns its destinations, or an error as text.
///
/// # Errors
/// What is wrong with it.
pub fn read_manifest(text: &[u8], strict: bool) -> Result<Vec<String>, String> {
    let again = manifest::destinations(&String::from_utf8_lossy(text), &[]);
    let read = Manifest::parse(text.to_vec(), Path::new("/source"), strict);
    let read = read.map_err(|e| e.to_string())?;
    let paths = read
        .artifacts
        .iter()
        .map(|artifact| artifact.dst.to_string());
    let paths: Vec<String> = paths.collect();
    let again: Vec<String> = again.iter().map(ToString::to_string).collect();
    match std::str::from_utf8(text) {
        Ok(_) if again != paths => Err(format!("a bug: {again:?}, {paths:?}")),
        _ => Ok(paths),
    }
}

/// Reads a build state. Returns the commits by repository, or an error as text.
///
/// # Errors
/// What is wrong with it.
pub fn read_build_state(text: &[u8], strict: bool) -> Result<Vec<(String, String)>, String> {
    let read = BuildState::parse(text.to_vec(), Path::new("/source"), strict);
    read.map(|state| state.repos.into_iter().collect())
        .map_err(|e| e.to_string())
}

/// Reads an initramfs and all data in it, up to `most` bytes. Returns the names in it.
///
/// # Errors
/// It is damaged, of an unknown format, or longer.
pub fn read_initramfs(bytes: &[u8], most: u64) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut left = most;
    walk_initramfs(bytes, &mut |entry, data| {
        left = left.saturating_sub(io::copy(&mut data.take(left + 1), &mut io::sink())?);
        names.push(entry.name.clone());
        match left {
            0 => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(()),
        }
    })?;
    Ok(names)
}

/// Reads a kernel module. Returns the number of its fields.
///
/// # Errors
/// It is none.
pub fn read_module(bytes: &[u8]) -> io::Result<usize> {
    let module = Modinfo::parse(bytes)?;
    let vermagic = usize::from(module.vermagic().is_some());
    Ok(module.fields.len() + module.depends().count() + vermagic)
}

/// Searches a kernel image. Returns its release.
pub fn read_release(bytes: &[u8]) -> Option<String> {
    read_kernel(bytes)
}

/// Parses a message between the helper and its client. Returns whether it was one, and is the
/// same when it is sent on.
///
/// # Errors
/// The message changed on the way.
pub fn read_message(bytes: &[u8]) -> Result<bool, String> {
    let mut known = parse_greeting(bytes).is_ok();
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let sent = serde_json::to_vec(&request).map_err(|e| e.to_string())?;
        let again: Request = serde_json::from_slice(&sent).map_err(|e| e.to_string())?;
        let (one, two) = (format!("{request:?}"), format!("{again:?}"));
        if one != two {
            return Err(format!("sent {one}, arrived {two}"));
        }
        known = true;
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(bytes) {
        let sent = serde_json::to_vec(&reply).map_err(|e| e.to_string())?;
        let again: Reply = serde_json::from_slice(&sent).map_err(|e| e.to_string())?;
        let (one, two) = (format!("{reply:?}"), format!("{again:?}"));
        if one != two {
            return Err(format!("sent {one}, arrived {two}"));
        }
        if let Reply::Failed(failure) = reply {
            let error = crate::error::Error::from(failure);
            drop((error.to_string(), error.code()));
        }
        known = true;
    }
    Ok(known)
}
