//! Passes a whole payload to the writer of a trailer.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;

use crate::block::{AlignedBuf, PAGE, Source, read_exact_at};
use crate::error::{Error, Result};
use crate::payload::Index;
use crate::progress::Progress;
use crate::protection::TrailerWriter;

use super::opened::{advance, failed_at};

/// The size of a read in bytes.
const STEP: usize = 1 << 20;

/// Passes the headers and the bytes of a payload to `writer`. Another thread reads ahead.
pub(super) fn put_payload(
    writer: &mut TrailerWriter<'_>,
    index: &Index,
    source: &Arc<dyn Source>,
    progress: &dyn Progress,
) -> Result<()> {
    let failed = |doing, e| failed_at(doing, e, source.path());
    put_headers(writer, index, source)?;
    let len = index.payload_bytes();
    progress.begin("hashing", len);
    read_ahead(source, len, &mut |bytes| {
        writer.payload(bytes).map_err(|e| failed("write to", e))?;
        advance(progress, bytes.len() as u64).map_err(|e| failed("read", e))
    })?;
    progress.end();
    Ok(())
}

/// Passes the headers of a payload to `writer`.
fn put_headers(
    writer: &mut TrailerWriter<'_>,
    index: &Index,
    source: &Arc<dyn Source>,
) -> Result<()> {
    let failed = |e| Error::io("write to", e).with_path(source.path());
    let dialect = index.dialect();
    let mut bytes = Vec::new();
    let fits = |result: std::result::Result<(), crate::format::DoesNotFit>| {
        result.map_err(|e| failed(io::Error::other(e)))
    };
    fits(dialect.put_header(index.files(), &mut bytes))?;
    for entry in index.entries()? {
        let entry = entry?;
        let name = entry
            .name()
            .map_err(|e| failed(io::Error::other(e.to_string())))?;
        fits(dialect.put_entry(&name, entry.size, &mut bytes))?;
        if bytes.len() > 64 * 1024 {
            writer.headers(&bytes).map_err(failed)?;
            bytes.clear();
        }
    }
    writer.headers(&bytes).map_err(failed)
}

/// Reads the first `len` bytes of a source on another thread, and passes them on in order.
pub(super) fn read_ahead(
    source: &Arc<dyn Source>,
    len: u64,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let failed = |e| Error::io("read", e).with_path(source.path());
    let (give, free) = mpsc::channel::<AlignedBuf>();
    for _ in 0..3 {
        let buf = AlignedBuf::new(STEP).map_err(failed)?;
        // The receiver exists, so this cannot fail.
        let _ = give.send(buf);
    }
    let (send, ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let read = move || {
            for at in (0..len).step_by(STEP) {
                let Ok(mut buf) = free.recv() else {
                    return;
                };
                let want = (len - at).min(STEP as u64) as usize;
                let padded = want.next_multiple_of(PAGE);
                let result = match read_exact_at(&**source, &mut buf[..padded], at) {
                    Ok(n) if n >= want => Ok((buf, want)),
                    Ok(_) => Err((at, io::ErrorKind::UnexpectedEof.into())),
                    Err(e) => Err((at, e)),
                };
                if send.send(result).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("reader".into());
        thread.spawn_scoped(scope, read).map_err(failed)?;
        for result in ready {
            let (buf, len) = result.map_err(|(at, e)| failed(e).with_offset(at))?;
            each(&buf[..len])?;
            // The reader may have ended already.
            let _ = give.send(buf);
        }
        Ok(())
    })
}
