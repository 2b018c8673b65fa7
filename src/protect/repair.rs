//! Repairs a protected payload in place, or writes a repaired copy.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::block::{AlignedBuf, PAGE, Ranges, Source, SourceOptions, read_exact_at};
use crate::durable::AtomicFile;
use crate::error::{Error, Kind, Result};
use crate::payload::{Index, Payload};
use crate::progress::Progress;
use crate::protection::{
    BLOCK, DEFAULT_MEMORY, FileTarget, Geometry, Header, Healer, ProtectedSource, Target,
    TrailerDamage, TrailerWriter, last_block,
};

use super::add::{no_room, refuse_data};
use super::fixing_target::FixingTarget;
use super::opened::{self, Opened, failed_at};
use super::stream::{put_payload, read_ahead};

/// How a payload is repaired.
#[non_exhaustive]
pub struct RepairOptions {
    /// Where the payload starts, in bytes from the start of the file or device.
    pub offset: u64,
    /// Other copies of the payload, which may be damaged too.
    pub copies: Vec<Arc<dyn Source>>,
    /// Whether to report only what would be done.
    pub dry_run: bool,
    /// Whether the header of the trailer comes from one of the copies, because the source has lost
    /// its own trailer. It is written again.
    pub lost_trailer: bool,
    /// Whether to repair what is possible, although not everything is.
    pub force: bool,
    /// The memory limit in bytes.
    pub memory: usize,
}

impl Default for RepairOptions {
    fn default() -> Self {
        Self {
            offset: 0,
            copies: Vec::new(),
            dry_run: false,
            lost_trailer: false,
            force: false,
            memory: DEFAULT_MEMORY,
        }
    }
}

/// The result of a repair.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RepairReport {
    /// The redundancy in percent.
    pub percent: u32,
    /// The number of bytes that were checked.
    pub checked_bytes: u64,
    /// The damaged blocks of the payload.
    pub damaged: Ranges,
    /// The damaged blocks of the payload that could not be healed.
    pub lost: Ranges,
    /// The damage of the trailer.
    pub trailer: TrailerDamage,
    /// The number of blocks that were written.
    pub written_blocks: u64,
}

/// Repairs the payload at `path`, whose trailer has this header. What was computed is checked
/// before it is written. Only damaged blocks are written. They are synced, and read again.
///
/// # Errors
/// More is damaged than can be healed, and `force` is not set: nothing is written then. Or the
/// file or device fails.
pub fn repair(
    path: &Path,
    header: &Header,
    options: RepairOptions,
    progress: &dyn Progress,
) -> Result<RepairReport> {
    let source = SourceOptions {
        offset: options.offset,
        ..SourceOptions::default()
    }
    .open(path)?;
    let open = || {
        let opened = Opened::open(path)?;
        Ok(Box::new(FileTarget::new(opened.file, options.offset)) as Box<dyn Target>)
    };
    repair_source(&source, &open, header, &options, progress)
}

