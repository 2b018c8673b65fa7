//! Random damage of protected payloads, within what the trailer promises and beyond it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lbpayload::block::{AlignedBuf, Source, read_exact_at};
use lbpayload::progress::Silent;
use lbpayload::protect::walk;
use lbpayload::protection::{GROUP, Healer, ProtectedSource, Trailer, Walked, find, search};

use crate::protected::{BLOCK, Damaged, Layout, Protected, Random};
use crate::support::noise;

const GROUP_BLOCKS: usize = GROUP as usize / BLOCK;

/// Opens a payload as the program does with a device that was named.
fn open(source: &Arc<dyn Source>, memory: usize) -> Result<ProtectedSource, String> {
    let mut walked = None;
    let found = find(source, &mut || *walked.insert(walk(source)));
    let header = match found {
        Trailer::Found(header) => *header,
        other if walked == Some(Walked::Invalid) => match search(source, &Silent) {
            Ok(Some(header)) => header,
            _ => return Err(format!("{other:?}")),
        },
        other => return Err(format!("{other:?}")),
    };
    let healer = Healer::new(Arc::clone(source), header, memory);
    Ok(ProtectedSource::new(Arc::clone(source), healer, memory))
}

/// Reads everything in pieces of `step` bytes, and returns it with the blocks that are lost.
fn read_all(source: &ProtectedSource, step: usize, backwards: bool) -> (Vec<u8>, BTreeSet<usize>) {
    let len = source.len() as usize;
    let mut out = vec![0; len];
    let mut lost = BTreeSet::new();
    let mut buf = AlignedBuf::new(step).unwrap();
    let mut places: Vec<usize> = (0..len).step_by(step).collect();
    if backwards {
        places.reverse();
    }
    for from in places {
        let to = (from + step).min(len);
        match read_exact_at(source, &mut buf[..step], from as u64) {
            Ok(n) => {
                assert_eq!(n, to - from, "a short read");
                out[from..to].copy_from_slice(&buf[..n]);
            }
            // What is lost in it, and what is not.
            Err(_) => {
                for at in (from..to).step_by(BLOCK) {
                    match read_exact_at(source, &mut buf[..BLOCK], at as u64) {
                        Ok(n) => out[at..at + n].copy_from_slice(&buf[..n]),
                        Err(_) => drop(lost.insert(at / BLOCK)),
                    }
                }
            }
        }
    }
    (out, lost)
}

/// The damage of one trial.
struct Damage<'a> {
    random: &'a mut Random,
    payload: &'a Protected,
    image: Damaged,
    hit: BTreeSet<usize>,
    /// How many blocks of each stripe were hit.
    used: HashMap<(u64, u64), u64>,
    /// What happens to all blocks, or to each something else.
    kind: Option<usize>,
}

impl<'a> Damage<'a> {
    fn new(random: &'a mut Random, payload: &'a Protected) -> Self {
        let kind = random.of(&[None, None, Some(0), Some(1), Some(2), Some(3)]);
        Self {
            image: Damaged {
                bytes: payload.bytes.clone(),
                bad: BTreeSet::new(),
            },
            random,
            payload,
            hit: BTreeSet::new(),
            used: HashMap::new(),
            kind,
        }
    }

    /// Whether one more block can be lost: its stripe has enough recovery blocks, or its other
    /// copy is intact.
    fn can_lose(&self, block: usize) -> bool {
        match self.payload.geometry.stripe_of((block * BLOCK) as u64) {
            Some((stripe, recovery)) => self.used.get(&stripe).copied().unwrap_or(0) < recovery,
            None => {
                let twin = self.payload.twin(block);
                !self.hit.contains(&twin.expect("either a stripe or a copy"))
            }
        }
    }

    /// Damages the part of a block that is in `range`.
    fn hit(&mut self, block: usize, range: std::ops::Range<usize>) {
        if !self.hit.insert(block) {
            return;
        }
        if let Some((stripe, _)) = self.payload.geometry.stripe_of((block * BLOCK) as u64) {
            *self.used.entry(stripe).or_default() += 1;
        }
        let whole = block * BLOCK..(block + 1) * BLOCK;
        let range = range.start.max(whole.start)..range.end.min(whole.end);
        let bytes = &mut self.image.bytes;
        match self.kind.unwrap_or_else(|| self.random.below(4)) {
            0 => drop(self.image.bad.insert(block)),
            1 => bytes[range].fill(0),
            2 => {
                let at = range.start + self.random.below(range.len());
                bytes[at] ^= 1 << self.random.below(8);
            }
            _ => {
                let noise = noise(self.random.next(), range.len());
                bytes[range].copy_from_slice(&noise);
            }
        }
    }

