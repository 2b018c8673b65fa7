//! SHA-256 of several streams of blocks at once, on other threads.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use sha2::{Digest, Sha256};

use crate::block::{AlignedBuf, Queue};
use crate::error::{Error, Kind, Result};

/// A SHA-256 sum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256Sum(pub [u8; 32]);

impl Sha256Sum {
    /// The sum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The sum that `hasher` has come to.
    pub fn from_hasher(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256Sum {
    type Err = ();

    /// 64 hexadecimal digits of either case.
    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let digits = text.as_bytes();
        let mut sum = [0; 32];
        if digits.len() != 64 {
            return Err(());
        }
        for (byte, pair) in sum.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| (d as char).to_digit(16).ok_or(());
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(sum))
    }
}

/// A piece of a block.
type Piece = (Arc<AlignedBuf>, Range<usize>);

struct Lane {
    /// Here while no job has it.
    hasher: Option<Sha256>,
    pending: Vec<Piece>,
    closed: bool,
}

/// Hashes several files at once, each in order: a lane a file, at most one job a
/// lane at any time, run by whatever [`Queue`] the owner waits on.
///
/// A lane holds the blocks that it has not hashed yet, so an owner whose buffers
/// are all here must wait on the queue: while a block is held a job is in flight.
pub struct Lanes {
    token_bit: u64,
    lanes: HashMap<u64, Lane>,
    send: Sender<(u64, Sha256)>,
    done: Receiver<(u64, Sha256)>,
}

impl Lanes {
    /// No lanes yet. Their jobs' tokens are the lanes' ids with `token_bit` set.
    pub fn new(token_bit: u64) -> Self {
        let (send, done) = mpsc::channel();
        Self {
            token_bit,
            lanes: HashMap::new(),
            send,
            done,
        }
    }

    /// Whether a completion with this token is one of its jobs.
    pub fn owns(&self, token: u64) -> bool {
        token & self.token_bit != 0
    }

    /// Opens the lane `id` (below the token bit).
    pub fn open(&mut self, id: u64) {
        let lane = Lane {
            hasher: Some(Sha256::new()),
            pending: Vec::new(),
            closed: false,
        };
        self.lanes.insert(id, lane);
    }

    /// Hashes the next piece of lane `id`.
    pub fn feed(
        &mut self,
        id: u64,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        queue: &mut dyn Queue,
    ) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.pending.push((Arc::clone(block), range));
        }
        self.start(id, queue);
    }

    /// Nothing more comes for lane `id`. Returns its sum when it is known already;
    /// else [`Lanes::complete`] will.
    pub fn close(&mut self, id: u64) -> Option<Sha256Sum> {
        self.lanes.get_mut(&id)?.closed = true;
        self.finished(id)
    }

    /// Forgets lane `id`; what it has in flight ends by itself.
    pub fn abandon(&mut self, id: u64) {
        self.lanes.remove(&id);
    }

    /// Takes the completion of a job: the lane and its sum, when that was the last.
    ///
    /// # Errors
    /// When a job was lost, which would be a bug of ours.
    pub fn complete(&mut self, queue: &mut dyn Queue) -> Result<Option<(u64, Sha256Sum)>> {
        let Ok((id, hasher)) = self.done.try_recv() else {
            return Err(Error::new(
                Kind::Io,
                "a hashing thread died; this is a bug in lbpayload, please report it",
            ));
        };
        let Some(lane) = self.lanes.get_mut(&id) else {
            return Ok(None);
        };
        lane.hasher = Some(hasher);
        if !lane.pending.is_empty() {
            self.start(id, queue);
            return Ok(None);
        }
        Ok(self.finished(id).map(|sum| (id, sum)))
    }

    fn start(&mut self, id: u64, queue: &mut dyn Queue) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let Some(mut hasher) = lane.hasher.take() else {
            return;
        };
        let pieces = std::mem::take(&mut lane.pending);
        let send = self.send.clone();
        let job = move || {
            for (block, range) in &pieces {
                hasher.update(&block[range.clone()]);
            }
            // The blocks go back before the owner hears of it, so that it finds
            // itself their only holder.
            drop(pieces);
            let _ = send.send((id, hasher));
        };
        queue.run(self.token_bit | id, Box::new(job));
    }

    fn finished(&mut self, id: u64) -> Option<Sha256Sum> {
        let lane = self.lanes.get(&id)?;
        if !lane.closed || !lane.pending.is_empty() || lane.hasher.is_none() {
            return None;
        }
        self.lanes.remove(&id)?.hasher.map(Sha256Sum::from_hasher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ThreadQueue;

    #[test]
    fn sums_are_read_and_written_as_sha256sum_does() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256Sum::of(b"").to_string(), empty);
        assert_eq!(empty.to_uppercase().parse(), Ok(Sha256Sum::of(b"")));
        assert!(empty[1..].parse::<Sha256Sum>().is_err());
        assert!(format!("g{}", &empty[1..]).parse::<Sha256Sum>().is_err());
        assert!(format!("é{}", &empty[2..]).parse::<Sha256Sum>().is_err());
    }

    #[test]
    fn lanes_hash_interleaved_files_each_in_order() {
        let mut queue = ThreadQueue::new(3).unwrap();
        let mut lanes = Lanes::new(1 << 40);
        let mut buf = AlignedBuf::new(8192).unwrap();
        for (i, b) in buf.iter_mut().enumerate() {
            *b = (i * 7 % 256) as u8;
        }
        let block = Arc::new(buf);
        for id in 0..5 {
            lanes.open(id);
        }
        for step in 0..64 {
            for id in 0..5 {
                let from = (step * 97 + id as usize) % 4096;
                lanes.feed(id, &block, from..from + 100, &mut queue);
            }
        }
        let mut sums: Vec<_> = (0..5)
            .filter_map(|id| Some((id, lanes.close(id)?)))
            .collect();
        while queue.wait().is_some() {
            sums.extend(lanes.complete(&mut queue).unwrap());
        }
        assert_eq!(sums.len(), 5);
        for (id, sum) in sums {
            let mut plain = Vec::new();
            for step in 0..64 {
                let from = (step * 97 + id as usize) % 4096;
                plain.extend_from_slice(&block[from..from + 100]);
            }
            assert_eq!(sum, Sha256Sum::of(&plain), "lane {id}");
        }
        assert_eq!(Arc::strong_count(&block), 1);
    }
}