/// Does the same as [`repair`], for any source. `open` opens it for writing, and is called only
/// if something is to be written.
///
/// # Errors
/// The same as for [`repair`].
pub fn repair_source(
    source: &Arc<dyn Source>,
    open: &dyn Fn() -> Result<Box<dyn Target>>,
    header: &Header,
    options: &RepairOptions,
    progress: &dyn Progress,
) -> Result<RepairReport> {
    let path = source.path();
    let failed = |e: io::Error| failed_at("repair", e, path);
    let geometry = header.geometry().clone();
    let healer = Healer::new(Arc::clone(source), header.clone(), options.memory / 2)
        .with_copies(options.copies.iter().cloned());
    progress.begin("checking", geometry.end());
    let damaged = healer.damaged_blocks(progress).map_err(failed)?;
    let third = last_block(source.len());
    let third = third.filter(|at| source.is_device() && *at >= geometry.end());
    let trailer = healer.damaged_trailer(third, progress).map_err(failed)?;
    progress.end();
    let mut report = RepairReport {
        percent: geometry.percent(),
        checked_bytes: geometry.payload_len(),
        damaged,
        lost: Ranges::default(),
        trailer,
        written_blocks: 0,
    };
    if options.lost_trailer && !options.force {
        refuse_another_payload(source, &geometry, &report)?;
    }
    // The first pass only finds out what can be healed.
    if options.dry_run || !options.force {
        report.lost = heal(&healer, &report.damaged, None, progress)
            .map_err(failed)?
            .0;
        if options.dry_run {
            return Ok(report);
        }
        if !report.lost.is_empty() {
            let (lost, damaged) = (report.lost.count(), report.damaged.count());
            let message = format!("{lost} of {damaged} damaged blocks cannot be healed");
            return Err(Error::new(Kind::Refused, message)
                .with_code("cannot-heal")
                .doing("repair")
                .with_path(path)
                .note("nothing was written"));
        }
    }
    if report.damaged.is_empty() && report.trailer.is_empty() {
        return Ok(report);
    }
    let target = open()?;
    let target = &*target;
    let (lost, written) = heal(&healer, &report.damaged, Some(target), progress).map_err(failed)?;
    report.lost = lost;
    target.sync().map_err(failed)?;
    read_again(source, header, &report, options, path)?;
    report.written_blocks = written;
    if !report.trailer.is_empty() {
        let fixing = FixingTarget::new(target);
        if report.lost.is_empty() {
            let healer = Healer::new(Arc::clone(source), header.clone(), options.memory / 4)
                .with_copies(options.copies.iter().cloned());
            let healed: Arc<dyn Source> =
                Arc::new(ProtectedSource::new(Arc::clone(source), healer, 64 << 20));
            let payload = Payload::open(Arc::clone(&healed))?;
            let index = Index::strict(&payload, progress)?;
            let memory = options.memory / 2;
            let mut writer = TrailerWriter::again(&fixing, header, memory).map_err(failed)?;
            put_payload(&mut writer, &index, &healed, progress)?;
            progress.begin("protecting", geometry.payload_len());
            let advance = |bytes| opened::advance(progress, bytes);
            writer.finish(third, memory, &advance).map_err(failed)?;
            progress.end();
        } else {
            let mut block = AlignedBuf::new(PAGE).map_err(failed)?;
            block[..PAGE].copy_from_slice(&header.encode());
            for at in &report.trailer.headers {
                fixing.write_all_at(&block[..PAGE], *at).map_err(failed)?;
            }
            fixing.sync().map_err(failed)?;
        }
        report.written_blocks += fixing.written();
    }
    Ok(report)
}

/// Refuses to make a source, which has lost its trailer, equal to a copy if it seems to be another
/// payload, or to write a trailer over other data or where there is no room.
fn refuse_another_payload(
    source: &Arc<dyn Source>,
    geometry: &Geometry,
    report: &RepairReport,
) -> Result<()> {
    let path = source.path();
    let damaged = report.damaged.count();
    if damaged * 2 > geometry.payload_len().div_ceil(BLOCK) {
        let message = "more than half of it differs from the copy that has the trailer";
        return Err(Error::new(Kind::Refused, message)
            .with_code("other-payload")
            .doing("repair")
            .with_path(path)
            .note(format!("{damaged} blocks of 4096 bytes differ")));
    }
    if source.is_device() && geometry.end() > source.len() {
        return Err(no_room(path, geometry, source.len()));
    }
    // What is left of the trailer may be overwritten.
    match report.trailer.recovery.count() < geometry.recovery_blocks() {
        true => Ok(()),
        false => refuse_data(source, geometry, true, "repair"),
    }
}

/// Heals damaged blocks, and writes them if there is a target. Returns those that are lost, and
/// the number of those that were written.
fn heal(
    healer: &Healer,
    damaged: &Ranges,
    target: Option<&dyn Target>,
    progress: &dyn Progress,
) -> io::Result<(Ranges, u64)> {
    let geometry = healer.geometry().clone();
    let (mut lost, mut written) = (Ranges::default(), 0);
    let mut buf = AlignedBuf::new(PAGE)?;
    let phase = if target.is_some() {
        "repairing"
    } else {
        "healing"
    };
    progress.begin(phase, damaged.count() * BLOCK);
    healer.heal_all(damaged, &mut |group, bytes| {
        let blocks = geometry
            .blocks_of(group)
            .filter(|block| damaged.contains(*block));
        for block in blocks {
            opened::advance(progress, BLOCK)?;
            let Some(bytes) = bytes else {
                lost.add(block..block + 1);
                continue;
            };
            let Some(target) = target else {
                continue;
            };
            let at = (block * BLOCK - group * crate::protection::GROUP) as usize;
            let part = &bytes[at..bytes.len().min(at + PAGE)];
            buf[..part.len()].copy_from_slice(part);
            buf[part.len()..PAGE].fill(0);
            target.write_all_at(&buf[..PAGE], block * BLOCK)?;
            written += 1;
        }
        Ok(())
    })?;
    progress.end();
    Ok((lost, written))
}

