//! Duplicate names are found in any number of passes over the headers.

use lbpayload::format::Fault;
use lbpayload::payload::{Cause, Index, Payload};
use lbpayload::progress::Silent;

use crate::support::Image;
use crate::support::memory::Memory;

#[test]
fn all_duplicate_names_are_found_with_a_low_memory_limit() {
    // With the smallest memory limit one pass handles 65,536 names, so these names
    // need four passes. The pass of each name is random, so duplicate names occur in
    // all of them.
    const FILES: usize = 200_000;
    const REPEATED: u64 = 100;
    let mut names: Vec<String> = (0..FILES).map(|n| n.to_string()).collect();
    names.extend((0..REPEATED).map(|n| n.to_string()));
    let files: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b""[..])).collect();
    let source = Memory::new(Image::new(&files).bytes()).shared();
    let payload = Payload::open(source).unwrap().with_index_memory(1 << 20);
    let mut found = Vec::new();
    let index = Index::scan(&payload, &Silent, &mut |problem| {
        let Cause::Fault(Fault::Repeated { first }) = problem.cause else {
            panic!("unexpected problem: {problem:?}");
        };
        found.push((problem.index.unwrap() - FILES as u64, first));
        Ok(())
    })
    .unwrap();
    assert_eq!(index.files(), names.len() as u64);
    found.sort_unstable();
    let expected: Vec<_> = (0..REPEATED).map(|n| (n, n)).collect();
    assert_eq!(found, expected);
}
