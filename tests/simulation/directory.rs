//! A destination directory, and what is left of it when the power is cut.
//!
//! Nothing is promised of what was not flushed: each sector of a file may be old or new, and each
//! name may be there or not. A flush that fails loses what it was to write, as in Linux, and a
//! later flush that succeeds does not bring it back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use lbpayload::block::Sink;
use lbpayload::durable::{Store, WriteMode};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::case::{Case, Fault, Random};
use crate::power::{Power, torn};

/// The files of a directory by name.
pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct Node {
    bytes: Vec<u8>,
    /// Holds the bytes instead, since the file was opened again.
    file: Option<File>,
    /// What is on the disk for sure.
    flushed: Option<Vec<u8>>,
    /// A flush has failed.
    lost: bool,
    finished: bool,
}

impl Node {
    fn bytes(&self) -> Vec<u8> {
        let Some(file) = &self.file else {
            return self.bytes.clone();
        };
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn after_a_cut(&self, random: &mut Random) -> Vec<u8> {
        let bytes = self.bytes();
        match &self.flushed {
            Some(flushed) if *flushed == bytes => bytes,
            flushed => torn(flushed.as_deref().unwrap_or_default(), &bytes, random),
        }
    }
}

type Shared = Arc<Mutex<Node>>;

#[derive(Default)]
struct State {
    staged: BTreeMap<u64, Shared>,
    named: BTreeMap<String, Shared>,
    /// What each name may refer to after a cut. The last is what it refers to now.
    possible: BTreeMap<String, Vec<Option<Shared>>>,
    /// The names that are on the disk for sure.
    flushed: BTreeMap<String, Shared>,
    random: Option<Random>,
}

impl State {
    fn random(&mut self) -> &mut Random {
        self.random.get_or_insert(Random::new(0))
    }
}

/// A destination in memory.
pub struct SimulatedStore {
    power: Arc<Power>,
    state: Mutex<State>,
    mode: WriteMode,
    write_errors: bool,
    flush_errors: bool,
    lies: bool,
}

impl SimulatedStore {
    pub fn new(case: &Case, run: usize, files: &Files, power: Arc<Power>) -> Self {
        let mut random = case.random(&format!("store in run {run}"));
        let calm = run >= crate::import::LAST_RUN;
        let mut state = State::default();
        for (name, bytes) in files {
            let node = Arc::new(Mutex::new(Node {
                bytes: bytes.clone(),
                flushed: Some(bytes.clone()),
                finished: true,
                ..Node::default()
            }));
            state.named.insert(name.clone(), Arc::clone(&node));
            state.flushed.insert(name.clone(), node);
        }
        let mode = random.pick(&[WriteMode::Direct, WriteMode::Buffered]);
        state.random = Some(random);
        Self {
            write_errors: !calm && case.has(Fault::WriteErrors, 4),
            flush_errors: !calm && case.has(Fault::FlushErrors, 6),
            lies: !calm && case.has(Fault::Lies, 8),
            power,
            state: Mutex::new(state),
            mode,
        }
    }

    /// Returns whether what is promised for a cut of the power does not count.
    pub fn lies(&self) -> bool {
        self.lies
    }

    /// Returns the files that exist after a cut of the power, or now.
    pub fn left(&self, power_cut: bool) -> Files {
        let state = &mut *self.state.lock().unwrap();
        if !power_cut {
            let named = state.named.iter();
            return named
                .map(|(name, node)| (name.clone(), node.lock().unwrap().bytes()))
                .collect();
        }
        let mut random = state.random().clone();
        let mut left = state.flushed.clone();
        for (name, possible) in &state.possible {
            match random.pick(&(0..possible.len()).collect::<Vec<_>>()) {
                n if possible[n].is_some() => {
                    left.insert(name.clone(), possible[n].clone().unwrap());
                }
                _ => drop(left.remove(name)),
            }
        }
        left.iter()
            .map(|(name, node)| (name.clone(), node.lock().unwrap().after_a_cut(&mut random)))
            .collect()
    }

    /// Counts a call that may fail.
    fn step(&self, state: &mut State) -> io::Result<bool> {
        let dies = self.power.call()?;
        if self.write_errors && state.random().one_in(25) {
            let errno = state
                .random()
                .pick(&[libc::EIO, libc::ENOSPC, libc::EDQUOT]);
            return Err(self.power.fault(errno));
        }
        Ok(dies)
    }

