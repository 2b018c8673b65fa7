//! The tree: one directory, packed so that a million files fit in about 60 MB. It holds names,
//! sizes and offsets, and does no I/O.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// The inode number of the directory, as FUSE requires.
pub const ROOT: u64 = 1;

/// The inode number of the first file. The inode number of an entry is its index plus this, so it
/// is the same in every mount.
const FIRST: u64 = 2;

/// A file of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node<'a> {
    /// The entry's index in the payload.
    pub index: u64,
    /// The name in the tree.
    pub name: &'a [u8],
    /// The offset of the data, in bytes from the start of the payload.
    pub data_offset: u64,
    /// The number of bytes of data that are served.
    pub size: u64,
}

impl Node<'_> {
    /// Returns the inode number.
    pub fn ino(&self) -> u64 {
        self.index + FIRST
    }
}

/// The reason why a file was not added to a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdded {
    /// The file with this index has the name already.
    Taken(u64),
    /// There is not enough memory.
    NoMemory,
}

/// A file without its name: 24 bytes.
#[derive(Debug)]
struct Record {
    name_end: u64,
    data_offset: u64,
    size: u64,
}

/// The files of a payload in its order. They can be found by name or by number.
pub struct Tree {
    names: Vec<u8>,
    records: Vec<Record>,
    /// The numbers of the records, by the hashes of their names. The hash has a random key, since
    /// a hostile image chooses the names.
    by_name: HashTable<u32>,
    hasher: RandomState,
    bytes: u64,
    /// A hash of all files, the same in every mount. FNV-1a.
    identity: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            records: Vec::new(),
            by_name: HashTable::new(),
            hasher: RandomState::new(),
            bytes: 0,
            identity: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Tree {
    /// The number of files that a tree can hold.
    pub const MAX_FILES: u64 = u32::MAX as u64;

    /// Adds the next entry of the payload under `name`.
    ///
    /// # Errors
    /// Another file has this name, or there is no memory. In these cases nothing is added.
    pub fn push(&mut self, name: &[u8], data_offset: u64, size: u64) -> Result<(), NotAdded> {
        let hash = self.hasher.hash_one(name);
        if let Some(first) = self.find(hash, name) {
            return Err(NotAdded::Taken(first.into()));
        }
        self.reserve(name.len()).ok_or(NotAdded::NoMemory)?;
        let number = self.records.len() as u32;
        self.names.extend_from_slice(name);
        self.records.push(Record {
            name_end: self.names.len() as u64,
            data_offset,
            size,
        });
        self.bytes += size;
        let numbers = [data_offset, size].map(u64::to_le_bytes);
        for byte in name.iter().chain(numbers.as_flattened()) {
            self.identity = (self.identity ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let (names, records, hasher) = (&self.names, &self.records, &self.hasher);
        self.by_name.insert_unique(hash, number, |&number| {
            hasher.hash_one(name_of(names, records, number as usize))
        });
        Ok(())
    }

    /// Gets memory for another file, or returns `None`.
    fn reserve(&mut self, name_len: usize) -> Option<()> {
        self.names.try_reserve(name_len).ok()?;
        self.records.try_reserve(1).ok()?;
        let (names, records, hasher) = (&self.names, &self.records, &self.hasher);
        let hash = |&number: &u32| hasher.hash_one(name_of(names, records, number as usize));
        self.by_name.try_reserve(1, hash).ok()
    }

    /// Frees unused capacity once all files are added.
    pub fn settle(&mut self) {
        self.names.shrink_to_fit();
        self.records.shrink_to_fit();
    }

    /// Returns the number of files.
    pub fn files(&self) -> u64 {
        self.records.len() as u64
    }

    /// Returns the total size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns a number that differs for trees with other files, with a probability that suffices
    /// against mistakes.
    pub fn identity(&self) -> u32 {
        (self.identity ^ (self.identity >> 32)) as u32
    }

    /// Returns the file at `index`.
    pub fn at(&self, index: u64) -> Option<Node<'_>> {
        let number = usize::try_from(index).ok()?;
        let record = self.records.get(number)?;
        Some(Node {
            index,
            name: name_of(&self.names, &self.records, number),
            data_offset: record.data_offset,
            size: record.size,
        })
    }

    /// Returns the file with the inode number `ino`.
    pub fn node(&self, ino: u64) -> Option<Node<'_>> {
        self.at(ino.checked_sub(FIRST)?)
    }

    /// Returns the file called `name`.
    pub fn named(&self, name: &[u8]) -> Option<Node<'_>> {
        let number = self.find(self.hasher.hash_one(name), name)?;
        self.at(number as u64)
    }

