//! Trailers that are written, and payloads that are repaired in place, cut off at any call.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lbpayload::block::{AlignedBuf, ReadMode, Source, read_exact_at};
use lbpayload::protect::{RepairOptions, repair_source, walk};
use lbpayload::protection::{
    Geometry, Header, Healer, ProtectedSource, Target, Trailer, TrailerWriter, find,
};

use crate::case::{Case, Fault, Random};
use crate::power::{Power, Reached, reached, torn};
use crate::support::noise;
use crate::world::World;

const BLOCK: usize = 4096;
const MEMORY: usize = 8 << 20;

/// A disk that is read and written. What was not synced may be lost.
#[derive(Clone)]
struct Disk(Arc<Inner>);

struct Inner {
    power: Arc<Power>,
    seed: u64,
    state: Mutex<State>,
    errors: bool,
    flush_errors: bool,
    lies: bool,
    short: bool,
    interrupted: bool,
}

struct State {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    random: Random,
    /// The blocks that can never be read.
    bad: Vec<usize>,
    /// How often each place was read.
    tries: HashMap<u64, u64>,
}

impl Disk {
    fn new(case: &Case, run: usize, bytes: Vec<u8>, bad: Vec<usize>, power: &Arc<Power>) -> Self {
        let calm = run > 0;
        Self(Arc::new(Inner {
            power: Arc::clone(power),
            seed: case.random(&format!("reads in run {run}")).next(),
            errors: !calm && case.has(Fault::WriteErrors, 6),
            flush_errors: !calm && case.has(Fault::FlushErrors, 6),
            lies: !calm && case.has(Fault::Lies, 6),
            short: case.has(Fault::Short, 3),
            interrupted: case.has(Fault::Interrupted, 3),
            state: Mutex::new(State {
                synced: bytes.clone(),
                bytes,
                random: case.random(&format!("disk in run {run}")),
                bad,
                tries: HashMap::new(),
            }),
        }))
    }

    fn shared(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }

    /// Returns the bytes, after a cut of the power or now.
    fn left(&self, cut: bool) -> Vec<u8> {
        let state = &mut *self.0.state.lock().unwrap();
        match cut {
            true => {
                let mut synced = state.synced.clone();
                synced.resize(state.bytes.len().max(synced.len()), 0);
                let mut left = Vec::with_capacity(synced.len());
                for (old, new) in synced.chunks(512).zip(state.bytes.chunks(512)) {
                    let new_arrived = old == new || state.random.one_in(2);
                    left.extend(if new_arrived { new } else { old });
                }
                left
            }
            false => state.bytes.clone(),
        }
    }
}

impl Target for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        // A target reads all of it, as that of a file does.
        let mut done = 0;
        while done < buf.len() {
            match Source::read_at(self, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        if at % BLOCK != 0 || buf.len() % BLOCK != 0 {
            let rule = || format!("unaligned write: {} at {offset}", buf.len());
            self.0.power.broken(rule);
        }
        let dies = self.0.power.call()?;
        let state = &mut *self.0.state.lock().unwrap();
        let fails = self.0.errors && state.random.one_in(12);
        let end = at + buf.len();
        if state.bytes.len() < end {
            state.bytes.resize(end, 0);
        }
        if dies || fails {
            let old = state.bytes[at..end].to_vec();
            let mut cut = torn(&old, buf, &mut state.random);
            // A sector is never anything but old or new.
            for (n, sector) in cut.chunks_mut(512).enumerate() {
                let range = n * 512..n * 512 + sector.len();
                if *sector != old[range.clone()] {
                    sector.copy_from_slice(&buf[range]);
                }
            }
            state.bytes[at..end].copy_from_slice(&cut);
            return match dies {
                true => Err(io::Error::other("the end")),
                false => Err(self.0.power.fault(libc::EIO)),
            };
        }
        state.bytes[at..end].copy_from_slice(buf);
        // A bad block that is written becomes a good one.
        state
            .bad
            .retain(|bad| !(at / BLOCK..end / BLOCK).contains(bad));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let dies = self.0.power.call()?;
        let state = &mut *self.0.state.lock().unwrap();
        if dies {
            return Err(io::Error::other("the end"));
        }
        if self.0.flush_errors && state.random.one_in(3) {
            return Err(self.0.power.fault(libc::EIO));
        }
        if !(self.0.lies && state.random.one_in(2)) {
            state.synced = state.bytes.clone();
        }
        Ok(())
    }
}

impl Source for Disk {
    fn path(&self) -> &Path {
        Path::new("disk")
    }

    fn len(&self) -> u64 {
        self.0.state.lock().unwrap().bytes.len() as u64
    }

