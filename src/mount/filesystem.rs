//! The filesystem, independent of the kernel: it looks up names and inode numbers, lists the
//! directory and reads files.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::block::{AlignedBuf, PAGE, read_exact_at};
use crate::error::{Error, Kind, Result};
use crate::payload::{Entry, EntryReader, Payload, Problem, Sha256Sum};
use crate::progress::Progress;

use super::errno::Refusal;
use super::saved_index::{Confirmed, Unfit, read_index, write_index};
use super::tree::{Node, ROOT, Tree};
use super::tree_builder::{Strictness, build_tree};

/// The result of a request from the kernel.
pub type Answer<T> = std::result::Result<T, Refusal>;

/// The largest read, in bytes, that uses a reusable buffer. Linux sends no larger request unless
/// /proc/sys/fs/fuse/max_pages_limit is raised.
const READ_BYTES: usize = 1 << 20;

/// The number of buffers that are kept for later reads.
const KEPT_BUFFERS: usize = 4;

/// The number of failed reads, and of checksums, that are remembered.
const REMEMBERED: usize = 4096;

/// The kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// The directory.
    Directory,
    /// A file of that many bytes.
    File(u64),
}

/// One row of a directory listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The inode number.
    pub ino: u64,
    /// The kind of the node.
    pub kind: NodeKind,
    /// The name.
    pub name: &'a [u8],
    /// The offset at which the listing continues after this row.
    pub next: u64,
}

/// A payload as a directory of files.
pub struct Filesystem {
    payload: Payload,
    tree: Tree,
    strictness: Strictness,
    problems: (u64, Option<String>),
    /// For a tree from an index: the files whose headers have been compared with it.
    confirmed: Option<Confirmed>,
    buffers: Mutex<Vec<AlignedBuf>>,
    faults: Mutex<BTreeMap<u64, String>>,
    sums: Mutex<HashMap<u64, Sha256Sum>>,
    summing: Mutex<()>,
}

impl Filesystem {
    /// Reads all headers of `payload`. Problems that are not errors are passed to `report`.
    ///
    /// # Errors
    /// The first problem if strict; an interruption.
    pub fn new(
        payload: Payload,
        strictness: Strictness,
        progress: &dyn Progress,
        report: &mut dyn FnMut(&Problem),
    ) -> Result<Self> {
        let mut problems = (0, None);
        let tree = build_tree(&payload, strictness, progress, &mut |problem| {
            problems.0 += 1;
            problems.1.get_or_insert_with(|| described(problem));
            report(problem);
        })?;
        Ok(Self {
            strictness,
            problems,
            ..Self::over(payload, tree)
        })
    }

    /// Does the same as [`Filesystem::new`], from an index that [`Filesystem::write_index`] wrote
    /// for the same image. `changed` is the time of the image's last change (1970 if unknown).
    /// The header of each file is compared with the index before any of its data is returned.
    ///
    /// # Errors
    /// The index belongs to another image, or is damaged.
    pub fn from_index(
        payload: Payload,
        changed: SystemTime,
        index: impl Read,
    ) -> std::result::Result<Self, Unfit> {
        let (tree, confirmed) = read_index(&payload, changed, index)?;
        Ok(Self {
            confirmed: Some(confirmed),
            ..Self::over(payload, tree)
        })
    }

    fn over(payload: Payload, tree: Tree) -> Self {
        Self {
            payload,
            tree,
            strictness: Strictness::Strict,
            problems: (0, None),
            confirmed: None,
            buffers: Mutex::default(),
            faults: Mutex::default(),
            sums: Mutex::default(),
            summing: Mutex::default(),
        }
    }

    /// Writes an index for [`Filesystem::from_index`]. The image must be intact, because an index
    /// cannot hold problems.
    ///
    /// # Errors
    /// Writing to `out` fails.
    pub fn write_index(&self, changed: SystemTime, out: impl Write) -> io::Result<()> {
        debug_assert!(self.is_intact());
        write_index(&self.tree, &self.payload, changed, out)
    }

    /// Returns whether no problem was found in the headers.
    pub fn is_intact(&self) -> bool {
        self.problems.0 == 0
    }

    /// Returns the payload.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Returns the tree of files.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns the offset of the payload in its disk or image, in bytes.
    pub(super) fn base(&self) -> u64 {
        self.payload.source().start()
    }

    /// Returns the number of problems of the image, and a description of the first one.
    pub(super) fn problems(&self) -> (u64, Option<&str>) {
        (self.problems.0, self.problems.1.as_deref())
    }

