//! Reads of file data: at once where the source has the data in memory, otherwise from the
//! source, which may take as long as the disk needs.

use std::io;
use std::sync::atomic::Ordering;

use crate::block::{PAGE, Source, read_exact_at};

use super::errno::Refusal;
use super::faults::FaultCause;
use super::filesystem::{Answer, Filesystem};
use super::tree::Node;

/// A read request: the bytes that it needs, and where they are in the payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadRequest {
    ino: u64,
    /// The offset in the file.
    offset: u64,
    /// The number of bytes. Fewer than requested only at the end of the file, because the kernel
    /// takes a short read as the end.
    want: usize,
    /// The offset in the payload, aligned as the source needs it.
    start: u64,
    /// The number of bytes from there to the first byte.
    skip: usize,
    /// The number of bytes to read from `start` on.
    span: usize,
    /// Whether the reader wants no cache to keep the bytes.
    past_cache: bool,
}

impl Filesystem {
    /// Passes up to `size` bytes of the file `ino`, from `offset` on, to `give`. Fewer bytes are
    /// passed only at the end of the file.
    ///
    /// # Errors
    /// There is no such file, the data cannot be read, or the source ends early.
    #[cfg(feature = "internals")]
    pub fn read<T>(
        &self,
        ino: u64,
        offset: u64,
        size: usize,
        give: impl FnOnce(&[u8]) -> T,
    ) -> Answer<T> {
        self.read_from_source(&self.read_request(ino, offset, size, false)?, give)
    }

    /// Finds the bytes for a read. With `past_cache`, they are read without the page cache of the
    /// source.
    ///
    /// # Errors
    /// There is no such file.
    pub(super) fn read_request(
        &self,
        ino: u64,
        offset: u64,
        size: usize,
        past_cache: bool,
    ) -> Answer<ReadRequest> {
        let node = self.file(ino)?;
        let left = node.size.saturating_sub(offset);
        let want = left.min(size as u64) as usize;
        let alignment = match past_cache {
            true => PAGE,
            false => self.payload().source().part(),
        };
        // Behind the end, the offset may be any number.
        let at = node.data_offset + offset.min(node.size);
        let start = at - at % alignment as u64;
        let skip = (at - start) as usize;
        self.counters().reads.fetch_add(1, Ordering::Relaxed);
        Ok(ReadRequest {
            ino,
            offset,
            want,
            start,
            skip,
            span: (skip + want).next_multiple_of(alignment),
            past_cache,
        })
    }

    /// Passes the bytes to `give` if they are in memory, so that no disk is waited for.
    pub(super) fn read_at_once<T>(
        &self,
        request: &ReadRequest,
        give: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        if request.want == 0 {
            return Some(give(&[]));
        }
        // Asking for what is in memory already makes the kernel read ahead what is not.
        if request.past_cache {
            return None;
        }
        let node = self.file(request.ino).ok()?;
        if !self.is_confirmed(&node) {
            return None;
        }
        let mut buf = self.buffer(request.span).ok()?;
        let source = self.payload().source();
        let read = source.read_cached(&mut buf[..request.span], request.start);
        let is_whole = read.is_ok_and(|n| n >= request.skip + request.want);
        let given = is_whole.then(|| self.give(request, &buf, give));
        self.keep(buf);
        given
    }

    /// Passes the bytes to `give` once the source has returned them.
    ///
    /// # Errors
    /// The data cannot be read, or the source ends early.
    pub(super) fn read_from_source<T>(
        &self,
        request: &ReadRequest,
        give: impl FnOnce(&[u8]) -> T,
    ) -> Answer<T> {
        if request.want == 0 {
            return Ok(give(&[]));
        }
        let node = self.file(request.ino)?;
        self.confirm(&node)?;
        self.check_signed(&node)?;
        let source = &**self.payload().source();
        let mut buf = self.buffer(request.span)?;
        let span = &mut buf[..request.span];
        let read = match request.past_cache {
            true => past_cache(source, span, request),
            false => read_exact_at(source, span, request.start),
        };
        self.note_healed();
        let at = request.start + request.skip as u64;
        let given = match read {
            Ok(n) if n >= request.skip + request.want => Ok(self.give(request, &buf, give)),
            Ok(n) => {
                let end = at + n.saturating_sub(request.skip) as u64;
                self.failed(&node, request, end, FaultCause::Ended)
            }
            Err(e) => self.failed(&node, request, at, FaultCause::of_io(&e)),
        };
        self.keep(buf);
        given
    }

    fn give<T>(&self, request: &ReadRequest, buf: &[u8], give: impl FnOnce(&[u8]) -> T) -> T {
        let bytes = &self.counters().bytes;
        bytes.fetch_add(request.want as u64, Ordering::Relaxed);
        let end = request.offset + request.want as u64;
        self.faults().clear(request.ino, request.offset..end);
        give(&buf[request.skip..request.skip + request.want])
    }

    fn failed<T>(
        &self,
        node: &Node<'_>,
        request: &ReadRequest,
        at: u64,
        cause: FaultCause,
    ) -> Answer<T> {
        let range = request.offset..request.offset + request.want as u64;
        self.note_fault(node, range, at, cause);
        Err(Refusal::Unreadable)
    }
}

/// Reads the bytes of `request` past the page cache of the source. What ends early there, for
/// example at the end of the source, is read again in the usual way.
fn past_cache(source: &dyn Source, span: &mut [u8], request: &ReadRequest) -> io::Result<usize> {
    match source.read_past_cache(span, request.start)? {
        n if n >= request.skip + request.want => Ok(n),
        _ => read_exact_at(source, span, request.start),
    }
}
