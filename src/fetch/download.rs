//! Gets one file from one source.

use std::fs::File;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use crate::durable::{Directory, Partial};
use crate::error::{Error, Kind, Result};
use crate::net::{Answer, Cause, Client, Failure, Scheme, Url};
use crate::payload::Sha256Sum;
use crate::progress::Progress;

use super::schedule::Ended;
use super::wanted::Wanted;

/// The number of bytes that are read and written at once.
const PIECE: usize = 64 * 1024;

/// How a source answered.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ended: Ended,
    /// What the source did, as a clause.
    pub(super) words: String,
    /// The number of bytes that came.
    pub(super) bytes: u64,
    /// The number of bytes that were there already.
    pub(super) resumed: u64,
    /// What the user can do.
    pub(super) help: Option<&'static str>,
}

/// Two files may have the same contents, and be downloaded at once.
fn key(wanted: &Wanted) -> String {
    let name = Sha256Sum::of(wanted.name.as_str().as_bytes()).to_string();
    format!("{}-{}", wanted.sum, &name[..8])
}

/// The bytes that a source sends.
enum Body {
    Http(Box<Answer>),
    File(File),
}

impl Body {
    fn read(&mut self, buf: &mut [u8]) -> std::result::Result<usize, Failure> {
        match self {
            Self::Http(answer) => answer.read(buf),
            Self::File(file) => loop {
                match file.read(buf) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    result => return result.map_err(|e| of_file(&e)),
                }
            },
        }
    }
}

/// An answer with a body: the offset at which it starts, and its length.
struct Opened {
    body: Body,
    start: u64,
    length: Option<u64>,
}

/// Where the file is written, and the sum of what is there.
struct Target<'a> {
    partial: Partial<'a>,
    hash: Sha256,
    len: u64,
}

impl Target<'_> {
    fn clear(&mut self) -> Result<()> {
        (self.hash, self.len) = (Sha256::new(), 0);
        self.partial.clear()
    }

    fn sum(&self) -> Sha256Sum {
        Sha256Sum::from_hasher(self.hash.clone())
    }
}

