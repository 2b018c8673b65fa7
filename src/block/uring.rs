//! The queue for kernels with io_uring (Linux 5.6 and later, if it is not disabled). It
//! needs no thread for each read and write. This is one of the few files that may use
//! `unsafe`; ARCHITECTURE.md lists them.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, types};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::buffer::AlignedBuf;
use super::queue::{Completion, Job, Queue, Sink, check, guarded};
use super::source::Source;
use super::threads::ThreadQueue;

/// The number of entries of the ring, more than any copy has in flight.
const ENTRIES: u32 = 128;

/// The user data of the poll that wakes this queue when a thread has completed a request.
const WAKE: u64 = u64::MAX;

/// The memory of a request. It does not move until the request has completed.
enum Bytes {
    /// A buffer that only this request uses.
    Own(AlignedBuf),
    /// A part of a block that others read too.
    Shared(Arc<AlignedBuf>, usize),
}

/// Keeps the file descriptor open as long as the kernel has the request.
#[allow(dead_code)]
enum Target {
    Read(Arc<dyn Source>),
    Write(Arc<dyn Sink>),
}

/// A request that the kernel has.
struct Pending {
    id: u64,
    target: Target,
    /// The target's file descriptor, which is open as long as the target exists.
    fd: RawFd,
    /// The end of every read but the last is a multiple of this.
    alignment: usize,
    bytes: Bytes,
    len: usize,
    done: usize,
    offset: u64,
}

/// A [`Queue`] that passes reads and writes to io_uring. A few threads handle jobs, and
/// sources and sinks without a file descriptor.
pub struct UringQueue<T> {
    ring: IoUring,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    in_ring: usize,
    ready: VecDeque<Completion<T>>,
    threads: ThreadQueue<T>,
    wake: Arc<EventFd>,
    wake_armed: bool,
}

impl<T: Send + 'static> UringQueue<T> {
    /// Creates a ring, and `threads` threads in addition.
    ///
    /// # Errors
    /// The kernel has no io_uring, lacks a part that is needed, or forbids its use.
    pub fn new(threads: usize) -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::PollAdd::CODE,
        ];
        if needed.iter().any(|&code| !probe.is_supported(code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let notify = Arc::clone(&wake);
        let threads = ThreadQueue::with_notice(
            threads,
            // The counter can be full only after 2^64 writes.
            Arc::new(move || {
                let _ = notify.write(1);
            }),
        )?;
        Ok(Self {
            ring,
            pending: Vec::new(),
            free: Vec::new(),
            in_ring: 0,
            ready: VecDeque::new(),
            threads,
            wake,
            wake_armed: false,
        })
    }
}

impl<T> UringQueue<T> {
    fn submit(&mut self, pending: Pending) {
        let slot = self.keep(pending);
        self.push(slot);
    }

