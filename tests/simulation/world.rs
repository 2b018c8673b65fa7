//! A payload, its copies, and what may be told of them.

use std::ops::Range;

use lbpayload::payload::Checksums;
use sha2::{Digest, Sha256};

use crate::case::{Case, Fault};
use crate::disk::Medium;
use crate::support::{Image, noise};

/// A file of the payload.
pub struct Truth {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Where its data is in the image.
    pub at: Range<usize>,
    pub has_sum: bool,
}

pub struct World {
    pub files: Vec<Truth>,
    pub plain: Vec<u8>,
    pub copies: Vec<Medium>,
    pub wide: bool,
}

impl World {
    pub fn new(case: &Case) -> Self {
        let random = &mut case.random("files");
        let count = random.below(case.files + 1);
        let image = Image {
            wide: random.one_in(2),
            files: (0..count)
                .map(|n| {
                    let name = match random.below(8) {
                        0 => format!("{n}-with a space"),
                        1 => format!("{n}-é"),
                        2 => format!("{n}{}", "x".repeat(random.below(200))),
                        _ => format!("file-{n}"),
                    };
                    let size = random.size(case.size);
                    (name.into_bytes(), noise(random.next(), size))
                })
                .collect(),
        };
        let plain = image.bytes();
        let summed = random.below(4);
        let head = if image.wide { 16 } else { 8 };
        let starts = image.header_offsets();
        let files: Vec<Truth> = (image.files.into_iter().zip(starts))
            .map(|((name, bytes), start)| {
                let at = start + head + name.len();
                Truth {
                    at: at..at + bytes.len(),
                    name: String::from_utf8(name).unwrap(),
                    has_sum: summed > 1 || (summed == 1 && random.one_in(2)),
                    bytes,
                }
            })
            .collect();
        let data: Vec<Range<usize>> = files.iter().map(|file| file.at.clone()).collect();
        let copies = match case.has(Fault::Copies, 3) {
            true => 2 + random.below(2),
            false => 1,
        };
        let copies = (0..copies).map(|n| Medium::new(case, n, &plain, &data));
        Self {
            copies: copies.collect(),
            files,
            plain,
            wide: image.wide,
        }
    }

    pub fn sums(&self) -> Checksums {
        let mut lines = String::new();
        for file in self.files.iter().filter(|file| file.has_sum) {
            let sum = hex::encode(Sha256::digest(&file.bytes));
            lines += &format!("{sum}  {}\n", file.name);
        }
        let mut sums = Checksums::new();
        sums.add_lines(lines.as_bytes(), "sums").unwrap();
        sums
    }

    /// Returns whether `bytes` may be what the file holds: what its checksum says, otherwise at
    /// each place what one of the copies says.
    pub fn may_hold(&self, file: &Truth, bytes: &[u8]) -> bool {
        if bytes == file.bytes {
            return true;
        }
        if file.has_sum || bytes.len() != file.bytes.len() {
            return false;
        }
        bytes.iter().enumerate().all(|(n, byte)| {
            let at = file.at.start + n;
            let mut copies = self.copies.iter();
            copies.any(|copy| copy.bytes.get(at) == Some(byte) || copy.erratic.contains(&at))
        })
    }

    /// Returns whether the copies together must give the file, if no read fails by chance.
    pub fn must_give(&self, file: &Truth) -> bool {
        let mut at = file.at.clone();
        let readable = |n: usize, at: usize| self.copies[n].is_readable(at);
        let all = 0..self.copies.len();
        let right = |n: usize| {
            let copy = &self.copies[n];
            let erratic = copy.erratic.iter().any(|place| file.at.contains(place));
            !erratic && copy.bytes.get(file.at.clone()) == Some(&file.bytes[..])
        };
        let flipped = |n: usize| {
            let copy = &self.copies[n];
            let erratic = copy.erratic.iter().any(|place| file.at.contains(place));
            let end = copy.bytes.len().clamp(file.at.start, file.at.end);
            let there = end - file.at.start;
            let own = copy.bytes.get(file.at.start..end).unwrap_or_default();
            erratic || own != &file.bytes[..there.min(own.len())]
        };
        if !all.clone().any(flipped) {
            return at.all(|at| all.clone().any(|n| readable(n, at)));
        }
        if !file.has_sum {
            // Copies that differ may be refused.
            return self.copies.len() == 1 && at.all(|at| readable(0, at));
        }
        all.into_iter()
            .any(|n| right(n) && file.at.clone().all(|at| readable(n, at)))
    }
}
