//! The Reed-Solomon code of a stripe.

use std::io;

use reed_solomon_simd::engine::{DefaultEngine, Engine, GF_MODULUS, ShardsRefMut, tables};
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

/// The steps of the encoder, for data that arrives in chunks of as many rows as there are recovery
/// blocks, rounded up to a power of two.
#[derive(Default)]
pub(super) struct Transform(DefaultEngine);

impl Transform {
    /// Transforms a chunk of `height` rows, of which the first `count` are there. The row at its
    /// start is number `first`. The sum of all chunks is to be finished.
    pub(super) fn add_chunk(
        &self,
        rows: &mut [[u8; 64]],
        height: usize,
        first: usize,
        count: usize,
    ) {
        let width = rows.len() / height;
        rows[count * width..].fill([0; 64]);
        let mut shards = ShardsRefMut::new(height, width, rows);
        self.0.ifft(&mut shards, 0, height, count, first + height);
    }

    /// Turns the sum of all chunks into recovery blocks, of which there are `count`.
    pub(super) fn finish(&self, sums: &mut [[u8; 64]], height: usize, count: usize) {
        let width = sums.len() / height;
        let mut shards = ShardsRefMut::new(height, width, sums);
        self.0.fft(&mut shards, 0, height, count, 0);
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

/// The number of numbers in 64 bytes of a block.
const NUMBERS: usize = 32;

/// Computes sums of products of blocks, as a way around the decoder where a stripe has lost few
/// blocks. They are cheap then, and the blocks may come in any order and many stripes at a time.
///
/// Each recovery block is a sum of the data blocks, each multiplied by a factor. Without the
/// missing blocks, the sum differs by the products of these. That is a system of linear equations
/// with as many unknowns as there are missing blocks.
pub(super) struct Sums {
    engine: DefaultEngine,
    /// The logarithms of the factors: those of data block 0, then those of data block 1.
    factors: Vec<u16>,
    /// The number of recovery blocks.
    count: usize,
}

impl Sums {
    /// Takes the factors of the first `count` recovery blocks of a stripe of `data` and `recovery`
    /// blocks. A shorter stripe has the same ones.
    pub(super) fn new(data: u64, recovery: u64, count: usize) -> io::Result<Self> {
        let log = &tables::get_exp_log().log;
        let mut factors = vec![0; (data as usize).next_multiple_of(NUMBERS) * count];
        let mut encoder = Encoder::new(data, recovery, 2 * NUMBERS)?;
        // If number n of data block n is 1 and all else is 0, number n of a recovery block is the
        // factor of data block n.
        for (first, factors) in (0..data)
            .step_by(NUMBERS)
            .zip(factors.chunks_mut(NUMBERS * count))
        {
            encoder.reset(data, recovery, 2 * NUMBERS)?;
            for row in 0..data {
                let mut ones = [0; 2 * NUMBERS];
                if let Some(one) = row.checked_sub(first).filter(|n| *n < NUMBERS as u64) {
                    ones[one as usize] = 1;
                }
                encoder.add(&ones)?;
            }
            encoder.encode(|j, bytes| {
                for n in (0..NUMBERS).filter(|_| j < count) {
                    let factor = u16::from_le_bytes([bytes[n], bytes[NUMBERS + n]]);
                    factors[n * count + j] = log[usize::from(factor)];
                }
            })?;
        }
        Ok(Self {
            engine: DefaultEngine::new(),
            factors,
            count,
        })
    }

    /// Adds data block `row` to the sum for recovery block `j`. These may be blocks of many stripes.
    /// `scratch` has the same length.
    pub(super) fn add(
        &self,
        sum: &mut [u8],
        j: usize,
        row: u64,
        bytes: &[u8],
        scratch: &mut [[u8; 64]],
    ) {
        self.add_product(sum, bytes, self.factor(j, row), scratch);
    }

    fn factor(&self, j: usize, row: u64) -> u16 {
        self.factors[row as usize * self.count + j]
    }

    fn add_product(&self, sum: &mut [u8], bytes: &[u8], factor: u16, scratch: &mut [[u8; 64]]) {
        let scratch = &mut scratch[..bytes.len() / 64];
        scratch.as_flattened_mut().copy_from_slice(bytes);
        self.engine.mul(scratch, factor);
        add(sum, scratch.as_flattened());
    }

    /// Computes the missing data blocks of a stripe, which are at positions `rows`. `sums` are as
    /// many sums of all blocks that are there, recovery blocks included, with their numbers.
    pub(super) fn solve(&self, rows: &[u64], sums: &[(usize, &[u8])]) -> io::Result<Vec<Vec<u8>>> {
        let numbers: Vec<usize> = sums.iter().map(|(j, _)| *j).collect();
        let inverse = self.inverse(rows, &numbers);
        let inverse = inverse.ok_or_else(|| io::Error::other("the equations have no solution"))?;
        let width = sums.first().map_or(0, |(_, sum)| sum.len());
        let mut scratch = vec![[0; 64]; width / 64];
        let log = &tables::get_exp_log().log;
        let mut blocks = Vec::new();
        for factors in inverse {
            let mut block = vec![0; width];
            for (factor, (_, sum)) in factors.into_iter().zip(sums) {
                if factor != 0 {
                    self.add_product(&mut block, sum, log[usize::from(factor)], &mut scratch);
                }
            }
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// Inverts the matrix of the factors of data blocks in recovery blocks, by elimination.
    fn inverse(&self, rows: &[u64], numbers: &[usize]) -> Option<Vec<Vec<u16>>> {
        let tables = tables::get_exp_log();
        let multiply = |a: u16, log_b: u16| tables::mul(a, log_b, &tables.exp, &tables.log);
        let log = |a: u16| tables.log[usize::from(a)];
        let count = rows.len();
        let mut matrix: Vec<Vec<u16>> = numbers
            .iter()
            .enumerate()
            .map(|(n, j)| {
                let factors = rows.iter().map(|row| self.factor(*j, *row));
                let mut line: Vec<u16> = factors.map(|log| multiply(1, log)).collect();
                line.extend((0..count).map(|other| u16::from(other == n)));
                line
            })
            .collect();
        for at in 0..count {
            let pivot = (at..matrix.len()).find(|line| matrix[*line][at] != 0)?;
            matrix.swap(at, pivot);
            let inverse = GF_MODULUS - log(matrix[at][at]);
            for value in &mut matrix[at] {
                *value = multiply(*value, inverse);
            }
            let line = matrix[at].clone();
            for other in (0..matrix.len()).filter(|other| *other != at) {
                let factor = matrix[other][at];
                if factor != 0 {
                    for (value, of_line) in matrix[other].iter_mut().zip(&line) {
                        *value ^= multiply(*of_line, log(factor));
                    }
                }
            }
        }
        Some(
            matrix
                .into_iter()
                .map(|mut line| line.split_off(count))
                .collect(),
        )
    }
}

/// Adds blocks, number by number.
pub(super) fn add(sum: &mut [u8], bytes: &[u8]) {
    for (sum, byte) in sum.iter_mut().zip(bytes) {
        *sum ^= byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_blocks_are_computed_from_sums_as_the_decoder_computes_them() {
        for (data, recovery, missing, good) in [
            (1, 2, vec![0], vec![1]),
            (70, 5, vec![3], vec![0]),
            (70, 5, vec![0, 31, 32, 69], vec![0, 1, 3, 4]),
            (
                1024,
                52,
                vec![1, 2, 3, 500, 501, 900, 1023],
                vec![0, 1, 2, 3, 4, 5, 6],
            ),
        ] {
            let blocks: Vec<Vec<u8>> = (0..data)
                .map(|n: u64| {
                    (0..128)
                        .map(|i| (n * 37 + i * 11 + n * i * i) as u8)
                        .collect()
                })
                .collect();
            let mut encoder = Encoder::new(data, recovery, 128).unwrap();
            blocks.iter().for_each(|block| encoder.add(block).unwrap());
            let mut sums = Vec::new();
            encoder
                .encode(|_, block| sums.push(block.to_vec()))
                .unwrap();
            let few = good.iter().max().unwrap() + 1;
            let code = Sums::new(data, recovery, few).unwrap();
            let mut scratch = [[0; 64]; 2];
            for (row, block) in (0..).zip(&blocks).filter(|(row, _)| !missing.contains(row)) {
                for j in &good {
                    code.add(&mut sums[*j], *j, row, block, &mut scratch);
                }
            }
            let sums: Vec<_> = good.iter().map(|j| (*j, &sums[*j][..])).collect();
            let computed = code.solve(&missing, &sums).unwrap();
            for (row, block) in missing.iter().zip(computed) {
                assert_eq!(block, blocks[*row as usize], "{data} {recovery} {row}");
            }
        }
    }

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
