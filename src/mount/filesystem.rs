//! The filesystem, independent of the kernel: it looks up names and inode numbers, lists the
//! directory and reads files.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::block::{AlignedBuf, PAGE};
use crate::error::{Result, printable};
use crate::payload::{Entry, EntryReader, Payload, Problem, Sha256Sum, TrustedKeys};
use crate::progress::Progress;
use crate::sync::Mutex;

use super::errno::Refusal;
use super::faults::{FaultCause, Faults, HEADER};
use super::lock::lock;
use super::saved_index::{Confirmed, Unfit, read_index, write_index};
use super::signed::{SignedFiles, entry_of};
use super::tree::{Node, ROOT, Tree};
use super::tree_builder::{Strictness, build_tree};

/// The result of a request from the kernel.
pub type Answer<T> = std::result::Result<T, Refusal>;

/// The largest read, in bytes, that uses a reusable buffer. Linux sends no larger request unless
/// /proc/sys/fs/fuse/max_pages_limit is raised.
const READ_BYTES: usize = 1 << 20;
/// The length of such a buffer: parts of up to 16 KiB are read as a whole (`Source::part`).
const BUFFER_BYTES: usize = READ_BYTES + 8 * PAGE;

/// The number of buffers that are kept for later reads.
const KEPT_BUFFERS: usize = 4;

/// The number of checksums that are remembered.
const REMEMBERED: usize = 4096;

