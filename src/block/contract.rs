//! Tests what every queue promises, with each kind of queue.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::{AlignedBuf, Completion, PAGE, Queue, ReadMode, Sink, Source, ThreadQueue, UringQueue};

/// A file to read and write, with or without a file descriptor.
struct Plain {
    file: std::fs::File,
    with_fd: bool,
}

impl Plain {
    fn new(with_fd: bool) -> Arc<Self> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE as u64).unwrap();
        Arc::new(Self { file, with_fd })
    }
}

impl Source for Plain {
    fn path(&self) -> &Path {
        Path::new("plain")
    }
    fn len(&self) -> u64 {
        PAGE as u64
    }
    fn alignment(&self) -> usize {
        1
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, buf, offset)
    }
    fn mode(&self) -> ReadMode {
        ReadMode::Buffered
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.with_fd.then(|| self.file.as_fd())
    }
}

impl Sink for Plain {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, buf, offset)
    }
    fn finish(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.with_fd.then(|| self.file.as_fd())
    }
}

/// Panics in every call that does work, and optionally in `fd` and `alignment`.
struct Panics {
    in_fd: bool,
    file: Option<std::fs::File>,
}

impl Source for Panics {
    fn path(&self) -> &Path {
        Path::new("panics")
    }
    fn len(&self) -> u64 {
        PAGE as u64
    }
    fn alignment(&self) -> usize {
        panic!("expected by this test")
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        panic!("expected by this test")
    }
    fn mode(&self) -> ReadMode {
        ReadMode::Buffered
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        assert!(!self.in_fd, "expected by this test");
        self.file.as_ref().map(AsFd::as_fd)
    }
}

impl Sink for Panics {
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        panic!("expected by this test")
    }
    fn finish(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        assert!(!self.in_fd, "expected by this test");
        None
    }
}

type Open = fn() -> io::Result<Box<dyn Queue<()>>>;

/// Runs `test` with each queue, on a thread of its own, so that a queue that hangs fails.
fn each(test: fn(&mut dyn Queue<()>)) {
    let queues: [(&str, Open); 2] = [
        ("threads", || Ok(Box::new(ThreadQueue::new(2)?))),
        ("uring", || Ok(Box::new(UringQueue::new(2)?))),
    ];
    for (name, open) in queues {
        let (send, done) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            match open() {
                Ok(mut queue) => {
                    test(&mut *queue);
                    assert_eq!(queue.in_flight(), 0, "{name}");
                    assert!(queue.wait().is_none(), "{name}");
                }
                Err(e) => {
                    use std::io::Write;
                    let _ = writeln!(io::stderr(), "SKIPPED: no queue of {name} here: {e}");
                }
            }
            let _ = send.send(());
        });
        let ended = done.recv_timeout(Duration::from_secs(20));
        assert_ne!(ended, Err(mpsc::RecvTimeoutError::Timeout), "{name} hangs");
        thread.join().unwrap();
    }
}

fn page() -> AlignedBuf {
    AlignedBuf::new(PAGE).unwrap()
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_request_beyond_its_buffer_or_the_largest_offset_is_invalid() {
    each(|queue| {
        for with_fd in [true, false] {
            let plain = Plain::new(with_fd);
            let (source, sink): (Arc<dyn Source>, Arc<dyn Sink>) =
                (Arc::clone(&plain) as _, Arc::clone(&plain) as _);
            for (len, offset) in [
                (PAGE + 1, 0),
                (usize::MAX, 0),
                (1, u64::MAX),
                (1, i64::MAX as u64),
            ] {
                queue.read(1, &source, page(), len, offset);
                let Some(Completion::Read { id: 1, buf, result }) = queue.wait() else {
                    panic!("not a read")
                };
                assert_eq!(buf.len(), PAGE);
                assert_eq!(kind(result), io::ErrorKind::InvalidInput, "{len} {offset}");

                queue.write(2, &sink, page(), len, offset);
                let Some(Completion::Write { id: 2, buf, result }) = queue.wait() else {
                    panic!("not a write")
                };
                assert_eq!(buf.len(), PAGE);
                assert_eq!(kind(result), io::ErrorKind::InvalidInput, "{len} {offset}");
            }
            #[allow(clippy::reversed_empty_ranges)]
            let ranges: [Range<usize>; 4] =
                [PAGE + 1..PAGE + 1, 0..PAGE + 1, PAGE * 2..PAGE * 3, PAGE..0];
            for range in ranges {
                let mut block = Arc::new(page());
                queue.write_shared(3, &sink, &block, range.clone(), 0);
                let Some(Completion::WriteShared { id: 3, result }) = queue.wait() else {
                    panic!("not a shared write")
                };
                assert_eq!(kind(result), io::ErrorKind::InvalidInput, "{range:?}");
                assert!(
                    Arc::get_mut(&mut block).is_some(),
                    "the block is given back"
                );
            }
        }
    });
}

#[test]
fn an_empty_request_within_its_buffer_succeeds() {
    each(|queue| {
        for with_fd in [true, false] {
            let sink: Arc<dyn Sink> = Plain::new(with_fd);
            queue.write_shared(1, &sink, &Arc::new(page()), PAGE..PAGE, 0);
            assert!(matches!(
                queue.wait(),
                Some(Completion::WriteShared {
                    id: 1,
                    result: Ok(())
                })
            ));
        }
    });
}

#[test]
fn a_panicking_source_or_sink_is_an_error_and_the_buffer_comes_back() {
    each(|queue| {
        let make = |in_fd, file| Arc::new(Panics { in_fd, file });
        let of_file = || Some(tempfile::tempfile().unwrap());
        for panics in [make(false, None), make(true, None), make(false, of_file())] {
            let (source, sink): (Arc<dyn Source>, Arc<dyn Sink>) =
                (Arc::clone(&panics) as _, Arc::clone(&panics) as _);
            queue.read(1, &source, page(), PAGE, 0);
            let Some(Completion::Read {
                id: 1,
                buf,
                result: Err(_),
            }) = queue.wait()
            else {
                panic!("not a failed read")
            };
            queue.write(2, &sink, buf, PAGE, 0);
            let Some(Completion::Write {
                id: 2,
                buf,
                result: Err(_),
            }) = queue.wait()
            else {
                panic!("not a failed write")
            };
            queue.write_shared(3, &sink, &Arc::new(buf), 0..PAGE, 0);
            assert!(matches!(
                queue.wait(),
                Some(Completion::WriteShared {
                    id: 3,
                    result: Err(_)
                })
            ));
            queue.run(Box::new(|| panic!("expected by this test")));
            assert!(matches!(queue.wait(), Some(Completion::Panicked)));
        }
        // The queue still works after that.
        let source: Arc<dyn Source> = Plain::new(true);
        queue.read(5, &source, page(), PAGE, 0);
        assert!(matches!(
            queue.wait(),
            Some(Completion::Read {
                id: 5,
                result: Ok(PAGE),
                ..
            })
        ));
    });
}
