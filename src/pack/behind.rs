//! Writes on another thread, while the next blocks are read.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};

use crate::error::{Error, Result};

use super::read_back::BLOCK;

/// The number of blocks that may wait to be written.
const WAITING: usize = 3;

/// Passes what is written to it to the thread that writes it.
pub(super) struct Pipe {
    send: SyncSender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
    buf: Vec<u8>,
}

impl Pipe {
    fn pass_on(&mut self) -> io::Result<()> {
        let mut next = match self.free.try_recv() {
            Ok(used) => used,
            Err(_) => Vec::with_capacity(BLOCK),
        };
        next.clear();
        // The error of the thread is the one that is reported.
        let sent = self.send.send(std::mem::replace(&mut self.buf, next));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(BLOCK - self.buf.len());
        self.buf.extend_from_slice(&bytes[..n]);
        if self.buf.len() == BLOCK {
            self.pass_on()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `produce` and writes to `out` on another thread what it writes. Returns its result and
/// `out`. `named` adds the path of `out` to an error.
///
/// # Errors
/// The first error: of writing, or else of `produce`.
pub(super) fn behind<T, W: Write + Send>(
    mut out: W,
    named: &dyn Fn(Error) -> Error,
    produce: impl FnOnce(Pipe) -> Result<(T, Pipe)>,
) -> Result<(T, W)> {
    let (send, blocks) = mpsc::sync_channel::<Vec<u8>>(WAITING);
    let (give, free) = mpsc::channel();
    let buf = Vec::with_capacity(BLOCK);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("write".into())
            .spawn_scoped(scope, move || {
                for block in blocks {
                    out.write_all(&block)?;
                    // At the end, nobody needs it any more.
                    let _ = give.send(block);
                }
                Ok(out)
            })
            .map_err(|e| Error::io("start a thread", e))?;
        let produced = produce(Pipe { send, free, buf }).map(|(made, mut pipe)| {
            // If the thread has ended, its error is reported below.
            let _ = pipe.pass_on();
            made
        });
        let written = thread.join().map_err(|_| Error::bug("a thread panicked"))?;
        let out = written.map_err(|e: io::Error| named(Error::io("write", e)))?;
        Ok((produced?, out))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts this many bytes, and then fails.
    struct Full(Vec<u8>, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.len() + bytes.len() > self.1 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn run(room: usize, bytes: &[u8], result: Result<()>) -> Result<Full> {
        let named = |e: Error| e.with_path(std::path::Path::new("out"));
        behind(Full(Vec::new(), room), &named, |mut pipe| {
            for part in bytes.chunks(300_000) {
                pipe.write_all(part).map_err(|e| Error::io("write", e))?;
            }
            result.map(|()| ((), pipe))
        })
        .map(|((), out)| out)
    }

    #[test]
    fn everything_is_written_in_order() {
        let bytes: Vec<u8> = (0..5 * BLOCK as u32 + 77)
            .map(|n| (n % 251) as u8)
            .collect();
        for len in [0, 1, BLOCK, bytes.len()] {
            let out = run(usize::MAX, &bytes[..len], Ok(())).unwrap();
            assert!(out.0 == bytes[..len], "{len} bytes");
        }
    }

    #[test]
    fn the_error_of_the_writer_is_the_one_that_is_reported() {
        let bytes = vec![1; 20 * BLOCK];
        // In the middle, where the producer learns of it, and in the last block.
        for room in [0, 2 * BLOCK, 20 * BLOCK - 1] {
            let error = run(room, &bytes, Ok(())).err().unwrap();
            let system = error.io_error().and_then(io::Error::raw_os_error);
            assert_eq!(system, Some(libc::ENOSPC), "{room}");
            assert_eq!(error.path(), Some(std::path::Path::new("out")));
        }
    }

    #[test]
    fn an_error_of_the_producer_is_reported_as_it_is() {
        let error = run(usize::MAX, &[1; 10], Err(Error::interrupted()));
        assert_eq!(error.err().unwrap().code(), Error::interrupted().code());
    }
}