    /// Stores a request that is passed to the kernel. Returns its slot.
    fn keep(&mut self, pending: Pending) -> usize {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.pending.push(None);
                self.pending.len() - 1
            }
        };
        self.in_ring += 1;
        self.pending[slot] = Some(pending);
        slot
    }

    /// Passes the rest of the request in `slot` to the kernel.
    fn push(&mut self, slot: usize) {
        let Some(request) = &mut self.pending[slot] else {
            return;
        };
        let len = u32::try_from(request.len - request.done).unwrap_or(u32::MAX);
        let offset = request.offset + request.done as u64;
        let done = request.done;
        let fd = types::Fd(request.fd);
        let entry = match (&request.target, &mut request.bytes) {
            (Target::Read(_), Bytes::Own(buf)) => {
                opcode::Read::new(fd, buf[done..].as_mut_ptr(), len)
                    .offset(offset)
                    .build()
            }
            (_, bytes) => {
                let from = match bytes {
                    Bytes::Own(buf) => &buf[done..],
                    Bytes::Shared(block, start) => &block[*start + done..],
                };
                opcode::Write::new(fd, from.as_ptr(), len)
                    .offset(offset)
                    .build()
            }
        };
        self.push_entry(&entry.user_data(slot as u64));
    }

    fn push_entry(&mut self, entry: &io_uring::squeue::Entry) {
        loop {
            // SAFETY: the entry's memory and descriptor belong to the `Pending` in its slot:
            // an owned map that does not move, or an `Arc` of one, and an `Arc` of the source
            // or sink, which keeps the descriptor open. The `Pending` is dropped only after
            // its completion has been taken. It is made only of a range that `check` found
            // to lie within its memory, and `done` is at most `len`.
            // The poll's descriptor lives as long as the ring.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                break;
            }
            self.enter(0);
        }
        self.enter(0);
    }

    /// Submits the queued entries, and waits for `want` completions.
    fn enter(&mut self, want: usize) {
        // EINTR and EBUSY mean to try again, which the loops of the callers do. The
        // completions report all other errors.
        if let Err(e) = self.ring.submit_and_wait(want) {
            log::trace!("io_uring_enter: {e}");
        }
    }

    fn reap(&mut self) {
        let done: Vec<(u64, i32)> = self
            .ring
            .completion()
            .map(|cqe| (cqe.user_data(), cqe.result()))
            .collect();
        for (slot, result) in done {
            if slot == WAKE {
                self.wake_armed = false;
                // Nothing to read if two notices were combined in one.
                let _ = self.wake.read();
                self.ready.extend(self.threads.ready());
            } else {
                self.finish(slot as usize, result);
            }
        }
    }

    fn finish(&mut self, slot: usize, result: i32) {
        let Some(request) = &mut self.pending[slot] else {
            return;
        };
        let result = match usize::try_from(result) {
            Err(_) => {
                let errno = -result;
                if errno == libc::EINTR || errno == libc::EAGAIN {
                    return self.push(slot);
                }
                Err(io::Error::from_raw_os_error(errno))
            }
            Ok(n) => {
                request.done += n;
                let whole = request.done == request.len;
                let goes_on = match &request.target {
                    // A direct read that ends within a sector has reached the end of the source.
                    Target::Read(_) => n > 0 && request.done % request.alignment == 0,
                    Target::Write(_) => n > 0,
                };
                if !whole && goes_on {
                    return self.push(slot);
                }
                Ok(request.done)
            }
        };
        let Some(request) = self.pending[slot].take() else {
            return;
        };
        self.free.push(slot);
        self.in_ring -= 1;
        let written = |result: io::Result<usize>| match result {
            Ok(n) if n < request.len => Err(io::ErrorKind::WriteZero.into()),
            other => other.map(drop),
        };
        let id = request.id;
        self.ready.push_back(match (request.target, request.bytes) {
            (Target::Read(_), Bytes::Own(buf)) => Completion::Read { id, buf, result },
            (_, Bytes::Own(buf)) => {
                let result = written(result);
                Completion::Write { id, buf, result }
            }
            (_, Bytes::Shared(block, _)) => {
                drop(block);
                let result = written(result);
                Completion::WriteShared { id, result }
            }
        });
    }
}

fn descriptor(sink: &Arc<dyn Sink>) -> io::Result<Option<RawFd>> {
    guarded(|| Ok(sink.fd().map(|fd| fd.as_raw_fd())))
}

impl<T> Queue<T> for UringQueue<T> {
    fn read(
        &mut self,
        id: u64,
        source: &Arc<dyn Source>,
        buf: AlignedBuf,
        len: usize,
        offset: u64,
    ) {
        let ask = || Ok(source.fd().map(|fd| (fd.as_raw_fd(), source.alignment())));
        match check(&(0..len), buf.len(), offset).and_then(|()| guarded(ask)) {
            Ok(Some((fd, alignment))) => self.submit(Pending {
                id,
                target: Target::Read(Arc::clone(source)),
                fd,
                alignment: alignment.max(1),
                bytes: Bytes::Own(buf),
                len,
                done: 0,
                offset,
            }),
            Ok(None) => self.threads.read(id, source, buf, len, offset),
            Err(e) => {
                let result = Err(e);
                self.ready.push_back(Completion::Read { id, buf, result });
            }
        }
    }

    fn write(&mut self, id: u64, sink: &Arc<dyn Sink>, buf: AlignedBuf, len: usize, offset: u64) {
        match check(&(0..len), buf.len(), offset).and_then(|()| descriptor(sink)) {
            Ok(Some(fd)) => self.submit(Pending {
                id,
                target: Target::Write(Arc::clone(sink)),
                fd,
                alignment: 1,
                bytes: Bytes::Own(buf),
                len,
                done: 0,
                offset,
            }),
            Ok(None) => self.threads.write(id, sink, buf, len, offset),
            Err(e) => {
                let result = Err(e);
                self.ready.push_back(Completion::Write { id, buf, result });
            }
        }
    }