    /// Returns the files from `index` on.
    pub fn from(&self, index: u64) -> impl Iterator<Item = Node<'_>> {
        (index..self.files()).filter_map(|index| self.at(index))
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.by_name
            .find(hash, |&number| {
                name_of(&self.names, &self.records, number as usize) == name
            })
            .copied()
    }
}

fn name_of<'a>(names: &'a [u8], records: &[Record], number: usize) -> &'a [u8] {
    let start = number
        .checked_sub(1)
        .map_or(0, |before| records[before].name_end);
    &names[start as usize..records[number].name_end as usize]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_that_is_already_used_is_reported_and_not_added() {
        let mut tree = Tree::default();
        assert_eq!(tree.push(b"a", 24, 1), Ok(()));
        assert_eq!(tree.push(b"b", 42, 2), Ok(()));
        assert_eq!(tree.push(b"a", 60, 3), Err(NotAdded::Taken(0)));
        assert_eq!((tree.files(), tree.bytes()), (2, 3));
    }

    #[test]
    fn an_unknown_number_is_not_found() {
        let mut tree = Tree::default();
        tree.push(b"a", 24, 1).unwrap();
        for ino in [0, ROOT, 3, u64::MAX, u64::MAX - 1, 1 << 32] {
            assert_eq!(tree.node(ino), None, "{ino}");
        }
        assert_eq!(tree.node(2).unwrap().name, b"a");
        assert_eq!(tree.from(u64::MAX).count(), 0);
    }

    #[test]
    fn a_million_files_take_less_than_200_bytes_each() {
        let mut tree = Tree::default();
        let files = 1_000_000;
        for n in 0..files {
            let name = format!("package-{n:07}.tar.gz");
            tree.push(name.as_bytes(), n * 1000, 900).unwrap();
        }
        tree.settle();
        let bytes = tree.names.capacity()
            + tree.records.capacity() * size_of::<Record>()
            + tree.by_name.allocation_size();
        assert!(bytes as u64 / files < 100, "{bytes}");
        assert_eq!(
            tree.named(b"package-0999999.tar.gz").unwrap().index,
            999_999
        );
    }

    proptest! {
        #[test]
        fn it_finds_what_a_plain_list_finds(
            names in prop::collection::vec("[abc]{0,3}", 0..60),
            asked in "[abc]{0,3}",
        ) {
            let mut tree = Tree::default();
            let mut list: Vec<String> = Vec::new();
            for (n, name) in names.iter().enumerate() {
                let taken = list.iter().position(|have| have == name);
                let pushed = tree.push(name.as_bytes(), n as u64, n as u64);
                prop_assert_eq!(pushed.err(), taken.map(|n| NotAdded::Taken(n as u64)));
                if taken.is_none() {
                    list.push(name.clone());
                }
            }
            let found = tree.named(asked.as_bytes()).map(|node| node.index);
            prop_assert_eq!(found, list.iter().position(|n| *n == asked).map(|n| n as u64));
            let all: Vec<_> = tree.from(0).map(|node| node.name.to_vec()).collect();
            prop_assert_eq!(all, list.iter().map(|n| n.as_bytes().to_vec()).collect::<Vec<_>>());
            for (n, name) in list.iter().enumerate() {
                let node = tree.node(n as u64 + 2).unwrap();
                prop_assert_eq!(node.name, name.as_bytes());
                prop_assert_eq!(node.ino(), n as u64 + 2);
            }
        }
    }
}