/// Reads what was written again, and compares it with the tree.
fn read_again(
    source: &Arc<dyn Source>,
    header: &Header,
    report: &RepairReport,
    options: &RepairOptions,
    path: &Path,
) -> Result<()> {
    let failed = |e: io::Error| failed_at("read", e, path);
    let healer = Healer::new(Arc::clone(source), header.clone(), options.memory / 4)
        .with_copies(options.copies.iter().cloned());
    let geometry: &Geometry = header.geometry();
    let mut buf = AlignedBuf::new(4 * PAGE).map_err(failed)?;
    let mut last = None;
    for block in report.damaged.iter().flatten() {
        let group = block / 4;
        if last == Some(group) || geometry.blocks_of(group).any(|b| report.lost.contains(b)) {
            continue;
        }
        last = Some(group);
        let offset = group * 4 * BLOCK;
        let len = (geometry.payload_len() - offset).min(4 * BLOCK) as usize;
        let padded = len.next_multiple_of(PAGE);
        let n = read_exact_at(&**source, &mut buf[..padded], offset).map_err(failed)?;
        if n < len || !healer.is_right(group, &buf[..len]) {
            let message = "what was written is not what is read again";
            return Err(Error::new(Kind::Io, message)
                .with_code("repair-failed")
                .with_path(path)
                .with_offset(offset)
                .advice("the disk is failing, write a repaired copy elsewhere"));
        }
    }
    Ok(())
}

/// Writes a repaired copy of the payload in `source`, with a new trailer, to a file.
///
/// # Errors
/// More is damaged than can be healed, or a file fails. The file `out` is unchanged then.
pub fn repair_into(
    source: &Arc<dyn Source>,
    header: &Header,
    options: RepairOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<RepairReport> {
    let healer = Healer::new(Arc::clone(source), header.clone(), options.memory / 4)
        .with_copies(options.copies);
    let geometry = header.geometry().clone();
    let protected = Arc::new(ProtectedSource::new(Arc::clone(source), healer, 64 << 20));
    let healed = Arc::clone(&protected) as Arc<dyn Source>;
    let mut file = AtomicFile::create(out)?;
    progress.begin("copying", geometry.payload_len());
    read_ahead(&healed, geometry.payload_len(), &mut |bytes| {
        let written = file.write_all(bytes);
        written.map_err(|e| Error::io("write", e).with_path(out))?;
        opened::advance(progress, bytes.len() as u64).map_err(|e| failed_at("copy", e, out))
    })
    .map_err(|e| match e.io_error().map(io::Error::kind) {
        Some(io::ErrorKind::InvalidData) => {
            let lost = protected.report().found.lost.count();
            let message = format!("at least {lost} damaged blocks cannot be healed");
            Error::new(Kind::Refused, message)
                .with_code("cannot-heal")
                .doing("repair")
                .with_path(source.path())
                .note("nothing was written")
        }
        _ => e,
    })?;
    progress.end();
    let failed = |e: io::Error| failed_at("write", e, out);
    let own = file.file().try_clone().map_err(failed)?;
    let target = FileTarget::new(own, 0);
    let payload = Payload::open(Arc::clone(&healed))?;
    let index = Index::strict(&payload, progress)?;
    let plan = Geometry::plan(
        index.payload_bytes(),
        index.payload_bytes() - index.data_bytes(),
        geometry.percent(),
    );
    let plan = plan.ok_or_else(|| Error::bug("a trailer was read that cannot be planned"))?;
    let begun = TrailerWriter::begin(&target, plan, options.memory / 2, header.former_len);
    let mut writer = begun.map_err(failed)?;
    put_payload(&mut writer, &index, &healed, progress)?;
    progress.begin("protecting", geometry.payload_len());
    let advance = |bytes| opened::advance(progress, bytes);
    let made = writer
        .finish(None, options.memory / 2, &advance)
        .map_err(failed)?;
    progress.end();
    if made.root != header.root {
        return Err(Error::bug("the repaired copy has another hash"));
    }
    file.commit()?;
    let found = protected.report().found;
    Ok(RepairReport {
        percent: geometry.percent(),
        checked_bytes: geometry.payload_len(),
        damaged: found.damaged,
        lost: found.lost,
        trailer: TrailerDamage::default(),
        written_blocks: geometry.end() / BLOCK,
    })
}
