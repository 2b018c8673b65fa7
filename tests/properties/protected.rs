//! Protected payloads in memory, whole and damaged.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use lbpayload::block::{ReadMode, Source};
use lbpayload::protection::{Geometry, Target, TrailerWriter};

use crate::support::{Image, noise};

pub const BLOCK: usize = 4096;

/// Numbers that a seed determines.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A file in memory.
pub struct Disk(pub Mutex<Vec<u8>>);

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
pub struct Damaged {
    pub bytes: Vec<u8>,
    pub bad: BTreeSet<usize>,
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
        let from = (offset as usize).min(self.bytes.len());
        let end = (from + buf.len()).min(self.bytes.len());
        let mut touched = self.bad.range(from / BLOCK..end.div_ceil(BLOCK));
        if touched.next().is_some() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        buf[..end - from].copy_from_slice(&self.bytes[from..end]);
        Ok(end - from)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }
}

/// Which layouts the trailers of a trial have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Up to 300,000 bytes, in one stripe, as the program writes it.
    OneStripe,
    /// The same sizes, in several regions of several short stripes.
    ManyStripes,
    /// Up to 9 MiB, in several stripes if it is above 4 MiB, as the program writes it.
    Large,
}

/// A protected payload.
pub struct Protected {
    pub plain: Vec<u8>,
    /// The payload and its trailer.
    pub bytes: Vec<u8>,
    pub geometry: Geometry,
}

impl Protected {
    /// Makes the payload that a seed determines.
    pub fn make(seed: u64, layout: Layout) -> Self {
        let random = &mut Random::new(seed);
        let most = match layout {
            Layout::OneStripe => random.of(&[0, 1, 5000, 40_000, 300_000, 300_000]),
            Layout::ManyStripes => random.of(&[150_000, 300_000, 600_000]),
            Layout::Large => random.of(&[2 << 20, 5 << 20, 9 << 20]),
        };
        let len = random.below(most + 1);
        let (plain, headers) = payload(random, len);
        let percent = random.of(&[1, 5, 10, 20, 50]);
        let (p, h) = (plain.len() as u64, headers.len() as u64);
        let geometry = match layout {
            Layout::ManyStripes => {
                let lengths = (random.of(&[16, 32, 64]), random.of(&[4, 8, 16]));
                Geometry::plan_with(p, h, percent, lengths).unwrap()
            }
            _ => Geometry::plan(p, h, percent).unwrap(),
        };
        let memory = random.of(&[64 << 10, 4 << 20, 192 << 20]);
        let bytes = write_trailer(&plain, &headers, &geometry, memory);
        Self {
            plain,
            bytes,
            geometry,
        }
    }

    /// Does the same as [`make`](Self::make()), and keeps the result for the next trial.
    pub fn kept(seed: u64, layout: Layout) -> Arc<Self> {
        type Made = HashMap<(u64, Layout), Arc<Protected>>;
        static KEPT: Mutex<Option<Made>> = Mutex::new(None);
        let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (seed, layout);
        if let Some(made) = kept().get_or_insert_default().get(&key) {
            return Arc::clone(made);
        }
        let made = Arc::new(Self::make(seed, layout));
        kept()
            .get_or_insert_default()
            .insert(key, Arc::clone(&made));
        made
    }

    pub fn blocks(&self) -> usize {
        self.bytes.len() / BLOCK
    }

    /// The other copy of a block of the metadata or of a header.
    pub fn twin(&self, block: usize) -> Option<usize> {
        let at = block * BLOCK;
        let (start, second) = (self.geometry.start() as usize, self.second());
        let header2 = self.geometry.second_header() as usize;
        // Both copies of the metadata have the same length.
        let len = header2 - second;
        let first = start + BLOCK;
        let twin = match at {
            at if at == start => header2,
            at if at == header2 => start,
            at if (first..first + len).contains(&at) => at - first + second,
            at if (second..header2).contains(&at) => at - second + first,
            _ => return None,
        };
        Some(twin / BLOCK)
    }

    fn second(&self) -> usize {
        self.geometry.second_copy() as usize
    }
}

/// A payload with some files, and its headers.
fn payload(random: &mut Random, len: usize) -> (Vec<u8>, Vec<u8>) {
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

/// Returns a payload with its trailer.
pub fn write_trailer(
    payload: &[u8],
    headers: &[u8],
    geometry: &Geometry,
    memory: usize,
) -> Vec<u8> {
    let disk = Disk(Mutex::new(payload.to_vec()));
    let mut writer = TrailerWriter::begin(&disk, geometry.clone(), memory, 0).unwrap();
    writer.headers(headers).unwrap();
    for part in payload.chunks(100_003) {
        writer.payload(part).unwrap();
    }
    let header = writer.finish(None, memory, &|_| Ok(())).unwrap();
    // b3sum is not on every machine, so this is the crate.
    assert_eq!(header.root, *blake3::hash(payload).as_bytes());
    let bytes = disk.0.into_inner().unwrap();
    assert_eq!(bytes.len() as u64, geometry.end());
    bytes
}
