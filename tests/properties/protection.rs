//! Random damage of protected payloads, within what the trailer promises and beyond it.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use lbpayload::block::{AlignedBuf, ReadMode, Source, read_exact_at};
use lbpayload::protection::{
    Geometry, Healer, ProtectedSource, Target, Trailer, TrailerWriter, Walked, find,
};

use crate::support::{Image, noise};

const BLOCK: usize = 4096;
/// The sizes of payloads up to which a trial chooses one. Above 4 MiB there are several stripes.
const SMALL: [usize; 6] = [0, 1, 5000, 40_000, 300_000, 300_000];
const LARGE: [usize; 3] = [2 << 20, 5 << 20, 9 << 20];

/// Numbers that a seed determines.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// A file in memory.
pub struct Disk(Mutex<Vec<u8>>);

impl Target for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock().unwrap();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        assert_eq!((offset as usize % BLOCK, buf.len() % BLOCK), (0, 0));
        let mut bytes = self.0.lock().unwrap();
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that were damaged. Reading a bad block fails.
struct Damaged {
    bytes: Vec<u8>,
    bad: BTreeSet<usize>,
}

impl Source for Damaged {
    fn path(&self) -> &Path {
        Path::new("damaged")
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn alignment(&self) -> usize {
        512
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        assert_eq!((offset % 512, buf.len() % 512), (0, 0));
        let from = offset as usize;
        let end = (from + buf.len()).min(self.bytes.len());
        if self
            .bad
            .range(from / BLOCK..end.div_ceil(BLOCK))
            .next()
            .is_some()
        {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        buf[..end - from].copy_from_slice(&self.bytes[from..end]);
        Ok(end - from)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }
}

/// A payload with some files and its headers.
pub fn payload(random: &mut Random, len: usize) -> (Vec<u8>, Vec<u8>) {
    let mut files = Vec::new();
    let mut left = len;
    while left > 0 {
        let size = random.below(left * 2 + 2).min(left);
        files.push((format!("file-{}", files.len()), noise(random.next(), size)));
        left -= size;
    }
    let image = Image {
        wide: random.below(2) == 0,
        files: files
            .into_iter()
            .map(|(name, data)| (name.into_bytes(), data))
            .collect(),
    };
    let bytes = image.bytes();
    let mut headers = bytes[..if image.wide { 16 } else { 12 }].to_vec();
    for (at, (name, _)) in image.header_offsets().into_iter().zip(&image.files) {
        let len = if image.wide { 16 } else { 8 } + name.len();
        headers.extend(&bytes[at..at + len]);
    }
    (bytes, headers)
}

/// Returns a protected image.
pub fn protected(payload: &[u8], headers: &[u8], percent: u32, memory: usize) -> Vec<u8> {
    let disk = Disk(Mutex::new(payload.to_vec()));
    let geometry = Geometry::plan(payload.len() as u64, headers.len() as u64, percent).unwrap();
    let mut writer = TrailerWriter::begin(&disk, geometry.clone(), memory, 0).unwrap();
    writer.headers(headers).unwrap();
    for part in payload.chunks(100_003) {
        writer.payload(part).unwrap();
    }
    let header = writer.finish(None, memory, &|_| Ok(())).unwrap();
    assert_eq!(header.root, *blake3_of(payload));
    let bytes = disk.0.into_inner().unwrap();
    assert_eq!(bytes.len() as u64, geometry.end());
    bytes
}

/// b3sum is not on every machine, so this is the crate.
fn blake3_of(bytes: &[u8]) -> Box<[u8; 32]> {
    Box::new(*blake3::hash(bytes).as_bytes())
}

fn open(source: Arc<dyn Source>, end: u64, memory: usize) -> Option<ProtectedSource> {
    match find(&source, &mut || Walked::Valid(end)) {
        Trailer::Found(header) => {
            let healer = Healer::new(Arc::clone(&source), *header, memory);
            Some(ProtectedSource::new(source, healer, memory))
        }
        other => panic!("{other:?}"),
    }
}

/// Reads everything in blocks of `step` bytes, and returns it with the blocks that are lost.
fn read_all(source: &ProtectedSource, step: usize) -> (Vec<u8>, BTreeSet<usize>) {
    let len = source.len() as usize;
    let mut out = vec![0; len];
    let mut lost = BTreeSet::new();
    let mut buf = AlignedBuf::new(step).unwrap();
    let mut at = 0;
    while at < len {
        match read_exact_at(source, &mut buf[..step], at as u64) {
            Ok(n) if n > 0 => {
                out[at..at + n].copy_from_slice(&buf[..n]);
                at += n;
            }
            _ if step > BLOCK => {
                let (part, bad) = read_blocks(source, at, (at + step).min(len));
                out[at..at + part.len()].copy_from_slice(&part);
                lost.extend(bad);
                at += part.len();
            }
            _ => {
                lost.insert(at / BLOCK);
                at += BLOCK;
            }
        }
    }
    (out, lost)
}

fn read_blocks(source: &ProtectedSource, from: usize, to: usize) -> (Vec<u8>, BTreeSet<usize>) {
    let mut buf = AlignedBuf::new(BLOCK).unwrap();
    let (mut out, mut lost) = (vec![0; to - from], BTreeSet::new());
    for at in (from..to).step_by(BLOCK) {
        match read_exact_at(source, &mut buf[..BLOCK], at as u64) {
            Ok(n) => out[at - from..at - from + n].copy_from_slice(&buf[..n]),
            Err(_) => drop(lost.insert(at / BLOCK)),
        }
    }
    (out, lost)
}

/// Damages one block in one of several ways.
fn damage(random: &mut Random, image: &mut Damaged, block: usize) {
    let range = block * BLOCK..((block + 1) * BLOCK).min(image.bytes.len());
    match random.below(4) {
        0 => drop(image.bad.insert(block)),
        1 => image.bytes[range].fill(0),
        2 => {
            let at = range.start + random.below(range.len());
            image.bytes[at] ^= 1 << random.below(8);
        }
        _ => {
            let seed = random.next();
            let noise = noise(seed, range.len());
            image.bytes[range].copy_from_slice(&noise);
        }
    }
}

/// One trial. Returns what went wrong.
pub fn trial(seed: u64, within: bool, sizes: &[usize]) -> Result<(), String> {
    let random = &mut Random::new(seed);
    let most = sizes[random.below(sizes.len())];
    let len = random.below(most + 1);
    let percent = [1, 5, 10, 50][random.below(4)];
    let memory = [4 << 20, 32 << 20][random.below(2)];
    let (plain, headers) = payload(random, len);
    let bytes = protected(&plain, &headers, percent, memory);
    let geometry = Geometry::plan(plain.len() as u64, headers.len() as u64, percent).unwrap();
    let blocks = bytes.len() / BLOCK;
    let mut image = Damaged {
        bytes,
        bad: BTreeSet::new(),
    };
    let start = geometry.start() as usize / BLOCK;
    let headers_at = [start, blocks - 1];
    let mut hit = BTreeSet::new();
    if within {
        if random.below(2) == 0 {
            // A run of the promised length, anywhere.
            let run = geometry.burst() as usize;
            let from = random.below(image.bytes.len() - run.min(image.bytes.len() - 1));
            if run > 0 {
                hit.extend(from / BLOCK..=(from + run - 1) / BLOCK);
            }
        } else {
            // Single blocks, as many as each stripe can lose, and never both copies of a header.
            let (stripes, recovery) = geometry.stripes_of_first_region();
            let most = random.below(recovery as usize + 1);
            let mut lost = vec![0; stripes as usize];
            for _ in 0..most * stripes as usize * 2 {
                let block = random.below(blocks);
                let stripe = match geometry.stripe_of(block as u64 * BLOCK as u64) {
                    Some(stripe) => stripe as usize,
                    // Of the metadata, only the first copy.
                    None if block > start && block * BLOCK < geometry.second_copy() as usize => {
                        hit.insert(block);
                        continue;
                    }
                    None => continue,
                };
                if !hit.contains(&block) && lost[stripe] < recovery as usize {
                    lost[stripe] += 1;
                    hit.insert(block);
                }
            }
        }
    } else {
        for _ in 0..1 + random.below(blocks) {
            hit.insert(random.below(blocks));
        }
        hit.remove(&headers_at[random.below(2)]);
    }
    for block in &hit {
        damage(random, &mut image, *block);
    }
    let Some(source) = open(Arc::new(image), plain.len() as u64, memory) else {
        return Err("no trailer".into());
    };
    let step = [BLOCK, 12_288, 65_536, 1 << 20][random.below(4)];
    let (found, lost) = read_all(&source, step);
    for (block, (found, plain)) in found.chunks(BLOCK).zip(plain.chunks(BLOCK)).enumerate() {
        if !lost.contains(&block) && found != plain {
            return Err(format!("block {block} is wrong"));
        }
    }
    if within && !lost.is_empty() {
        return Err(format!("lost {lost:?} of {blocks}, damaged {hit:?}"));
    }
    let report = source.report();
    if lost.is_empty() != report.found.lost.is_empty() {
        return Err(format!("lost {lost:?}, reported {:?}", report.found.lost));
    }
    Ok(())
}

#[test]
fn damage_within_the_promise_is_healed_to_the_last_bit() {
    for seed in 0..150 {
        let sizes = if seed % 50 == 0 {
            &LARGE[..]
        } else {
            &SMALL[..]
        };
        trial(seed, true, sizes).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn damage_beyond_the_promise_is_named_and_the_rest_is_right() {
    for seed in 0..150 {
        let sizes = if seed % 50 == 0 {
            &LARGE[..]
        } else {
            &SMALL[..]
        };
        trial(seed, false, sizes).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

/// `scripts/damage-protection` runs this with as many seeds as it is told.
#[test]
#[ignore = "scripts/damage-protection runs it"]
fn damage_of_many_seeds() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text: String| text.parse().ok())
    };
    let first: u64 = number("LBPAYLOAD_SEED").unwrap_or(0);
    let count: u64 = number("LBPAYLOAD_DAMAGES").unwrap_or(200);
    let failures = std::sync::atomic::AtomicU64::new(0);
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    let seed = first + n / 2;
                    let within = n % 2 == 0;
                    if let Err(e) = trial(
                        seed,
                        within,
                        if seed % 20 == 0 {
                            &LARGE[..]
                        } else {
                            &SMALL[..]
                        },
                    ) {
                        failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let _ = writeln!(
                            io::stdout(),
                            "seed {seed}, within the promise {within}: {e}"
                        );
                    }
                }
            });
        }
    });
    let failures = failures.into_inner();
    let _ = writeln!(io::stdout(), "{count} damages, {failures} failures");
    assert_eq!(failures, 0);
}