    fn alignment(&self) -> usize {
        512
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = &mut *self.0.state.lock().unwrap();
        // Several threads read, so each place has its own numbers, and reads do not count as calls.
        let tries = state.tries.entry(offset).or_default();
        *tries += 1;
        let random = &mut Random::new(self.0.seed ^ (offset << 20) ^ *tries);
        if self.0.interrupted && random.one_in(10) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let from = state.bytes.get(offset as usize..).unwrap_or_default();
        let mut len = from.len().min(buf.len());
        let blocks = offset as usize / BLOCK..(offset as usize + len).div_ceil(BLOCK);
        if state.bad.iter().any(|bad| blocks.contains(bad)) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if self.0.short && len > 512 && random.one_in(4) {
            len = (1 + random.below((len - 1) / 512)) * 512;
        }
        let from = state.bytes.get(offset as usize..).unwrap_or_default();
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }
}

struct Protected {
    world: World,
    headers: Vec<u8>,
    percent: u32,
}

impl Protected {
    fn new(case: &Case) -> Self {
        let world = World::new(case);
        let random = &mut case.random("protected");
        let mut headers = world.plain[..if world.wide { 16 } else { 12 }].to_vec();
        for file in &world.files {
            let len = file.name.len() + if world.wide { 16 } else { 8 };
            headers.extend(&world.plain[file.at.start - len..file.at.start]);
        }
        Self {
            percent: random.pick(&[1, 5, 20, 50]),
            headers,
            world,
        }
    }

    fn geometry(&self) -> Geometry {
        let (len, headers) = (self.world.plain.len() as u64, self.headers.len() as u64);
        Geometry::plan(len, headers, self.percent).unwrap()
    }

    fn write(&self, disk: &Disk) -> io::Result<Header> {
        let former = self.world.plain.len() as u64;
        let mut writer = TrailerWriter::begin(disk, self.geometry(), MEMORY, former)?;
        writer.headers(&self.headers)?;
        for part in self.world.plain.chunks(30_001) {
            writer.payload(part)?;
        }
        writer.finish(None, MEMORY, &|_| Ok(()))
    }

    /// Reads the payload through its trailer, if there is one. `None` where a read fails.
    fn read(&self, source: Arc<dyn Source>) -> Option<Vec<u8>> {
        let source: Arc<dyn Source> = match find(&source, &mut || walk(&source)) {
            Trailer::Found(header) => {
                let healer = Healer::new(Arc::clone(&source), *header, MEMORY);
                Arc::new(ProtectedSource::new(source, healer, MEMORY))
            }
            _ => source,
        };
        let len = self.world.plain.len();
        let mut buf = AlignedBuf::new(len.max(1)).unwrap();
        let padded = len.next_multiple_of(BLOCK);
        let n = read_exact_at(&*source, &mut buf[..padded], 0).ok()?;
        (n >= len).then(|| buf[..len].to_vec())
    }
}

fn still(case: &Case, bytes: Vec<u8>) -> Disk {
    let without = u32::MAX;
    let calm = Case { without, ..*case };
    Disk::new(&calm, 1, bytes, Vec::new(), &Arc::new(Power::default()))
}

fn ends(case: &Case, most: &[usize]) -> (bool, Option<u64>) {
    let random = &mut case.random("end");
    let cut = case.has(Fault::PowerCut, 2);
    let killed = !cut && case.has(Fault::Killed, 3);
    let most = random.pick(most);
    let dies_at = (cut || killed).then(|| random.below(most) as u64 + 1);
    (cut, dies_at)
}

/// A trailer is written to a payload.
pub fn protect(case: &Case) -> Result<(), String> {
    let it = Protected::new(case);
    let plain = &it.world.plain;
    let mut start = plain.clone();
    start.resize(plain.len().next_multiple_of(BLOCK), 0);
    let (cut, dies_at) = ends(case, &[10, 60]);
    let power = Arc::new(Power::new(dies_at, None));
    let disk = Disk::new(case, 0, start.clone(), Vec::new(), &power);
    let result = it.write(&disk);
    power.check()?;
    if let (Err(error), false) = (&result, power.has_failed()) {
        return Err(format!("an error without a reason: {error}"));
    }
    let dead = power.is_dead();
    let left = disk.left(dead && cut);
    if dead {
        reached(Reached::Crash);
    }
    if left[..plain.len()] != plain[..] {
        return Err("the payload has changed".to_owned());
    }
    match it.read(still(case, left.clone()).shared()) {
        Some(bytes) if bytes == *plain => {}
        // A drive that lies may keep the header of a trailer that it did not keep.
        None if disk.0.lies && dead => {}
        None => return Err("the payload cannot be read any more".to_owned()),
        Some(_) => return Err("the payload is read with wrong bytes".to_owned()),
    }
    if result.is_ok() {
        reached(Reached::Complete);
        let source = still(case, left.clone()).shared();
        if !matches!(find(&source, &mut || walk(&source)), Trailer::Found(_)) {
            return Err("the trailer was written, and is not found".to_owned());
        }
    }
    let clean = still(case, start);
    it.write(&clean).map_err(|e| format!("a clean run: {e}"))?;
    let again = still(case, left);
    it.write(&again).map_err(|e| format!("the next run: {e}"))?;
    reached(Reached::SecondRun);
    match again.left(false) == clean.left(false) {
        true => Ok(()),
        false => Err("the next run leaves another trailer".to_owned()),
    }
}

