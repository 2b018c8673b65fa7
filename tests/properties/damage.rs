//! Every truncation and every flipped bit of a small image: each gives an error or
//! the right answer, never a panic, a hang, or data outside the destination.

use std::path::Path;

use lbpayload::import::{Options, import};
use lbpayload::payload::{Checksums, Index, Payload};
use lbpayload::progress::Silent;
use lbpayload::verify::verify;

use crate::support::memory::Memory;
use crate::support::{Image, tree};

fn small_image() -> Image {
    Image::new(&[
        ("first", b"hello"),
        ("empty", b""),
        ("third.tar", &[9; 700]),
    ])
}

fn options(dest: &Path) -> Options {
    let mut options = Options::default();
    options.dest = dest.to_path_buf();
    options
}

/// Runs every reader over `bytes`. True when all of them accept the payload.
fn survives(bytes: Vec<u8>, dest: &Path) -> bool {
    let source = Memory::new(bytes).shared();
    let Ok(payload) = Payload::open(source) else {
        return false;
    };
    for entry in payload.walk().unwrap().flatten() {
        let _ = (entry.name(), entry.shown_name().len());
    }
    let strict = Index::strict(&payload, &Silent).is_ok();
    let report = verify(&payload, Checksums::new(), &Silent, &mut |_, _| ());
    let verified = report.as_ref().is_ok_and(|report| report.is_ok());
    let imported = import(&payload, options(dest), &Silent, None).is_ok();
    assert_eq!(strict, imported, "the index and the import must agree");
    assert!(strict || !verified, "verify must find what the index finds");
    strict
}

#[test]
fn truncated_image_is_refused_and_no_file_is_written() {
    for image in [small_image(), small_image().narrow()] {
        let whole = image.bytes();
        for len in 0..whole.len() {
            let dir = tempfile::tempdir().unwrap();
            assert!(
                !survives(whole[..len].to_vec(), dir.path()),
                "cut to {len} bytes"
            );
            assert_eq!(tree(dir.path()), [], "cut to {len} bytes");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(survives(whole, dir.path()));
        assert_eq!(tree(dir.path()).len(), 3);
    }
}

#[test]
fn flipped_header_bit_is_refused_or_gives_another_valid_payload() {
    for image in [small_image(), small_image().narrow()] {
        let whole = image.bytes();
        let mut starts: Vec<usize> = vec![0];
        starts.extend(image.header_offsets());
        let mut refused = 0;
        for start in starts {
            for at in start..(start + 26).min(whole.len()) {
                for bit in 0..8 {
                    let mut bytes = whole.clone();
                    bytes[at] ^= 1 << bit;
                    let parent = tempfile::tempdir().unwrap();
                    let dest = parent.path().join("dest");
                    std::fs::create_dir(&dest).unwrap();
                    if !survives(bytes, &dest) {
                        refused += 1;
                        assert_eq!(tree(&dest), [], "byte {at} bit {bit}");
                    }
                    assert_eq!(
                        tree(parent.path()).len(),
                        1,
                        "nothing may be written outside the destination"
                    );
                }
            }
        }
        assert!(refused > 300, "only {refused} flips were refused");
    }
}

#[test]
fn huge_counts_and_sizes_are_refused_without_allocating_memory() {
    for shift in 0..64 {
        let value = 1_u64 << shift;
        for at in [8, 16, 24] {
            let mut bytes = small_image().bytes();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let dir = tempfile::tempdir().unwrap();
            // Any answer is fine, as long as it does not panic.
            survives(bytes, dir.path());
        }
    }
    let mut bytes = small_image().bytes();
    bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    let payload = Payload::open(Memory::new(bytes).shared()).unwrap();
    let error = Index::strict(&payload, &Silent).err().unwrap();
    assert_eq!(error.code(), "size-overflow");
}

#[test]
fn random_bytes_after_the_magic_cause_no_panic() {
    for seed in 0..300 {
        let mut bytes = b"LBPAYLD1".to_vec();
        bytes.extend(crate::support::noise(seed, 200));
        // Small numbers get further than random ones.
        for at in (8..bytes.len()).step_by(8) {
            if bytes[at] % 3 == 0 {
                bytes[at + 1..(at + 8).min(208)].fill(0);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        survives(bytes, dir.path());
    }
}