    fn write_shared(
        &mut self,
        id: u64,
        sink: &Arc<dyn Sink>,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        offset: u64,
    ) {
        match check(&range, block.len(), offset).and_then(|()| descriptor(sink)) {
            Ok(Some(fd)) => self.submit(Pending {
                id,
                target: Target::Write(Arc::clone(sink)),
                fd,
                alignment: 1,
                bytes: Bytes::Shared(Arc::clone(block), range.start),
                len: range.len(),
                done: 0,
                offset,
            }),
            Ok(None) => self.threads.write_shared(id, sink, block, range, offset),
            Err(e) => {
                let result = Err(e);
                self.ready.push_back(Completion::WriteShared { id, result });
            }
        }
    }

    fn run(&mut self, job: Job<T>) {
        self.threads.run(job);
    }

    fn wait(&mut self) -> Option<Completion<T>> {
        loop {
            if let Some(completion) = self.ready.pop_front() {
                return Some(completion);
            }
            if self.in_flight() == 0 {
                return None;
            }
            if self.in_ring == 0 {
                // Only threads have work, so the ring is not needed.
                return self.threads.wait();
            }
            if self.threads.in_flight() > 0 && !self.wake_armed {
                let poll = opcode::PollAdd::new(
                    types::Fd(self.wake.as_fd().as_raw_fd()),
                    libc::POLLIN as u32,
                );
                self.wake_armed = true;
                self.push_entry(&poll.build().user_data(WAKE));
            }
            self.enter(1);
            self.reap();
        }
    }

    fn in_flight(&self) -> usize {
        self.in_ring + self.threads.in_flight() + self.ready.len()
    }
}

impl<T> Drop for UringQueue<T> {
    /// The kernel may still write into the buffers, so none is dropped before its request ends.
    fn drop(&mut self) {
        while self.in_ring > 0 {
            self.enter(1);
            self.reap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{DirectPolicy, FileSource};

    /// Returns a queue, or `None` with a message if io_uring is not available.
    fn queue() -> Option<UringQueue<()>> {
        use std::io::Write;
        let tell = |e: &io::Error| writeln!(io::stderr(), "SKIPPED: no io_uring here: {e}");
        UringQueue::new(2).inspect_err(|e| drop(tell(e))).ok()
    }

    #[test]
    fn reads_of_an_unaligned_file_and_jobs_complete_together() {
        let Some(mut queue) = queue() else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let source: Arc<dyn Source> =
            Arc::new(FileSource::open(&path, DirectPolicy::Auto).unwrap());
        for n in 0..16 {
            let buf = AlignedBuf::new(64 * 1024).unwrap();
            queue.read(n, &source, buf, 64 * 1024, n * 64 * 1024);
            queue.run(Box::new(|| ()));
        }
        let (mut seen, mut jobs) = (vec![0; bytes.len()], 0);
        while let Some(completion) = queue.wait() {
            match completion {
                Completion::Read { id, buf, result } => {
                    let at = id as usize * 64 * 1024;
                    let n = result.unwrap();
                    seen[at..at + n].copy_from_slice(&buf[..n]);
                }
                Completion::Job(()) => jobs += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(jobs, 16);
        assert!(seen == bytes);
        assert_eq!(queue.in_flight(), 0);
    }

    #[test]
    fn a_read_that_fails_with_eagain_or_eintr_is_repeated() {
        let Some(mut queue) = queue() else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"read").unwrap();
        let source: Arc<dyn Source> =
            Arc::new(FileSource::open(&path, DirectPolicy::Never).unwrap());
        let file = std::fs::File::open(&path).unwrap();
        for errno in [libc::EAGAIN, libc::EINTR] {
            // As if the kernel had accepted the request and answered.
            let slot = queue.keep(Pending {
                id: 1,
                fd: file.as_raw_fd(),
                target: Target::Read(Arc::clone(&source)),
                alignment: 1,
                bytes: Bytes::Own(AlignedBuf::new(4096).unwrap()),
                len: 4,
                done: 0,
                offset: 0,
            });
            queue.finish(slot, -errno);
            let Some(Completion::Read { buf, result, .. }) = queue.wait() else {
                panic!("not a read")
            };
            assert_eq!(result.unwrap(), 4);
            assert_eq!(&buf[..4], b"read");
        }
    }

    #[test]
    fn a_queue_can_be_dropped_with_reads_in_flight() {
        let Some(mut queue) = queue() else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        let source: Arc<dyn Source> =
            Arc::new(FileSource::open(&path, DirectPolicy::Auto).unwrap());
        for n in 0..8 {
            queue.read(
                n,
                &source,
                AlignedBuf::new(1 << 17).unwrap(),
                1 << 17,
                n << 17,
            );
        }
    }
}
