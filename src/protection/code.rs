//! The Reed-Solomon code of a stripe.

use std::io;

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

/// The stack of a thread that decodes, in bytes: the decoder has tables on the stack.
pub(super) const STACK_BYTES: usize = 2 << 20;

fn failed(e: reed_solomon_simd::Error) -> io::Error {
    io::Error::other(format!("the Reed-Solomon code refused its input: {e}"))
}

/// Computes the recovery blocks of a stripe, or a slice of them.
pub(super) struct Encoder(HighRateEncoder<DefaultEngine>);

impl Encoder {
    /// Creates an encoder for `data` and `recovery` blocks, of which it sees `width` bytes each.
    pub(super) fn new(data: u64, recovery: u64, width: usize) -> io::Result<Self> {
        let engine = DefaultEngine::new();
        let new = HighRateEncoder::new(data as usize, recovery as usize, width, engine, None);
        new.map(Self).map_err(failed)
    }

    /// Starts with another stripe, and keeps the memory.
    pub(super) fn reset(&mut self, data: u64, recovery: u64, width: usize) -> io::Result<()> {
        let reset = self.0.reset(data as usize, recovery as usize, width);
        reset.map_err(failed)
    }

    /// Adds the next data block.
    pub(super) fn add(&mut self, slice: &[u8]) -> io::Result<()> {
        self.0.add_original_shard(slice).map_err(failed)
    }

    /// Computes the recovery blocks and passes each one on, in order.
    pub(super) fn encode(&mut self, mut each: impl FnMut(usize, &[u8])) -> io::Result<()> {
        let result = self.0.encode().map_err(failed)?;
        for (number, block) in result.recovery_iter().enumerate() {
            each(number, block);
        }
        Ok(())
    }

    /// Returns the memory that an encoder needs, in bytes.
    pub(super) fn memory(data: u64, recovery: u64, width: usize) -> usize {
        data.next_multiple_of(recovery.next_power_of_two()) as usize * width
    }
}

/// Computes the missing data blocks of a stripe, or a slice of them.
pub(super) struct Decoder(HighRateDecoder<DefaultEngine>);

impl Decoder {
    /// Creates a decoder for a stripe of `data` and `recovery` blocks.
    pub(super) fn new(data: u64, recovery: u64, width: usize) -> io::Result<Self> {
        let engine = DefaultEngine::new();
        let new = HighRateDecoder::new(data as usize, recovery as usize, width, engine, None);
        new.map(Self).map_err(failed)
    }

    /// Starts with another stripe, and keeps the memory.
    pub(super) fn reset(&mut self, data: u64, recovery: u64, width: usize) -> io::Result<()> {
        let reset = self.0.reset(data as usize, recovery as usize, width);
        reset.map_err(failed)
    }

    /// Adds an intact data block.
    pub(super) fn add_data(&mut self, position: u64, slice: &[u8]) -> io::Result<()> {
        let add = self.0.add_original_shard(position as usize, slice);
        add.map_err(failed)
    }

    /// Adds an intact recovery block.
    pub(super) fn add_recovery(&mut self, number: u64, slice: &[u8]) -> io::Result<()> {
        let add = self.0.add_recovery_shard(number as usize, slice);
        add.map_err(failed)
    }

    /// Computes the missing data blocks and passes each one on. There must be as many intact
    /// blocks as the stripe has data blocks. It needs a stack of [`STACK_BYTES`].
    pub(super) fn decode(&mut self, mut each: impl FnMut(u64, &[u8])) -> io::Result<()> {
        let result = self.0.decode().map_err(failed)?;
        for (position, block) in result.restored_original_iter() {
            each(position as u64, block);
        }
        Ok(())
    }

    /// Returns the memory that a decoder needs, in bytes.
    pub(super) fn memory(data: u64, recovery: u64, width: usize) -> usize {
        (data + recovery.next_power_of_two()).next_power_of_two() as usize * width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x^16 + x^5 + x^3 + x^2 + 1, as FORMAT.md has it.
    fn multiply(a: u32, b: u32) -> u32 {
        let mut product = 0;
        for bit in (0..16).rev() {
            product <<= 1;
            if product & 0x10000 != 0 {
                product ^= 0x1002d;
            }
            if b >> bit & 1 == 1 {
                product ^= a;
            }
        }
        product
    }

    fn inverse(a: u32) -> u32 {
        // a^(2^16 - 2)
        let (mut result, mut power) = (1, a);
        for _ in 0..15 {
            power = multiply(power, power);
            result = multiply(result, power);
        }
        result
    }

    const BASIS: [u32; 16] = [
        0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012, 0x6C98, 0x10D8, 0x6A72,
        0xB900, 0xFDB8, 0xFB34, 0xFF38, 0x991E,
    ];

    fn element(number: u32) -> u32 {
        (0..16)
            .filter(|b| number >> b & 1 == 1)
            .fold(0, |sum, b| sum ^ BASIS[b])
    }

    /// L(j, x) of FORMAT.md, by its definition.
    fn lagrange(j: u32, x: u32, q: u32) -> u32 {
        let others = (0..q).filter(|l| *l != j);
        others.fold(1, |product, l| {
            let above = x ^ element(l);
            let below = element(j) ^ element(l);
            multiply(product, multiply(above, inverse(below)))
        })
    }

    #[test]
    fn recovery_blocks_are_what_the_format_defines() {
        for (data, recovery) in [(1, 2), (5, 2), (7, 3), (40, 5), (9, 16)] {
            let blocks: Vec<Vec<u8>> = (0..data)
                .map(|n| (0..64).map(|i| (n * 37 + i * 11 + n * i) as u8).collect())
                .collect();
            let mut encoder = Encoder::new(data, recovery, 64).unwrap();
            for block in &blocks {
                encoder.add(block).unwrap();
            }
            let number = |block: &[u8], at: usize| {
                let number = u32::from(block[at]) | u32::from(block[32 + at]) << 8;
                element(number)
            };
            let q = (recovery as u32).next_power_of_two();
            encoder
                .encode(|j, block| {
                    for at in [0, 31] {
                        let mut sum = 0;
                        for (i, data) in blocks.iter().enumerate() {
                            let factor = lagrange(j as u32, element(q + i as u32), q);
                            sum ^= multiply(factor, number(data, at));
                        }
                        assert_eq!(number(block, at), sum, "{data} {recovery} {j} {at}");
                    }
                })
                .unwrap();
        }
    }
}
