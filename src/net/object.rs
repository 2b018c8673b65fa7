//! One object on a server, read in ranges. It must stay the same while it is read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Kind, Result, SourceFailure};

use super::answer::Answer;
use super::client::Client;
use super::date;
use super::failure::{Cause, Failure};
use super::url::Url;

/// A request that may succeed later is made so often.
const TRIES: u32 = 5;
/// The time before the second try; before each further one, it is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// A server that asks to wait longer is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// After a failure, reads fail at once for this long. A job that reads a bad place again in
/// small steps would otherwise wait for each step.
const REST: Duration = Duration::from_secs(5);

const CHANGED: &str = "it has changed on the server since it was opened";

/// What identifies a version of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    etag: Option<String>,
    modified: Option<String>,
}

impl Version {
    fn of(answer: &Answer) -> Self {
        let own = |name| answer.header(name).map(str::to_owned);
        Self {
            etag: own("etag"),
            modified: own("last-modified"),
        }
    }

    /// The value of an If-Range header, for which a weak ETag is not allowed.
    fn condition(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|tag| !tag.starts_with("W/"));
        strong.or(self.modified.as_deref())
    }

    fn differs(&self, other: &Self) -> bool {
        match (&self.etag, &other.etag) {
            (Some(a), Some(b)) => a != b,
            _ => match (&self.modified, &other.modified) {
                (Some(a), Some(b)) => a != b,
                _ => false,
            },
        }
    }
}

/// Why a range could not be read.
#[derive(Debug, Clone)]
enum Trouble {
    /// The object is another one now.
    Changed,
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Trouble {
    fn into_io(self) -> io::Error {
        match self {
            Self::Changed => SourceFailure {
                words: CHANGED.into(),
                code: "changed",
                help: "run it again",
            }
            .into_io(io::ErrorKind::StaleNetworkFileHandle),
            Self::Failed(failure) => SourceFailure {
                words: failure.to_string(),
                code: failure.code(),
                help: help(&failure),
            }
            .into_io(io::ErrorKind::Other),
        }
    }
}

/// An object that has been opened.
pub(super) struct Object {
    client: Client,
    url: Url,
    path: PathBuf,
    len: u64,
    version: Version,
    /// The last failure, and when reads are possible again.
    trouble: Mutex<Option<(Trouble, Option<Instant>)>>,
}

impl Object {
    /// Opens the object at `url`, and reads its first `want` bytes.
    ///
    /// # Errors
    /// There is no such object, or the server has no ranges.
    pub(super) fn open(client: Client, url: Url, want: u64) -> Result<(Self, Vec<u8>)> {
        let path = PathBuf::from(url.to_string());
        let mut tries = 0;
        loop {
            match first(&client, &url, want) {
                Ok((version, len, bytes)) => {
                    let object = Self {
                        client,
                        url,
                        path,
                        len,
                        version,
                        trouble: Mutex::default(),
                    };
                    return Ok((object, bytes));
                }
                Err(Opening::NoRange) => return Err(no_range(&path)),
                // Somebody who mistyped the name of a host is told so at once.
                Err(Opening::Failed(failure)) => {
                    tries += 1;
                    if failure.cause == Cause::Connect || !may_retry(&failure, tries) {
                        return Err(failed(&failure, &path));
                    }
                    pause(&failure, tries);
                }
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        date::parse(self.version.modified.as_deref()?)
    }

    /// Fills `buf` from `offset`. The object must be long enough.
    ///
    /// # Errors
    /// The object has changed, or the server does not send it, tried several times.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(trouble) = self.fresh_trouble() {
            return Err(trouble.into_io());
        }
        let (mut done, mut tries) = (0, 0);
        while done < buf.len() {
            let before = done;
            let trouble = match self.try_read(buf, offset, &mut done) {
                Ok(()) => continue,
                Err(trouble) => trouble,
            };
            tries = if done > before { 1 } else { tries + 1 };
            let until = match &trouble {
                Trouble::Failed(failure) if may_retry(failure, tries) => {
                    log::debug!("{}: {failure}, trying again", self.path.display());
                    pause(failure, tries);
                    continue;
                }
                Trouble::Failed(failure) => {
                    log::warn!("{}: {failure}", self.path.display());
                    Some(Instant::now() + REST)
                }
                Trouble::Changed => {
                    log::warn!("{}: {CHANGED}", self.path.display());
                    None
                }
            };
            *self.trouble() = Some((trouble.clone(), until));
            return Err(trouble.into_io());
        }
        Ok(())
    }