    /// Returns the file called `name` in the directory `parent`.
    ///
    /// # Errors
    /// There is no such file, or `parent` is not a directory.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Answer<Node<'_>> {
        self.directory(parent)?;
        self.tree.named(name).ok_or(Refusal::NotThere)
    }

    /// Returns the kind of the node with the inode number `ino`.
    ///
    /// # Errors
    /// There is no such node.
    pub fn kind(&self, ino: u64) -> Answer<NodeKind> {
        if ino == ROOT {
            return Ok(NodeKind::Directory);
        }
        let node = self.tree.node(ino).ok_or(Refusal::NotThere)?;
        Ok(NodeKind::File(node.size))
    }

    /// Returns the file with the inode number `ino`.
    ///
    /// # Errors
    /// There is no such node, or it is the directory.
    pub fn file(&self, ino: u64) -> Answer<Node<'_>> {
        if ino == ROOT {
            return Err(Refusal::ADirectory);
        }
        self.tree.node(ino).ok_or(Refusal::NotThere)
    }

    fn directory(&self, ino: u64) -> Answer<()> {
        match self.kind(ino)? {
            NodeKind::Directory => Ok(()),
            NodeKind::File(_) => Err(Refusal::NotADirectory),
        }
    }

    /// Returns the rows of the directory `ino` from `offset` on. `offset` is 0 or the `next` of
    /// another row. `.` and `..` come first, then the files in the payload's order.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn list(&self, ino: u64, offset: u64) -> Answer<impl Iterator<Item = Row<'_>>> {
        self.directory(ino)?;
        let dots = [&b"."[..], b".."].into_iter().enumerate();
        let dots = dots.map(|(n, name)| Row {
            ino: ROOT,
            kind: NodeKind::Directory,
            name,
            next: n as u64 + 1,
        });
        let files = self.tree.from(offset.saturating_sub(2)).map(|node| Row {
            ino: node.ino(),
            kind: NodeKind::File(node.size),
            name: node.name,
            next: node.index + 3,
        });
        let seen = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(dots.skip(seen).chain(files))
    }

    /// Passes up to `size` bytes of the file `ino`, from `offset` on, to `give`. Fewer bytes are
    /// passed only at the end of the file, because the kernel takes a short read as the end.
    ///
    /// # Errors
    /// There is no such file, the data cannot be read, or the source ends early.
    pub fn read<T>(
        &self,
        ino: u64,
        offset: u64,
        size: usize,
        give: impl FnOnce(&[u8]) -> T,
    ) -> Answer<T> {
        let node = self.file(ino)?;
        let left = node.size.saturating_sub(offset);
        let want = left.min(size as u64) as usize;
        if want == 0 {
            return Ok(give(&[]));
        }
        self.confirm(&node)?;
        let source = &**self.payload.source();
        let alignment = source.alignment() as u64;
        let at = node.data_offset + offset;
        let start = at - at % alignment;
        let skip = (at - start) as usize;
        let span = (skip + want).next_multiple_of(alignment as usize);
        let mut buf = self.buffer(span)?;
        let read = read_exact_at(source, &mut buf[..span], start);
        let given = match read {
            Ok(n) if n >= skip + want => Ok(give(&buf[skip..skip + want])),
            Ok(n) => {
                let end = at + n.saturating_sub(skip) as u64;
                let message = "the source ends here, it was longer when it was mounted";
                let error = Error::new(Kind::Changed, message).doing("read");
                self.note_fault(ino, &self.of_file(error, &node, end));
                Err(Refusal::Unreadable)
            }
            Err(e) => {
                self.note_fault(ino, &self.of_file(Error::io("read", e), &node, at));
                Err(Refusal::Unreadable)
            }
        };
        self.keep(buf);
        given
    }

    /// Returns the SHA-256 sum of the file `ino` if it is already known.
    ///
    /// # Errors
    /// There is no such file.
    pub fn known_sum(&self, ino: u64) -> Answer<Option<Sha256Sum>> {
        self.file(ino)?;
        Ok(lock(&self.sums).get(&ino).copied())
    }

    /// Returns the SHA-256 sum of the file `ino`. This may take as long as reading the file. Only
    /// one sum is computed at a time.
    ///
    /// # Errors
    /// There is no such file, or it cannot be read.
    pub fn sum(&self, ino: u64) -> Answer<Sha256Sum> {
        let _turn = lock(&self.summing);
        if let Some(sum) = self.known_sum(ino)? {
            return Ok(sum);
        }
        let node = self.file(ino)?;
        self.confirm(&node)?;
        let entry = Entry {
            index: node.index,
            raw_name: node.name.to_vec(),
            header_offset: node.data_offset,
            data_offset: node.data_offset,
            size: node.size,
        };
        let sum = sum_of(&self.payload, &entry).map_err(|error| {
            self.note_fault(ino, &error);
            Refusal::Unreadable
        })?;
        let mut sums = lock(&self.sums);
        if sums.len() >= REMEMBERED {
            sums.clear();
        }
        sums.insert(ino, sum);
        Ok(sum)
    }

    /// Returns what is wrong with the file `ino`: a problem in its header, or a read that failed.
    ///
    /// # Errors
    /// There is no such file.
    pub fn problem(&self, ino: u64) -> Answer<Option<String>> {
        let node = self.file(ino)?;
        if let Some(fault) = lock(&self.faults).get(&ino) {
            return Ok(Some(fault.clone()));
        }
        if self.strictness == Strictness::Strict || self.problems.0 == 0 {
            return Ok(None);
        }
        Ok(self.problem_of_header(&node))
    }

    /// Reads the header again to find its problem. Problems are not kept in memory, since a
    /// hostile image may have one in every header.
    fn problem_of_header(&self, node: &Node<'_>) -> Option<String> {
        let before = node.index.checked_sub(1).and_then(|n| self.tree.at(n));
        let header_offset = before.map_or(self.payload.dialect().header_len(), |before| {
            before.data_offset + before.size
        });
        let mut walk = self.payload.walk_from(node.index, header_offset).ok()?;
        match walk.next()? {
            Err(problem) => Some(described(&problem)),
            Ok(entry) => match entry.name() {
                Err(fault) => Some(fault.to_string()),
                Ok(name) if name.as_str().as_bytes() != node.name => {
                    Some(format!("an earlier file is called {name} too"))
                }
                Ok(_) => None,
            },
        }
    }

    /// Compares the header of `node` with the index before any of its data is read.
    fn confirm(&self, node: &Node<'_>) -> Answer<()> {
        let Some(confirmed) = &self.confirmed else {
            return Ok(());
        };
        let error = match confirmed.confirm(&self.payload, node) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                let message = "the index is of another image, remove it and mount again";
                Error::new(Kind::Changed, message).doing("read")
            }
            Err(e) => Error::io("read", e),
        };
        self.note_fault(node.ino(), &self.of_file(error, node, node.data_offset));
        Err(Refusal::Unreadable)
    }

    /// Adds the file and the offset in the whole image to `error`.
    fn of_file(&self, error: Error, node: &Node<'_>, at: u64) -> Error {
        let name = String::from_utf8_lossy(node.name);
        error
            .with_path(self.payload.source().path())
            .with_entry(node.index, Some(&name))
            .with_offset(self.base() + at)
    }

    /// Keeps the error, as one line, for the attribute `problem`.
    fn note_fault(&self, ino: u64, error: &Error) {
        let fault = error.one_line();
        log::error!("{fault}");
        remember(&self.faults, ino, fault);
    }

    fn buffer(&self, bytes: usize) -> Answer<AlignedBuf> {
        if bytes > READ_BYTES + 2 * PAGE {
            return AlignedBuf::new(bytes).map_err(Refusal::Exhausted);
        }
        match lock(&self.buffers).pop() {
            Some(buf) => Ok(buf),
            None => AlignedBuf::new(READ_BYTES + 2 * PAGE).map_err(Refusal::Exhausted),
        }
    }

    fn keep(&self, buf: AlignedBuf) {
        let mut buffers = lock(&self.buffers);
        if buffers.len() < KEPT_BUFFERS && buf.len() == READ_BYTES + 2 * PAGE {
            buffers.push(buf);
        }
    }
}

fn described(problem: &Problem) -> String {
    match (problem.index, &problem.name) {
        (Some(index), Some(name)) => format!("entry {index} {name:?}: {}", problem.message()),
        (Some(index), None) => format!("entry {index}: {}", problem.message()),
        (None, _) => problem.message(),
    }
}

fn remember(faults: &Mutex<BTreeMap<u64, String>>, ino: u64, fault: String) {
    let mut faults = lock(faults);
    if faults.len() < REMEMBERED || faults.contains_key(&ino) {
        faults.insert(ino, fault);
    }
}

/// Locks `mutex`, ignoring poisoning: a thread that panicked has left no value half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sum_of(payload: &Payload, entry: &Entry) -> Result<Sha256Sum> {
    let mut hasher = Sha256::new();
    let mut reader = EntryReader::new(payload, entry)?;
    while let Some(bytes) = reader.next_block()? {
        hasher.update(bytes);
    }
    Ok(Sha256Sum::from_hasher(hasher))
}