    fn hit_all(&mut self, block: usize) {
        self.hit(block, block * BLOCK..(block + 1) * BLOCK);
    }

    /// Damages `run` bytes in a row, at any place or at the end of a part.
    fn burst(&mut self, run: usize, layout: Layout) {
        if run == 0 {
            return;
        }
        let g = &self.payload.geometry;
        let len = self.image.bytes.len();
        let parts = [g.start(), g.second_copy(), g.second_header()];
        let from = match self.random.below(4) {
            0 => 0,
            1 => (self.random.of(&parts) as usize).saturating_sub(self.random.below(run)),
            _ => self.random.below(len),
        };
        let from = from.min(len - run.min(len));
        let to = (from + run).min(len);
        for block in from / BLOCK..to.div_ceil(BLOCK) {
            // Short stripes have so little metadata that a run can reach data and recovery
            // blocks of one stripe on both sides of it. What the program writes is not so.
            if layout == Layout::ManyStripes && !self.can_lose(block) {
                break;
            }
            self.hit(block, from..to);
        }
    }

    /// Damages single blocks, as far as all can be healed.
    fn scatter(&mut self) {
        let blocks = self.payload.blocks();
        for _ in 0..self.random.below(blocks + 1) {
            let block = self.random.below(blocks);
            if !self.hit.contains(&block) && self.can_lose(block) {
                self.hit_all(block);
            }
        }
    }

    /// Damages more blocks of a stripe than can be healed.
    fn overfill(&mut self) {
        let blocks = self.payload.blocks();
        let g = &self.payload.geometry;
        let first = self.random.below(g.start() as usize / BLOCK);
        let of = |block: usize| g.stripe_of((block * BLOCK) as u64);
        let (stripe, recovery) = of(first).expect("a block of the payload");
        let mut members: Vec<usize> = (0..blocks)
            .filter(|block| of(*block).is_some_and(|(of, _)| of == stripe))
            .collect();
        self.hit_all(first);
        while self.used[&stripe] <= recovery {
            let block = members.swap_remove(self.random.below(members.len()));
            self.hit_all(block);
        }
    }

    fn within(&mut self, layout: Layout) {
        let run = self.payload.geometry.burst() as usize;
        match self.random.below(3) {
            0 if run > 0 => self.burst(run, layout),
            1 if run > 0 => {
                let part = 1 + self.random.below(run);
                self.burst(part, layout);
                self.scatter();
            }
            _ => self.scatter(),
        }
    }

    /// One copy of the header stays.
    fn beyond(&mut self) {
        let blocks = self.payload.blocks();
        match self.random.below(4) {
            0 => {
                for _ in 0..self.random.below(blocks) {
                    let block = self.random.below(blocks);
                    self.hit_all(block);
                }
            }
            1 => {
                let run = self.payload.geometry.burst() as usize + BLOCK;
                let run = run * (1 + self.random.below(4));
                self.burst(run, Layout::OneStripe);
            }
            2 => self.scatter(),
            _ => {}
        }
        self.overfill();
        let start = self.payload.geometry.start() as usize / BLOCK;
        let headers = [start, blocks - 1];
        if headers.iter().all(|block| self.hit.contains(block)) {
            let block = self.random.of(&headers);
            self.hit.remove(&block);
            self.image.bad.remove(&block);
            let range = block * BLOCK..(block + 1) * BLOCK;
            self.image.bytes[range.clone()].copy_from_slice(&self.payload.bytes[range]);
        }
    }
}

/// What was done to an image, compared block by block.
struct Truth {
    /// The blocks that are wrong or cannot be read, of payload and trailer.
    wrong: BTreeSet<usize>,
    /// The groups that cannot be healed, if no block of the metadata is lost in both copies.
    lost_groups: Option<BTreeSet<usize>>,
}

impl Truth {
    fn new(payload: &Protected, image: &Damaged) -> Self {
        let g = &payload.geometry;
        let wrong: BTreeSet<usize> = (0..payload.blocks())
            .filter(|block| {
                // What fills up the last block of the payload is not protected.
                let mut end = (block + 1) * BLOCK;
                if block * BLOCK < payload.plain.len() {
                    end = end.min(payload.plain.len());
                }
                let range = block * BLOCK..end;
                image.bad.contains(block) || image.bytes[range.clone()] != payload.bytes[range]
            })
            .collect();
        let mut lost: HashMap<(u64, u64), u64> = HashMap::new();
        let stripe_of = |block: usize| g.stripe_of((block * BLOCK) as u64);
        for (stripe, _) in wrong.iter().filter_map(|block| stripe_of(*block)) {
            *lost.entry(stripe).or_default() += 1;
        }
        let both = |block: &usize| payload.twin(*block).is_some_and(|t| wrong.contains(&t));
        let lost_groups = (!wrong.iter().any(both)).then(|| {
            let data = wrong.range(..g.start() as usize / BLOCK);
            data.filter(|block| stripe_of(**block).is_some_and(|(s, most)| lost[&s] > most))
                .map(|block| block / GROUP_BLOCKS)
                .collect()
        });
        Self { wrong, lost_groups }
    }
}