/// Gets `wanted` from `url` into `dest`. What an earlier attempt left is used.
///
/// # Errors
/// The file cannot be written here, which no other source will change.
pub(super) fn download(
    client: &Client,
    wanted: &Wanted,
    url: &Url,
    dest: &Directory,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let mut buf = vec![0; PIECE];
    let partial = Partial::open(dest, &key(wanted))?;
    let mut target = resume(partial, &mut buf)?;
    let resumed = target.len;
    let mut bytes = 0;
    if target.sum() != wanted.sum {
        // Twice: when the sum is wrong, the fault may be in what was there before.
        loop {
            let failure = match open(client, url, target.len) {
                Ok(opened) => {
                    let start = opened.start;
                    match receive(opened, wanted, &mut target, &mut buf, &mut bytes, progress)? {
                        None if target.sum() == wanted.sum => break,
                        None => {
                            let words = format!(
                                "wrong checksum: {} bytes with {}",
                                target.len,
                                target.sum()
                            );
                            target.clear()?;
                            if start > 0 {
                                continue;
                            }
                            Failure::new(Cause::Protocol, words)
                        }
                        Some(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            return failed(target, &failure, bytes, resumed);
        }
    }
    target.partial.commit(wanted.name.as_str())?;
    Ok(Outcome {
        ended: Ended::Complete,
        words: "complete".into(),
        bytes,
        resumed: resumed.min(target.len - bytes.min(target.len)),
        help: None,
    })
}

/// Reads what an earlier attempt left.
fn resume<'a>(partial: Partial<'a>, buf: &mut [u8]) -> Result<Target<'a>> {
    let (mut hash, mut len) = (Sha256::new(), 0);
    loop {
        match partial.file().read(buf) {
            Ok(0) => break,
            Ok(n) => {
                hash.update(&buf[..n]);
                len += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read an incomplete file", e)),
        }
    }
    Ok(Target { partial, hash, len })
}

/// Asks for the bytes from `from` on. The answer may start at 0 all the same.
fn open(client: &Client, url: &Url, from: u64) -> std::result::Result<Opened, Failure> {
    if url.scheme() == Scheme::File {
        let file = File::open(url.file_path()).map_err(|e| of_file(&e))?;
        let meta = file.metadata().map_err(|e| of_file(&e))?;
        if !meta.is_file() {
            return Err(Failure::new(Cause::Protocol, "not a regular file"));
        }
        return Ok(Opened {
            body: Body::File(file),
            start: 0,
            length: Some(meta.len()),
        });
    }
    let mut range = (from > 0).then_some((from, None));
    loop {
        let answer = client.get(url, range, None)?;
        let start = match answer.status() {
            200 => 0,
            206 if answer.range().is_some_and(|found| found.first == from) => from,
            // A server that does not send what was asked for is asked for everything.
            206 | 416 if range.is_some() => {
                range = None;
                continue;
            }
            206 => {
                return Err(Failure::new(
                    Cause::Protocol,
                    "sent a range that nobody asked for",
                ));
            }
            _ => return Err(answer.refused()),
        };
        let length = answer.length();
        return Ok(Opened {
            body: Body::Http(Box::new(answer)),
            start,
            length,
        });
    }
}

/// Writes what comes. Returns what ended it early, if anything.
fn receive(
    mut opened: Opened,
    wanted: &Wanted,
    target: &mut Target<'_>,
    buf: &mut [u8],
    bytes: &mut u64,
    progress: &dyn Progress,
) -> Result<Option<Failure>> {
    let name = wanted.name.as_str();
    if opened.start == 0 && target.len > 0 {
        target.clear()?;
    }
    if let Some(failure) = opened.length.and_then(|length| too_long(target, length)) {
        return Ok(Some(failure));
    }
    let end = opened
        .length
        .and_then(|length| length.checked_add(opened.start));
    progress.file_started(name, end);
    progress.extend(opened.length.unwrap_or(0));
    loop {
        let n = match opened.body.read(buf) {
            Ok(0) => return Ok(None),
            Ok(n) => n,
            Err(failure) => return Ok(Some(failure)),
        };
        if target.len == 0 && is_page(&buf[..n], name) {
            let words = "sent an HTML page in place of the file";
            return Ok(Some(Failure::new(Cause::Protocol, words)));
        }
        if let Err(e) = target.partial.write_all(&buf[..n]) {
            let error = Error::io("write", e).with_path(name);
            if error.kind() == Kind::Space && opened.length.is_none() {
                // It may never have ended, and others need the room.
                target.clear()?;
                let words = "sent bytes without end until the disk was full";
                return Ok(Some(Failure::new(Cause::Protocol, words)));
            }
            return Err(error);
        }
        target.hash.update(&buf[..n]);
        target.len += n as u64;
        *bytes += n as u64;
        if opened.length.is_none() {
            progress.extend(n as u64);
        }
        progress.advance(n as u64);
        progress.file_advanced(name, n as u64);
        if progress.cancelled() {
            return Ok(Some(Failure::new(Cause::Stopped, "interrupted")));
        }
    }
}

/// Returns the failure for a length that cannot be stored here.
fn too_long(target: &Target<'_>, length: u64) -> Option<Failure> {
    let room = target.partial.room().ok()?;
    (length > room.free_bytes).then(|| {
        let words = format!(
            "announces {length} bytes, and {} are free here",
            room.free_bytes
        );
        Failure::new(Cause::Protocol, words)
    })
}

/// Returns whether the start of a body is that of a web page, and `name` is none.
fn is_page(start: &[u8], name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if [".html", ".htm", ".xhtml"]
        .iter()
        .any(|end| name.ends_with(end))
    {
        return false;
    }
    let text = start.trim_ascii_start();
    ["<!doctype html", "<html"].iter().any(|tag| {
        text.get(..tag.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()))
    })
}

fn of_file(error: &io::Error) -> Failure {
    let words = match error.kind() {
        io::ErrorKind::NotFound => "not there".to_owned(),
        _ => error.to_string(),
    };
    Failure::new(Cause::Protocol, words)
}

fn failed(target: Target<'_>, failure: &Failure, bytes: u64, resumed: u64) -> Result<Outcome> {
    if target.len == 0 {
        target.partial.discard()?;
    }
    let ended = match (failure.retry_after, failure.cause) {
        (Some(wait), Cause::Status(429 | 503)) => Ended::Later(wait),
        _ if bytes > 0 && failure.is_temporary() => Ended::BrokenOff,
        _ => Ended::Refused,
    };
    Ok(Outcome {
        ended,
        words: failure.to_string(),
        bytes,
        resumed,
        help: failure.help(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_page_is_recognized_by_its_start() {
        for (start, name, page) in [
            ("<!DOCTYPE html><html>", "a.tar.gz", true),
            ("\n <HTML lang=en>", "a.tar.gz", true),
            ("<html>", "doc.html", false),
            ("<htm", "a.tar.gz", false),
            ("\x1f\u{8b}", "a.tar.gz", false),
            ("<?xml version='1.0'?>", "a.xml", false),
        ] {
            assert_eq!(is_page(start.as_bytes(), name), page, "{start}");
        }
    }
}
