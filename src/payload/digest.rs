//! Computes SHA-256 of several streams of blocks at once, on other threads.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::block::{AlignedBuf, Queue};

/// A SHA-256 sum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256Sum(pub [u8; 32]);

impl Sha256Sum {
    /// Returns the sum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns the sum of everything that `hasher` was given.
    pub fn from_hasher(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256Sum {
    type Err = ();

    /// Parses 64 hexadecimal digits of either case.
    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let mut sum = [0; 32];
        hex::decode_to_slice(text, &mut sum).map_err(drop)?;
        Ok(Self(sum))
    }
}

/// A part of a block.
type Piece = (Arc<AlignedBuf>, Range<usize>);

struct Lane {
    /// `None` while a job uses it.
    hasher: Option<Sha256>,
    pending: Vec<Piece>,
    closed: bool,
}

/// The result of a hashing job, for [`Lanes::complete`].
#[derive(Debug)]
pub struct Hashed {
    id: u64,
    hasher: Sha256,
}

/// Hashes several files at once, each in order.
///
/// Each file has a lane, and each lane has at most one job at any time, which runs on
/// the [`Queue`] that the owner waits on. A lane holds the blocks that it has not hashed
/// yet. An owner that has run out of buffers must therefore wait on the queue: while a
/// lane holds a block, a job is in flight.
#[derive(Default)]
pub struct Lanes(HashMap<u64, Lane>);

impl Lanes {
    /// Opens the lane `id`.
    pub fn open(&mut self, id: u64) {
        let lane = Lane {
            hasher: Some(Sha256::new()),
            pending: Vec::new(),
            closed: false,
        };
        self.0.insert(id, lane);
    }

    /// Hashes the next piece of lane `id`.
    pub fn feed<T: From<Hashed> + Send + 'static>(
        &mut self,
        id: u64,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        queue: &mut dyn Queue<T>,
    ) {
        if let Some(lane) = self.0.get_mut(&id) {
            lane.pending.push((Arc::clone(block), range));
            start(id, lane, queue);
        }
    }

    /// Marks lane `id` as complete. Returns its sum if it is known already; otherwise
    /// [`Lanes::complete`] returns it later.
    pub fn close(&mut self, id: u64) -> Option<Sha256Sum> {
        self.0.get_mut(&id)?.closed = true;
        self.finished(id)
    }

    /// Removes lane `id`. Its job in flight ends by itself.
    pub fn abandon(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// Takes the result of a job. Returns the lane and its sum if that was its last job.
    pub fn complete<T: From<Hashed> + Send + 'static>(
        &mut self,
        done: Hashed,
        queue: &mut dyn Queue<T>,
    ) -> Option<(u64, Sha256Sum)> {
        let lane = self.0.get_mut(&done.id)?;
        lane.hasher = Some(done.hasher);
        if !lane.pending.is_empty() {
            start(done.id, lane, queue);
            return None;
        }
        self.finished(done.id).map(|sum| (done.id, sum))
    }

    fn finished(&mut self, id: u64) -> Option<Sha256Sum> {
        let lane = self.0.get(&id)?;
        if !lane.closed || !lane.pending.is_empty() || lane.hasher.is_none() {
            return None;
        }
        self.0.remove(&id)?.hasher.map(Sha256Sum::from_hasher)
    }
}

fn start<T: From<Hashed> + Send + 'static>(id: u64, lane: &mut Lane, queue: &mut dyn Queue<T>) {
    let Some(mut hasher) = lane.hasher.take() else {
        return;
    };
    let pieces = std::mem::take(&mut lane.pending);
    queue.run(Box::new(move || {
        for (block, range) in &pieces {
            hasher.update(&block[range.clone()]);
        }
        // Release the blocks before the owner learns that the job has ended, so that the
        // owner then holds the only reference to them.
        drop(pieces);
        Hashed { id, hasher }.into()
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Completion, ThreadQueue};

    #[test]
    fn sums_are_read_and_written_as_sha256sum_does() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256Sum::of(b"").to_string(), empty);
        assert_eq!(empty.to_uppercase().parse(), Ok(Sha256Sum::of(b"")));
        assert!(empty[1..].parse::<Sha256Sum>().is_err());
        assert!(format!("+{}", &empty[1..]).parse::<Sha256Sum>().is_err());
        assert!(format!("g{}", &empty[1..]).parse::<Sha256Sum>().is_err());
        assert!(format!("é{}", &empty[2..]).parse::<Sha256Sum>().is_err());
    }

    #[test]
    fn lanes_hash_interleaved_files_each_in_order() {
        let mut queue = ThreadQueue::<Hashed>::new(3).unwrap();
        let mut lanes = Lanes::default();
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
        while let Some(Completion::Job(done)) = queue.wait() {
            sums.extend(lanes.complete(done, &mut queue));
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