    /// Reads on from `done`, once.
    fn try_read(
        &self,
        buf: &mut [u8],
        offset: u64,
        done: &mut usize,
    ) -> std::result::Result<(), Trouble> {
        let first = offset + *done as u64;
        let last = offset + buf.len() as u64 - 1;
        let condition = self.version.condition();
        let mut answer = self
            .client
            .get(&self.url, Some((first, Some(last))), condition)?;
        match answer.status() {
            200 | 206 if self.version.differs(&Version::of(&answer)) => {
                return Err(Trouble::Changed);
            }
            206 => {}
            // That is how a server answers If-Range for another version.
            200 if condition.is_some() => return Err(Trouble::Changed),
            412 | 416 => return Err(Trouble::Changed),
            200 => return Err(Failure::new(Cause::Protocol, "sent everything for a range").into()),
            _ => return Err(answer.refused().into()),
        }
        match answer.range() {
            Some(range) if range.total.is_some_and(|total| total != self.len) => {
                Err(Trouble::Changed)
            }
            Some(range) if range.first == first && range.last <= last => {
                let end = *done + (range.last - range.first + 1) as usize;
                fill(&mut answer, &mut buf[..end], done)?;
                Ok(())
            }
            _ => Err(Failure::new(Cause::Protocol, "sent another range than asked for").into()),
        }
    }

    fn fresh_trouble(&self) -> Option<Trouble> {
        let mut kept = self.trouble();
        let (trouble, until) = kept.as_ref()?;
        if until.is_none_or(|until| Instant::now() < until) {
            return Some(trouble.clone());
        }
        *kept = None;
        None
    }

    fn trouble(&self) -> MutexGuard<'_, Option<(Trouble, Option<Instant>)>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Opening {
    NoRange,
    Failed(Failure),
}

impl From<Failure> for Opening {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Reads the first bytes. The length comes with them: a HEAD request would need another
/// signature where a URL is signed for one method.
fn first(
    client: &Client,
    url: &Url,
    want: u64,
) -> std::result::Result<(Version, u64, Vec<u8>), Opening> {
    let mut answer = client.get(url, Some((0, Some(want - 1))), None)?;
    let version = Version::of(&answer);
    match answer.status() {
        206 => {}
        // Nothing is in an empty object, not even a first byte.
        416 => return Ok((version, 0, Vec::new())),
        200 => return Err(Opening::NoRange),
        _ => return Err(answer.refused().into()),
    }
    let range = answer
        .range()
        .filter(|range| range.first == 0 && range.last < want);
    let total = range.and_then(|range| range.total);
    // As long as the kernel's offsets: sums of offsets and lengths do not overflow then.
    let total = total.filter(|total| i64::try_from(*total).is_ok());
    let (Some(range), Some(total)) = (range, total) else {
        return Err(Failure::new(Cause::Protocol, "does not say how long it is").into());
    };
    let mut bytes = vec![0; (range.last + 1) as usize];
    fill(&mut answer, &mut bytes, &mut 0)?;
    Ok((version, total, bytes))
}

/// Fills `buf` from `done` on.
fn fill(answer: &mut Answer, buf: &mut [u8], done: &mut usize) -> std::result::Result<(), Failure> {
    while *done < buf.len() {
        match answer.read(&mut buf[*done..])? {
            0 => return Err(Failure::new(Cause::BrokenOff, "the answer is too short")),
            n => *done += n,
        }
    }
    // The end of the body has to be read for the connection to be used again. What else may come
    // is not wanted.
    let _ = answer.read(&mut [0]);
    Ok(())
}

fn may_retry(failure: &Failure, tries: u32) -> bool {
    let soon = failure.retry_after.is_none_or(|wait| wait <= LONGEST_WAIT);
    tries < TRIES && failure.is_temporary() && soon
}

fn pause(failure: &Failure, tries: u32) {
    let own = FIRST_WAIT * (1 << (tries.max(1) - 1));
    std::thread::sleep(failure.retry_after.unwrap_or(own).max(own));
}

fn no_range(path: &Path) -> Error {
    Error::new(Kind::Refused, "the server cannot send a part of a file")
        .with_code("no-range")
        .doing("read")
        .with_path(path)
        .advice("download the whole file first, for example with `curl -O`")
}

fn failed(failure: &Failure, path: &Path) -> Error {
    Error::new(Kind::Io, failure.to_string())
        .doing("read")
        .with_path(path)
        .with_code(failure.code())
        .advice(help(failure))
}

/// Returns what to do after a failure.
fn help(failure: &Failure) -> &'static str {
    match (failure.help(), failure.cause) {
        (Some(help), _) => help,
        (None, Cause::Status(401 | 403)) => {
            "check whether a signed URL has expired, or give user and password: \
             https://USER:PASSWORD@HOST/..."
        }
        (None, Cause::Status(404 | 410)) => "check the URL",
        (None, _) => "try it again later, or ask who runs the server",
    }
}
