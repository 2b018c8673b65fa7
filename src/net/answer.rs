//! The answer to a request: what its headers say, and its body.

use std::io::{self, Read};
use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::{Body, BodyReader};

use super::failure::{Cause, Failure};

/// The bytes that a 206 answer holds: `bytes FIRST-LAST/TOTAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// The offset of the first byte.
    pub first: u64,
    /// The offset of the last byte.
    pub last: u64,
    /// The length of the whole object, if the server knows it.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Parses the value of the header.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.trim().strip_prefix("bytes")?.trim_start();
        let (range, total) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let total = match total.trim() {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        let valid = first <= last && total.is_none_or(|total| last < total);
        valid.then_some(Self { first, last, total })
    }
}

/// The answer of a server. Reading it reads the body, as it was sent: nothing is unpacked.
pub struct Answer {
    status: u16,
    headers: HeaderMap,
    body: BodyReader<'static>,
    stall: Duration,
}

impl Answer {
    pub(super) fn new(response: Response<Body>, stall: Duration) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.into_reader(),
            stall,
        }
    }

    /// Returns the status, such as 200 or 206.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the length of the body in bytes, if the server announced it.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// Returns the bytes that a 206 answer says it holds. `None` if it says nothing or
    /// nonsense.
    pub fn range(&self) -> Option<ContentRange> {
        ContentRange::parse(self.header("content-range")?)
    }

    /// Reads some of the body. 0 is its end.
    ///
    /// # Errors
    /// The body ended early, or no byte came for too long.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Failure> {
        loop {
            match self.body.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(|e| Failure::of_io(&e, self.stall)),
            }
        }
    }

    /// Returns the failure that the status stands for. A short body is read, so that the
    /// connection can be used again.
    pub fn refused(mut self) -> Failure {
        let mut page = [0; 4096];
        if self.length().is_some_and(|length| length <= 64 * 1024) {
            while self.read(&mut page).is_ok_and(|n| n > 0) {}
        }
        let reason = ureq::http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason());
        let words = format!("{} {}", self.status, reason.unwrap_or("(unknown status)"));
        let mut failure = Failure::new(Cause::Status(self.status), words.trim_end());
        // The other form, a date, is rare, and relies on the clocks of both sides.
        let seconds = self
            .header("retry-after")
            .and_then(|s| s.trim().parse().ok());
        failure.retry_after = seconds.map(Duration::from_secs);
        failure
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_must_make_sense() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        for (text, found) in [
            ("bytes 0-0/1", range(0, 0, Some(1))),
            ("bytes 5-9/*", range(5, 9, None)),
            ("bytes 5-9/9", None),
            ("bytes 9-5/20", None),
            ("bytes */20", None),
            ("items 0-1/2", None),
            ("bytes 0-99999999999999999999/*", None),
        ] {
            assert_eq!(ContentRange::parse(text), found, "{text}");
        }
    }
}
