//! Pack: the image is what the files say, or an error is returned, or the read-back notices.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use lbpayload::block::{ReadMode, Source};
use lbpayload::format::Dialect;
use lbpayload::pack::{self, Inputs, Options, to_writer};
use sha2::{Digest, Sha256};

use crate::case::{Case, Fault, Random};
use crate::power::{Power, Reached, reached};
use crate::support::Image;
use crate::world::World;

thread_local! {
    static PLACE: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// A disk that is written from its start to its end.
struct Tape {
    bytes: Mutex<Vec<u8>>,
    random: Mutex<Random>,
    power: Arc<Power>,
    short: bool,
    interrupted: bool,
    errors: bool,
    /// Loses or changes a part of what it takes.
    lies: bool,
}

impl Write for &Tape {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let random = &mut *self.random.lock().unwrap();
        if self.power.call()? {
            return Err(io::Error::other("the end"));
        }
        if self.interrupted && random.one_in(4) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.errors && random.one_in(6) {
            return Err(self.power.fault(libc::ENOSPC));
        }
        let mut len = buf.len();
        if self.short {
            len = len.min(1 + random.below(len));
        }
        let mut bytes = self.bytes.lock().unwrap();
        bytes.extend(&buf[..len]);
        if self.lies && random.one_in(4) && !bytes.is_empty() {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => {
                    let at = at - at % 512;
                    let end = (at + 512).min(bytes.len());
                    bytes[at..end].fill(0);
                }
                _ => {
                    let from = at - at % 512;
                    let len = (bytes.len() - from).min(512);
                    bytes.copy_within(from..from + len, 0);
                }
            }
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.errors && self.random.lock().unwrap().one_in(6) {
            true => Err(self.power.fault(libc::EIO)),
            false => Ok(()),
        }
    }
}

impl Source for Tape {
    fn path(&self) -> &Path {
        Path::new("tape")
    }

    fn len(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn alignment(&self) -> usize {
        1
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let random = &mut *self.random.lock().unwrap();
        if self.interrupted && random.one_in(4) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let bytes = self.bytes.lock().unwrap();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let mut len = from.len().min(buf.len());
        if self.short && len > 1 {
            len = 1 + random.below(len);
        }
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Direct
    }
}

pub fn run(case: &Case) -> Result<(), String> {
    let world = World::new(case);
    let random = &mut case.random("pack");
    let embed = random.one_in(2);
    let cut = case.has(Fault::PowerCut, 4);
    let dies_at = cut.then(|| random.below(40) as u64 + 1);
    let cancels = case.has(Fault::Cancelled, 8);
    let cancels_at = cancels.then(|| random.below(20) as u64 + 1);
    let power = Arc::new(Power::new(dies_at, cancels_at));
    let tape = Tape {
        bytes: Mutex::default(),
        random: Mutex::new(case.random("tape")),
        power: Arc::clone(&power),
        short: case.has(Fault::Short, 3),
        interrupted: case.has(Fault::Interrupted, 3),
        errors: case.has(Fault::WriteErrors, 4),
        lies: case.has(Fault::Lies, 4),
    };
    let result = PLACE.with_borrow_mut(|place| {
        let dir = place.get_or_insert_with(|| {
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
            dir.unwrap()
        });
        let paths = world.files.iter().map(|file| {
            let path = dir.path().join(&file.name);
            fs::write(&path, &file.bytes).unwrap();
            path
        });
        let inputs = Inputs::Paths(paths.collect());
        let mut options = Options::default();
        options.embed = embed;
        options.allow_empty = true;
        options.dialect = if world.wide {
            Dialect::U64
        } else {
            Dialect::U32
        };
        options.sum_image = random.one_in(2);
        let result =
            pack::plan(&inputs, options).and_then(|plan| to_writer(&plan, &tape, &tape, &*power));
        for file in &world.files {
            fs::remove_file(dir.path().join(&file.name)).unwrap();
        }
        result
    });
    power.check()?;
    let there = tape.bytes.lock().unwrap();
    match result {
        Err(error) if error.code() == "bug" || !power.has_failed() => {
            Err(format!("an error without a reason: {error}"))
        }
        Err(_) => {
            reached(Reached::Error);
            Ok(())
        }
        Ok(same) => {
            let wanted = expected(&world, embed);
            reached(Reached::Complete);
            match (same, *there == wanted) {
                (true, false) => Err("the read-back did not notice a difference".to_owned()),
                (false, true) => Err("the read-back reports a difference".to_owned()),
                _ => Ok(()),
            }
        }
    }
}

/// The image, from the specification.
fn expected(world: &World, embed: bool) -> Vec<u8> {
    let mut files: Vec<(Vec<u8>, Vec<u8>)> = (world.files.iter())
        .map(|file| (file.name.clone().into_bytes(), file.bytes.clone()))
        .collect();
    files.sort();
    if embed {
        let mut sums = String::new();
        for (name, bytes) in &files {
            let sum = hex::encode(Sha256::digest(bytes));
            sums += &format!("{sum}  {}\n", String::from_utf8_lossy(name));
        }
        files.push((b"SHA256SUMS".to_vec(), sums.into_bytes()));
    }
    Image {
        wide: world.wide,
        files,
    }
    .bytes()
}
