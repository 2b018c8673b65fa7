//! However much memory healing may take, the result is the same.

use lbpayload::block::{AlignedBuf, Source, read_exact_at};
use lbpayload::protection::{Geometry, Healer, ProtectedSource, Trailer, Walked, find};

use crate::protected::write_trailer;
use crate::support::memory::Memory;
use crate::support::{Image, noise};

const BLOCK: usize = 4096;

#[test]
fn run_of_damage_is_healed_with_every_memory_limit_and_every_size_of_reads() {
    let plain = Image::new(&[("a", &noise(3, 9 << 20))]).bytes();
    let headers = &plain[..33];
    let geometry = Geometry::plan(plain.len() as u64, 33, 5).unwrap();
    let good = write_trailer(&plain, headers, &geometry, 64 << 20);
    let run = geometry.burst() as usize;
    let mut bad = good;
    bad[300 * BLOCK..][..run].fill(0);
    // Slices of a stripe, one stripe, two at once, and many.
    for memory in [1 << 20, 4 << 20, 16 << 20, 32 << 20, 256 << 20] {
        for step in [4 * BLOCK, 1 << 20] {
            let source = Memory::new(bad.clone()).shared();
            let found = find(&source, &mut || Walked::Valid(plain.len() as u64));
            let Trailer::Found(header) = found else {
                panic!("no trailer");
            };
            let healer = Healer::new(source.clone(), *header, memory);
            let source = ProtectedSource::new(source, healer, memory);
            let mut buf = AlignedBuf::new(step).unwrap();
            for at in (0..plain.len()).step_by(step) {
                // Small reads of the whole run take long with little memory.
                if step < 1 << 20 && !(400..420).contains(&(at / BLOCK)) {
                    continue;
                }
                let want = step.min(plain.len() - at);
                let len = want.next_multiple_of(BLOCK);
                let n = read_exact_at(&source, &mut buf[..len], at as u64).unwrap();
                assert!(n >= want && buf[..want] == plain[at..at + want], "{memory}");
            }
            assert!(source.healed_blocks() > Some(0));
        }
    }
}