/// One trial. Returns what went wrong.
pub fn trial(seed: u64, within: bool, layout: Layout) -> Result<(), String> {
    let random = &mut Random::new(seed * 2 + u64::from(within));
    let payload = Protected::kept(seed % PAYLOADS, layout);
    let memory = random.of(&[64 << 10, 4 << 20, 32 << 20]);
    let step = random.of(&[BLOCK, 12_288, 65_536, 1 << 20]);
    let backwards = random.below(4) == 0;
    let mut damage = Damage::new(random, &payload);
    match within {
        true => damage.within(layout),
        false => damage.beyond(),
    }
    let Damage { image, hit, .. } = damage;
    let truth = Truth::new(&payload, &image);
    let data = payload.plain.len().div_ceil(BLOCK);
    let wrong: BTreeSet<usize> = truth.wrong.range(..data).copied().collect();
    let source: Arc<dyn Source> = Arc::new(image);
    let source = match open(&source, memory) {
        Ok(source) => source,
        // What looks like another payload is not healed: one that no reader accepts, of which almost
        // nothing is right, or one of another length that is valid, of which most is wrong.
        Err(e) => {
            let taken = match walk(&source).end() {
                None => !within && wrong.len() * 4 >= data * 3,
                // A bit of a header was flipped so that it is still valid. On a device the trailer
                // has a third header, which these images do not have. Here the last header must be
                // lost, and the copy of the headers before it, which has one block.
                Some(end) if end != payload.plain.len() as u64 => {
                    let last = payload.blocks() - 2..payload.blocks();
                    wrong.len() * 2 > data || last.into_iter().all(|b| truth.wrong.contains(&b))
                }
                Some(_) => false,
            };
            return if taken {
                Ok(())
            } else {
                Err(format!("{e}, {} of {data} blocks are wrong", wrong.len()))
            };
        }
    };
    let (found, lost) = read_all(&source, step, backwards);
    for (block, (found, plain)) in found
        .chunks(BLOCK)
        .zip(payload.plain.chunks(BLOCK))
        .enumerate()
    {
        if !lost.contains(&block) && found != plain {
            return Err(format!("block {block} is wrong"));
        }
    }
    let blocks = payload.blocks();
    if within && !lost.is_empty() {
        return Err(format!("lost {lost:?} of {blocks}, damaged {hit:?}"));
    }
    let report = source.report().found;
    if lost.is_empty() != report.lost.is_empty() {
        return Err(format!("lost {lost:?}, reported {:?}", report.lost));
    }
    // Everything else is given out, and exactly what is wrong is named.
    if let Some(groups) = truth.lost_groups {
        let given: BTreeSet<usize> = lost.iter().map(|block| block / GROUP_BLOCKS).collect();
        if given != groups {
            return Err(format!("lost groups {given:?}, expected {groups:?}"));
        }
        let named = |ranges: &lbpayload::block::Ranges| -> BTreeSet<usize> {
            ranges
                .iter()
                .flatten()
                .map(|block| block as usize)
                .collect()
        };
        let in_lost = |block: &&usize| groups.contains(&(**block / GROUP_BLOCKS));
        let lost: BTreeSet<usize> = wrong.iter().filter(in_lost).copied().collect();
        if named(&report.damaged) != wrong || named(&report.lost) != lost {
            return Err(format!("named {report:?}, expected {wrong:?} and {lost:?}"));
        }
    }
    Ok(())
}

/// The number of payloads that trials damage.
const PAYLOADS: u64 = 307;

/// The layout of a trial: mostly several regions and stripes.
pub fn layout_of(seed: u64) -> Layout {
    match seed % PAYLOADS % 100 {
        0 => Layout::Large,
        1..30 => Layout::OneStripe,
        _ => Layout::ManyStripes,
    }
}

#[test]
fn damage_within_the_promise_is_healed_to_the_last_bit() {
    for seed in 0..150 {
        trial(seed, true, layout_of(seed)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn damage_beyond_the_promise_is_named_and_the_rest_is_right() {
    for seed in 0..150 {
        trial(seed, false, layout_of(seed)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}