/// What the kernel has read so far, for the attributes of the directory.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// The number of read requests.
    pub(super) reads: AtomicU64,
    /// The number of bytes that they got.
    pub(super) bytes: AtomicU64,
    /// The number of reads and checksums that failed.
    pub(super) errors: AtomicU64,
}

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
    /// What was signed, if only a signed payload is accepted.
    signed: Option<SignedFiles>,
    buffers: Mutex<Vec<AlignedBuf>>,
    faults: Faults,
    sums: Mutex<HashMap<u64, Sha256Sum>>,
    counters: Counters,
    /// Whether it was logged that something was healed.
    told_healed: AtomicBool,
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
            signed: None,
            buffers: Mutex::default(),
            faults: Faults::default(),
            sums: Mutex::default(),
            counters: Counters::default(),
            told_healed: AtomicBool::new(false),
        }
    }

    /// Accepts the payload only if one of `keys` has signed it, and its files only with the content
    /// that was signed. Each file is checked as a whole before its first byte is given out.
    ///
    /// # Errors
    /// The payload is not signed by one of `keys`, or has a file that was not signed.
    pub fn trusting(mut self, keys: &TrustedKeys) -> Result<Self> {
        self.signed = Some(SignedFiles::read(&self.payload, &self.tree, keys)?);
        Ok(self)
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

    /// Returns the SHA-256 sum of the file `ino` if it is already known.
    ///
    /// # Errors
    /// There is no such file.
    pub fn known_sum(&self, ino: u64) -> Answer<Option<Sha256Sum>> {
        let node = self.file(ino)?;
        if let Some(signed) = &self.signed {
            return Ok(signed.checked(&node));
        }
        Ok(lock(&self.sums).get(&ino).copied())
    }

    /// Returns the SHA-256 sum of the file `ino`. This may take as long as reading the file.
    ///
    /// # Errors
    /// There is no such file, or it cannot be read.
    pub fn sum(&self, ino: u64) -> Answer<Sha256Sum> {
        self.sum_until(ino, &AtomicBool::new(false))
    }

    /// Does the same as [`Filesystem::sum`], but stops soon after `stop` is set.
    pub(super) fn sum_until(&self, ino: u64, stop: &AtomicBool) -> Answer<Sha256Sum> {
        if let Some(sum) = self.known_sum(ino)? {
            return Ok(sum);
        }
        let node = self.file(ino)?;
        self.confirm(&node)?;
        if self.signed.as_ref().is_some_and(|s| s.is_refused(&node)) {
            self.counters.errors.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::Unreadable);
        }
        let entry = entry_of(&node);
        let sum = sum_of(&self.payload, &entry, stop);
        self.note_healed();
        let sum = match sum {
            Ok(Some(sum)) => sum,
            Ok(None) => return Err(Refusal::Stopped),
            Err(error) => {
                let at = error
                    .offset()
                    .map_or(node.data_offset, |at| at.saturating_sub(self.base()));
                let start = at.saturating_sub(node.data_offset);
                self.note_fault(&node, start..start + 1, at, FaultCause::of(&error));
                return Err(Refusal::Unreadable);
            }
        };
        if let Some(signed) = &self.signed {
            if !signed.is_right(&node, sum) {
                self.note_fault(&node, 0..node.size, node.data_offset, FaultCause::Signed);
                return Err(Refusal::Unreadable);
            }
        }
        self.faults.clear(ino, 0..u64::MAX);
        if self.signed.is_some() {
            return Ok(sum);
        }
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
        if let Some((at, cause)) = self.faults.latest(ino) {
            return Ok(Some(self.described_fault(&node, at, &cause)));
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

    /// Returns whether nothing must be compared before data of `node` is returned.
    pub(super) fn is_confirmed(&self, node: &Node<'_>) -> bool {
        let confirmed = self.confirmed.as_ref();
        confirmed.is_none_or(|confirmed| confirmed.has(node))
            && self
                .signed
                .as_ref()
                .is_none_or(|s| s.checked(node).is_some())
    }

    /// Returns whether the file `ino` must be read as a whole, to be compared with what was signed,
    /// before any of its data is returned.
    pub(super) fn needs_check(&self, ino: u64) -> bool {
        let (Some(signed), Ok(node)) = (&self.signed, self.file(ino)) else {
            return false;
        };
        node.size > 0 && signed.checked(&node).is_none() && !signed.is_refused(&node)
    }

    /// Compares the file with what was signed, if it has not been compared yet.
    pub(super) fn check_signed(&self, node: &Node<'_>) -> Answer<()> {
        match &self.signed {
            Some(signed) if signed.checked(node).is_none() => self.sum(node.ino()).map(drop),
            _ => Ok(()),
        }
    }

    /// Compares the header of `node` with the index before any of its data is read.
    pub(super) fn confirm(&self, node: &Node<'_>) -> Answer<()> {
        let Some(confirmed) = &self.confirmed else {
            return Ok(());
        };
        let cause = match confirmed.confirm(&self.payload, node) {
            Ok(true) => {
                self.faults.clear_header(node.ino());
                return Ok(());
            }
            Ok(false) => FaultCause::Index,
            Err(e) => FaultCause::of_io(&e),
        };
        self.note_fault(node, HEADER, node.data_offset, cause);
        Err(Refusal::Unreadable)
    }

    /// Logs the first damage of the source that was healed.
    pub fn note_healed(&self) {
        let source = self.payload.source();
        let healed = source.healed_blocks().unwrap_or(0);
        if healed == 0 || self.told_healed.swap(true, Ordering::Relaxed) {
            return;
        }
        let were = if healed == 1 {
            "block was"
        } else {
            "blocks were"
        };
        log::warn!(
            "{healed} damaged {were} healed while `{}` was read, repair it before more is damaged",
            printable(&source.path().to_string_lossy())
        );
    }

    /// Remembers that the bytes `range` of a file cannot be read, for the attribute `problem`.
    /// An error that is not known yet is logged. `at` is an offset in the payload.
    pub(super) fn note_fault(
        &self,
        node: &Node<'_>,
        range: Range<u64>,
        at: u64,
        cause: FaultCause,
    ) {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        let said = self.described_fault(node, at, &cause);
        if self.faults.add(node.ino(), range, at, cause) {
            log::error!("{said}");
        }
    }

    /// Describes a fault in one line, with the name of the file and the offset in the image.
    fn described_fault(&self, node: &Node<'_>, at: u64, cause: &FaultCause) -> String {
        let name = String::from_utf8_lossy(node.name);
        cause
            .error()
            .with_path(self.payload.source().path())
            .with_entry(node.index, Some(&name))
            .with_offset(self.base() + at)
            .one_line()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns a buffer of at least `bytes` bytes.
    pub(super) fn buffer(&self, bytes: usize) -> Answer<AlignedBuf> {
        if bytes > BUFFER_BYTES {
            return AlignedBuf::new(bytes).map_err(Refusal::Exhausted);
        }
        match lock(&self.buffers).pop() {
            Some(buf) => Ok(buf),
            None => AlignedBuf::new(BUFFER_BYTES).map_err(Refusal::Exhausted),
        }
    }

    /// Keeps a buffer for later reads.
    pub(super) fn keep(&self, buf: AlignedBuf) {
        let mut buffers = lock(&self.buffers);
        if buffers.len() < KEPT_BUFFERS && buf.len() == BUFFER_BYTES {
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

/// Returns `None` if `stop` was set.
fn sum_of(payload: &Payload, entry: &Entry, stop: &AtomicBool) -> Result<Option<Sha256Sum>> {
    let mut hasher = Sha256::new();
    let mut reader = EntryReader::new(payload, entry)?;
    while let Some(bytes) = reader.next_block()? {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        hasher.update(bytes);
    }
    Ok(Some(Sha256Sum::from_hasher(hasher)))
}