    fn node(state: &State, slot: u64) -> io::Result<Shared> {
        let node = state.staged.get(&slot).cloned();
        node.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn after_the_end<T>() -> io::Result<T> {
    Err(io::Error::other("the end"))
}

impl Store for SimulatedStore {
    fn mode(&self) -> WriteMode {
        self.mode
    }

    fn create(&self, slot: u64, _size: u64) -> io::Result<Arc<dyn Sink>> {
        let state = &mut *self.state.lock().unwrap();
        if self.step(state)? {
            return after_the_end();
        }
        let node = Shared::default();
        if state.staged.insert(slot, Arc::clone(&node)).is_some() {
            self.power
                .broken(|| format!("slot {slot} is created twice"));
        }
        Ok(Arc::new(SimulatedSink {
            node,
            aligned: self.mode == WriteMode::Direct,
            power: Arc::clone(&self.power),
            random: Mutex::new(Random::new(state.random().next())),
            errors: self.write_errors,
        }))
    }

    fn put(&self, slot: u64, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.state.lock().unwrap();
        if self.step(state)? {
            return after_the_end();
        }
        let node = Node {
            bytes: bytes.to_vec(),
            finished: true,
            ..Node::default()
        };
        let node = Arc::new(Mutex::new(node));
        if state.staged.insert(slot, node).is_some() {
            self.power.broken(|| format!("slot {slot} is put twice"));
        }
        Ok(())
    }

    fn reopen(&self, slot: u64, size: u64) -> io::Result<File> {
        let state = &mut *self.state.lock().unwrap();
        if self.step(state)? {
            return after_the_end();
        }
        let node = Arc::clone(state.staged.entry(slot).or_default());
        let node = &mut *node.lock().unwrap();
        if node.file.is_none() {
            let file = File::from(memfd_create("staged", MemfdFlags::CLOEXEC)?);
            file.write_all_at(&node.bytes, 0)?;
            node.file = Some(file);
        }
        let file = node.file.as_ref().unwrap();
        file.set_len(size)?;
        node.finished = true;
        file.try_clone()
    }

    fn forget(&self, _slot: u64) {}

    fn discard(&self, slot: u64) -> io::Result<()> {
        let state = &mut *self.state.lock().unwrap();
        if self.step(state)? {
            return after_the_end();
        }
        match state.staged.remove(&slot) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn inherit(&self, slot: u64, name: &str) -> io::Result<()> {
        let state = &mut *self.state.lock().unwrap();
        if self.step(state)? {
            return after_the_end();
        }
        if !state.named.contains_key(name) {
            self.power
                .broken(|| format!("{name} is to be replaced and does not exist"));
        }
        Self::node(state, slot).map(drop)
    }

    fn flush(&self) -> io::Result<()> {
        let state = &mut *self.state.lock().unwrap();
        let dies = self.power.call()?;
        let fails = self.flush_errors && state.random().one_in(3);
        let lies = self.lies && state.random().one_in(2);
        for node in state.staged.values().chain(state.named.values()) {
            let node = &mut *node.lock().unwrap();
            if lies || node.lost {
                continue;
            }
            if fails {
                node.lost = node.flushed.as_deref() != Some(&node.bytes());
            } else if !dies {
                node.flushed = Some(node.bytes());
            }
        }
        match (dies, fails) {
            (true, _) => after_the_end(),
            (_, true) => Err(self.power.fault(libc::EIO)),
            _ => Ok(()),
        }
    }

    fn publish(&self, slot: u64, name: &str, replace: bool) -> io::Result<()> {
        let state = &mut *self.state.lock().unwrap();
        let dies = self.step(state)?;
        let node = Self::node(state, slot)?;
        if !node.lock().unwrap().finished {
            self.power
                .broken(|| format!("{name} gets its name and is not finished"));
        }
        if !replace && state.named.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.staged.remove(&slot);
        let before = state.named.insert(name.to_owned(), Arc::clone(&node));
        let possible = state.possible.entry(name.to_owned());
        possible.or_insert_with(|| vec![before]).push(Some(node));
        if dies { after_the_end() } else { Ok(()) }
    }

    fn flush_names(&self) -> io::Result<()> {
        let state = &mut *self.state.lock().unwrap();
        let dies = self.power.call()?;
        if self.flush_errors && state.random().one_in(3) {
            return Err(self.power.fault(libc::EIO));
        }
        let lies = self.lies && state.random().one_in(2);
        if !dies && !lies {
            state.possible.clear();
            state.flushed = state.named.clone();
        }
        if dies { after_the_end() } else { Ok(()) }
    }
}

/// A staged file that is written block by block.
struct SimulatedSink {
    node: Shared,
    aligned: bool,
    power: Arc<Power>,
    random: Mutex<Random>,
    errors: bool,
}

impl Sink for SimulatedSink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let random = &mut *self.random.lock().unwrap();
        let dies = self.power.call()?;
        if self.aligned && (offset % 4096 != 0 || buf.len() % 4096 != 0) {
            self.power
                .broken(|| format!("unaligned write: {} at {offset}", buf.len()));
        }
        let node = &mut *self.node.lock().unwrap();
        if node.finished {
            self.power
                .broken(|| "a file is written after it was finished".to_owned());
        }
        let fails = self.errors && random.one_in(25);
        // A write that fails may have written a part.
        let len = if dies || fails {
            random.below(buf.len())
        } else {
            buf.len()
        };
        let end = offset as usize + len;
        if node.bytes.len() < end {
            node.bytes.resize(end, 0);
        }
        node.bytes[offset as usize..end].copy_from_slice(&buf[..len]);
        match (dies, fails) {
            (true, _) => after_the_end(),
            (_, true) => Err(self.power.fault(random.pick(&[libc::EIO, libc::ENOSPC]))),
            _ => Ok(()),
        }
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        if self.power.call()? {
            return after_the_end();
        }
        if self.errors && self.random.lock().unwrap().one_in(25) {
            return Err(self.power.fault(libc::EIO));
        }
        let node = &mut *self.node.lock().unwrap();
        node.bytes.resize(len as usize, 0);
        node.finished = true;
        Ok(())
    }
}