/// A damaged payload is repaired in place.
pub fn repair(case: &Case) -> Result<(), String> {
    let it = Protected::new(case);
    let plain = &it.world.plain;
    let mut start = plain.clone();
    start.resize(plain.len().next_multiple_of(BLOCK), 0);
    let clean = still(case, start);
    let header = it.write(&clean).map_err(|e| format!("a clean run: {e}"))?;
    let whole = clean.left(false);
    let blocks = whole.len() / BLOCK;
    let random = &mut case.random("damage");
    let within = random.below(3) > 0;
    let mut hit = Vec::new();
    if within {
        let run = it.geometry().burst() as usize;
        let from = random.below(whole.len() - run.min(whole.len() - 1));
        if run > 0 {
            hit.extend(from / BLOCK..=((from + run - 1) / BLOCK).min(blocks - 1));
        }
    } else {
        for _ in 0..1 + random.below(blocks) {
            hit.push(random.below(blocks));
        }
    }
    let mut damaged = whole.clone();
    let mut bad = Vec::new();
    for &block in &hit {
        let range = block * BLOCK..(block + 1) * BLOCK;
        match random.below(3) {
            0 if case.has(Fault::BadSectors, 1) => bad.push(block),
            1 => damaged[range.start + random.below(BLOCK)] ^= 1 << random.below(8),
            _ => damaged[range].copy_from_slice(&noise(random.next(), BLOCK)),
        }
    }
    let (cut, dies_at) = ends(case, &[30, 200]);
    let power = Arc::new(Power::new(dies_at, None));
    let disk = Disk::new(case, 0, damaged.clone(), bad.clone(), &power);
    let mend = |disk: &Disk, power: &Power| {
        let open = || Ok(Box::new(disk.clone()) as Box<dyn Target>);
        let options = RepairOptions::default();
        repair_source(&disk.shared(), &open, &header, &options, power)
    };
    let result = mend(&disk, &power);
    power.check()?;
    if let (Err(error), true) = (&result, within && !power.has_failed()) {
        return Err(format!("an error without a reason: {error}"));
    }
    let dead = power.is_dead();
    if dead {
        reached(Reached::Crash);
    }
    let left = disk.left(dead && cut);
    // No sector that was right is worse, and no other has a third state.
    for (n, sector) in left.chunks(512).enumerate() {
        let range = n * 512..(n * 512 + sector.len());
        let old = damaged.get(range.clone()) == Some(sector);
        if !old && whole.get(range) != Some(sector) {
            let block = n * 512 / BLOCK;
            return Err(format!(
                "a sector of block {block} is neither old nor right"
            ));
        }
    }
    let still_bad: Vec<usize> = disk.0.state.lock().unwrap().bad.clone();
    let next = Disk::new(case, 1, left, still_bad, &Arc::new(Power::default()));
    // Nothing reads or protects the zeros that fill up the last block of the payload and of each
    // part of the trailer.
    let same = |bytes: &[u8]| {
        bytes.len() == whole.len()
            && bytes
                .chunks(BLOCK)
                .zip(whole.chunks(BLOCK))
                .all(|(found, right)| {
                    let used = right
                        .iter()
                        .rposition(|byte| *byte != 0)
                        .map_or(0, |at| at + 1);
                    found[..used] == right[..used]
                })
    };
    let again = mend(&next, &Power::default());
    reached(Reached::SecondRun);
    match (again, within) {
        (Ok(_), _) if same(&next.left(false)) => {
            reached(Reached::Healed);
            Ok(())
        }
        (Ok(report), _) if report.lost.is_empty() => {
            let left = next.left(false);
            let at = left.iter().zip(&whole).position(|(a, b)| a != b);
            let start = it.geometry().start();
            Err(format!(
                "the repair is complete, and bytes are wrong: {} of {} bytes, from {at:?}, the \
                 trailer starts at {start}, {} blocks were damaged",
                left.len(),
                whole.len(),
                hit.len()
            ))
        }
        (Err(error), true) => Err(format!("damage within the promise is not healed: {error}")),
        (result, _) => {
            let error = result.err().map(|e| e.code());
            reached(Reached::Failed);
            match error {
                Some("bug") => Err("a bug".to_owned()),
                _ => Ok(()),
            }
        }
    }
}
