//! Packing and unpacking returns the same files, compared with a simple model: a map
//! of names to bytes.

use std::collections::BTreeMap;
use std::io::Read;

use lbpayload::block::IoEngine;
use lbpayload::durable::Directory;
use lbpayload::format::Dialect;
use lbpayload::import::{Options as ImportOptions, import};
use lbpayload::pack::{Inputs, Options, plan, to_file};
use lbpayload::payload::{Checksums, EntryReader, Index, Payload};
use lbpayload::progress::Silent;
use lbpayload::verify::verify;
use proptest::prelude::*;

use crate::support::memory::Memory;
use crate::support::{TempDir, tree};

type Model = BTreeMap<String, Vec<u8>>;

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            4 => proptest::char::range('a', 'z'),
            1 => Just('.'),
            1 => Just(' '),
            1 => Just('é'),
            1 => Just('-'),
        ],
        1..20,
    )
    .prop_map(|chars| chars.into_iter().collect::<String>())
    .prop_filter("a directory's own names", |name| {
        name != "." && name != ".."
    })
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => proptest::collection::vec(any::<u8>(), 0..64),
        1 => (0_usize..200_000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        1 => (500_usize..530).prop_map(|len| vec![7; len]),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    proptest::collection::btree_map(name(), data(), 0..12)
}

fn pack_model(model: &Model, dialect: Dialect, embed: bool) -> (TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("in");
    std::fs::create_dir(&inputs).unwrap();
    for (name, bytes) in model {
        std::fs::write(inputs.join(name), bytes).unwrap();
    }
    let mut options = Options::default();
    (options.dialect, options.embed) = (dialect, embed);
    options.allow_empty = true;
    let plan = plan(&Inputs::Paths(vec![inputs]), options).unwrap();
    let out = dir.path().join("out.img");
    to_file(&plan, &out, &Silent).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    (dir, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn packed_files_can_be_listed_read_verified_and_imported(
        model in model(),
        narrow in any::<bool>(),
        embed in any::<bool>(),
        alignment in prop_oneof![Just(1_usize), Just(512), Just(4096)],
        block_kib in prop_oneof![Just(4_usize), Just(16), Just(1024)],
        engine in prop_oneof![Just(IoEngine::Auto), Just(IoEngine::Threads)],
        small_max in prop_oneof![Just(0_u64), Just(100), Just(65536)],
    ) {
        // A u32 payload without files is valid only if nothing follows it.
        let narrow = narrow && (embed || !model.is_empty());
        let dialect = if narrow { Dialect::U32 } else { Dialect::U64 };
        let (dir, mut bytes) = pack_model(&model, dialect, embed);
        // A device is larger than its payload.
        bytes.resize(bytes.len().next_multiple_of(alignment), 0xEE);
        let mut memory = Memory::new(bytes);
        memory.alignment = alignment;
        let payload = Payload::open(memory.shared()).unwrap();
        prop_assert!(payload.dialect() == dialect);

        let index = Index::strict(&payload, &Silent).unwrap();
        let mut seen = Model::new();
        for entry in index.entries().unwrap() {
            let entry = entry.unwrap();
            let mut data = Vec::new();
            EntryReader::new(&payload, &entry).unwrap().read_to_end(&mut data).unwrap();
            prop_assert_eq!(data.len() as u64, entry.size);
            seen.insert(entry.name().unwrap().as_str().to_owned(), data);
        }
        let sums = seen.remove("SHA256SUMS");
        prop_assert_eq!(sums.is_some(), embed);
        prop_assert_eq!(&seen, &model);

        let report = verify(&payload, Checksums::new(), &Silent, &mut |_, _| ()).unwrap();
        prop_assert!(report.is_ok(), "{:?}", report.problems);
        prop_assert_eq!(report.matched, if embed { model.len() as u64 } else { 0 });

        let dest = dir.path().join("dest");
        let options = || {
            let mut options = ImportOptions::default();
            options.dest = dest.clone();
            options.engine = engine;
            options.tuning.block_bytes = block_kib * 1024;
            options.tuning.small_max = small_max;
            options
        };
        let report = import(&payload, options(), &Silent, None).unwrap();
        prop_assert_eq!(report.written, index.files());
        let imported: Model = tree(&dest).into_iter().filter(|(name, _)| name != "SHA256SUMS").collect();
        prop_assert_eq!(&imported, &model);
        let again = import(&payload, options(), &Silent, None).unwrap();
        prop_assert_eq!((again.written, again.kept), (0, index.files()));
    }

    #[test]
    fn packing_twice_gives_identical_images(model in model(), embed in any::<bool>()) {
        prop_assert_eq!(
            pack_model(&model, Dialect::U64, embed).1,
            pack_model(&model, Dialect::U64, embed).1
        );
    }
}

#[test]
fn destination_is_unlocked_after_an_import() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let dest = Directory::open(dir.path()).unwrap();
        assert!(dest.try_lock().unwrap());
    }
}
