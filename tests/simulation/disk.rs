//! Disks that are read.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lbpayload::block::{ReadMode, Source};

use crate::case::{Case, Fault, Random};
use crate::power::Power;

/// What is wrong with a copy for good.
#[derive(Debug, Clone)]
pub struct Medium {
    pub path: PathBuf,
    /// The bytes with what changed on the disk, as far as the disk goes.
    pub bytes: Vec<u8>,
    pub alignment: usize,
    pub sector: usize,
    /// The numbers of the sectors that can never be read.
    pub bad: Vec<usize>,
    /// The sectors that return other bytes at each read.
    pub erratic: Vec<usize>,
}

impl Medium {
    /// Creates copy `n` of `plain`. Only the bytes in `data` change.
    pub fn new(case: &Case, n: usize, plain: &[u8], data: &[Range<usize>]) -> Self {
        let random = &mut case.random(&format!("medium {n}"));
        let (alignment, sector) = random.pick(&[(1, 4096), (512, 512), (512, 4096), (4096, 4096)]);
        let mut bytes = plain.to_vec();
        if alignment > 1 {
            bytes.resize(bytes.len().next_multiple_of(4096), 0);
        }
        let full = data.iter().filter(|range| !range.is_empty());
        let full: Vec<&Range<usize>> = full.collect();
        let mut erratic = Vec::new();
        if case.has(Fault::Flips, 4) && random.one_in(2) && !full.is_empty() {
            for _ in 0..1 + random.below(3) {
                let range = full[random.below(full.len())];
                let at = range.start + random.below(range.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
        if case.has(Fault::Erratic, 12) && random.one_in(2) && !full.is_empty() {
            let range = full[random.below(full.len())];
            erratic.push(range.start + random.below(range.len()));
        }
        let mut bad = Vec::new();
        if case.has(Fault::BadSectors, 2) {
            for _ in 0..random.below(8) {
                bad.push(random.below(bytes.len().div_ceil(sector)));
            }
        }
        if case.has(Fault::CutOff, 8) && random.one_in(2) {
            let end = random.below(bytes.len());
            bytes.truncate(end - end % alignment.max(1));
        }
        Self {
            path: format!("copy-{n}").into(),
            bytes,
            alignment,
            sector,
            bad,
            erratic,
        }
    }

    /// Returns whether a byte can be read.
    pub fn is_readable(&self, at: usize) -> bool {
        at < self.bytes.len() && !self.bad.contains(&(at / self.sector))
    }

    fn first_bad(&self, range: &Range<usize>) -> Option<usize> {
        let starts = self.bad.iter().map(|&n| n * self.sector);
        starts
            .filter(|start| *start < range.end && start + self.sector > range.start)
            .map(|start| start.max(range.start))
            .min()
    }
}

/// A medium, and what goes wrong while it is read.
pub struct Disk {
    medium: Medium,
    power: Arc<Power>,
    state: Mutex<State>,
    short: bool,
    interrupted: bool,
    errors: bool,
}

struct State {
    random: Random,
    reads: u64,
    gone_at: Option<u64>,
}

impl Disk {
    /// `calm` means that nothing goes wrong that is not wrong for good.
    pub fn new(case: &Case, n: usize, run: usize, medium: Medium, power: Arc<Power>) -> Self {
        let mut random = case.random(&format!("disk {n} in run {run}"));
        let calm = run >= crate::import::LAST_RUN;
        let gone = !calm && case.has(Fault::Gone, 16) && random.one_in(2);
        let gone_at = gone.then(|| random.below(40) as u64 + 1);
        Self {
            short: case.has(Fault::Short, 3),
            interrupted: case.has(Fault::Interrupted, 3),
            errors: !calm && case.has(Fault::ReadErrors, 4),
            medium,
            power,
            state: Mutex::new(State {
                random,
                reads: 0,
                gone_at,
            }),
        }
    }

    pub fn is_gone(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.gone_at.is_some_and(|at| state.reads >= at)
    }
}

impl Source for Disk {
    fn path(&self) -> &Path {
        &self.medium.path
    }

    fn len(&self) -> u64 {
        self.medium.bytes.len() as u64
    }

    fn alignment(&self) -> usize {
        self.medium.alignment
    }

    fn sector(&self) -> usize {
        self.medium.sector
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let medium = &self.medium;
        let aligned = offset % medium.alignment as u64 == 0
            && buf.len() % medium.alignment == 0
            && (medium.alignment == 1 || buf.as_ptr() as usize % 512 == 0);
        if !aligned {
            let path = medium.path.display();
            self.power
                .broken(|| format!("unaligned read of {path}: {} at {offset}", buf.len()));
        }
        self.power.call()?;
        let state = &mut *self.state.lock().unwrap();
        state.reads += 1;
        if state.reads > 20_000 {
            self.power
                .broken(|| "more than 20,000 reads of a disk".to_owned());
            return Err(io::Error::other("too many reads"));
        }
        if state.gone_at.is_some_and(|at| state.reads >= at) {
            return Err(self.power.fault(libc::ENODEV));
        }
        if self.interrupted && state.random.one_in(10) {
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        if self.errors && state.random.one_in(12) {
            return Err(self.power.fault(libc::EIO));
        }
        let start = (offset as usize).min(medium.bytes.len());
        let mut end = (start + buf.len()).min(medium.bytes.len());
        if let Some(bad) = medium.first_bad(&(start..end)) {
            if medium.alignment > 1 || bad == start {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            end = bad;
        }
        if self.short && end - start > medium.alignment && state.random.one_in(4) {
            let units = (end - start - 1) / medium.alignment;
            end = start + (1 + state.random.below(units)) * medium.alignment;
        }
        buf[..end - start].copy_from_slice(&medium.bytes[start..end]);
        for &at in &medium.erratic {
            if (start..end).contains(&at) {
                buf[at - start] ^= state.random.next() as u8;
            }
        }
        Ok(end - start)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }

    fn is_device(&self) -> bool {
        true
    }
}
