//! Writes a payload: plans it first, then streams it to its destination.

mod behind;
mod contents;
mod device;
mod hashing;
mod inputs;
mod list;
mod mismatch;
mod plan;
mod read_back;
mod report;
mod room;
mod signatures;
mod signer;
mod trailer;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::block::SourceOptions;
use crate::durable::AtomicFile;
use crate::error::{Error, Kind, Result};
use crate::format::{EMBEDDED_SUMS, Name};
use crate::payload::{PayloadWriter, Sha256Sum};
use crate::progress::Progress;
use crate::protection::{FileTarget, Header, Healer, Target, erase_headers};
use crate::sys::drop_cached;

pub use contents::{Content, Contents};
pub use device::OutputDevice;
pub use inputs::{Input, Inputs};
pub use plan::{Options, Plan, plan};
pub use report::Report;
pub use room::{refuse_too_little_room, remove_leftovers};
pub use signer::Signer;

use behind::behind;
use hashing::{Hashing, SMALL_MAX};
use mismatch::Mismatch;
use read_back::{BLOCK, Blocks, Written};
use trailer::Tee;

/// Writes the payload to a file: under a temporary name in the same directory, then synced
/// and renamed. If the options say so, it is read back and compared before the rename.
///
/// # Errors
/// An error of the plan's inputs or of the file system, too little room, or other bytes came
/// back. Then the file is unchanged.
pub fn to_file(plan: &Plan, path: &Path, progress: &dyn Progress) -> Result<Report> {
    plan.refuse_output_among_inputs(path)?;
    refuse_too_little_room(path, plan.image_bytes)?;
    let file = AtomicFile::create(path)?;
    let named = |e: Error| {
        if e.io_error().is_some() {
            e.with_path(path)
        } else {
            e
        }
    };
    let verify = plan.verify.unwrap_or(false);
    let failed = |e| trailer::failed(e, path);
    let target = FileTarget::new(file.file().try_clone().map_err(failed)?, 0);
    let writer = trailer::begin(plan, &target, plan.payload_bytes).map_err(failed)?;
    let file = match &writer {
        Some(writer) if writer.reads_again() => file.keeping_cache(),
        _ => file,
    };
    let out = Blocks::new(file, verify.then(Written::new));
    let ((mut report, out), writer) = trailer::beside(writer, path, |tee| {
        behind(out, &named, |out| stream(plan, out, tee, progress, &named))
    })?;
    let (file, written) = out
        .complete()
        .map_err(|e| Error::io("write", e).with_path(path))?;
    if let Some(writer) = writer {
        trailer::finish(writer, plan, None, path, progress)?;
    }
    if let Some(written) = written {
        let failed = |e| Error::io("sync", e).with_path(path);
        file.file().sync_all().map_err(failed)?;
        // Where direct reads do not work, the data must come from the disk too.
        drop_cached(file.file().as_fd(), 0, 0);
        let source = SourceOptions::default().open(file.temporary_path())?;
        if let Some(wrong) = written.compare(&*source, progress)? {
            let error = wrong.into_error(plan, path);
            return Err(error.note("no file was written"));
        }
        report.verified = true;
    }
    file.commit()?;
    Ok(report)
}

/// Writes the payload to a stream, such as standard output, and syncs it if the stream
/// supports that.
///
/// # Errors
/// An error of the plan's inputs or of the stream.
pub fn to_stream(plan: &Plan, out: File, progress: &dyn Progress) -> Result<Report> {
    let named = |e: Error| {
        if e.io_error().is_some() {
            e.with_path("standard output")
        } else {
            e
        }
    };
    let out = BufWriter::with_capacity(BLOCK, out);
    let (report, out) = stream(plan, out, None, progress, &named)?;
    let out = out
        .into_inner()
        .map_err(|e| named(Error::io("write", e.into_error())))?;
    match out.sync_all() {
        // A pipe cannot be synced.
        Err(e)
            if !matches!(
                e.raw_os_error(),
                Some(libc::EINVAL | libc::EROFS | libc::ENOTSUP)
            ) =>
        {
            Err(named(Error::io("sync", e)))
        }
        _ => Ok(report),
    }
}

/// Writes the payload to a block device that is not in use.
///
/// First, everything is cleared by which the device could be taken for something else: its
/// start, its end, and the signatures in between. The first sector, which contains the magic,
/// is written after everything else is synced, read back and compared. So after a run that
/// fails, the device holds no payload rather than an incomplete one.
///
/// # Errors
/// The device is too small, and nothing was written; an input or the device fails; or other
/// bytes came back.
pub fn to_device(plan: &Plan, device: OutputDevice, progress: &dyn Progress) -> Result<Report> {
    device.refuse_too_small(plan.image_bytes)?;
    let path = device.path().to_path_buf();
    overwrite(plan, device, progress).map_err(|e| {
        if e.io_error().is_some() && e.path() == Some(&path) {
            e.or_advice("the device holds no payload now, try again or use another device")
        } else {
            e
        }
    })
}

fn overwrite(plan: &Plan, device: OutputDevice, progress: &dyn Progress) -> Result<Report> {
    let path = device.path().to_path_buf();
    let verify = plan.verify.unwrap_or(true);
    let device = device::DeviceWriter::start(device, verify.then(Written::new))?;
    let named = |e: Error| {
        if e.io_error().is_some() {
            e.with_path(&path)
        } else {
            e
        }
    };
    let target = device.trailer_target();
    let target = target.map_err(|e| trailer::failed(e, &path))?;
    let writer = trailer::begin(plan, &target, 0).map_err(|e| trailer::failed(e, &path))?;
    let ((mut report, mut device), writer) = trailer::beside(writer, &path, |tee| {
        behind(device, &named, |out| {
            stream(plan, out, tee, progress, &named)
        })
    })?;
    let failed = |e| Error::io("write", e).with_path(&path);
    let written = device.complete().map_err(failed)?;
    let mut header = None;
    if let Some(writer) = writer {
        target.set_first(device.first_sector());
        let third = device.third_header(plan.image_bytes);
        header = Some(trailer::finish(writer, plan, third, &path, progress)?);
    }
    if let Some(written) = written {
        let source = SourceOptions::default().open(&path)?;
        if let Some(wrong) = written.compare(&*source, progress)? {
            forget_trailer(&target, &path, header.as_ref());
            return Err(wrong.into_error(plan, &path));
        }
        if let Some(header) = &header {
            let third = device.third_header(plan.image_bytes);
            let healer = Healer::new(source, header.clone(), 16 << 20);
            let damage = healer.damaged_trailer(third, progress);
            if !damage.map_err(failed)?.is_empty() {
                forget_trailer(&target, &path, Some(header));
                return Err(trailer::read_back_failed(&path));
            }
        }
        report.verified = true;
    }
    if !device.publish(verify).map_err(failed)? {
        forget_trailer(&target, &path, header.as_ref());
        return Err(Mismatch::in_first_sector().into_error(plan, &path));
    }
    Ok(report)
}

/// Packs to a writer of a simulation, as to a device without a trailer. Then reads back through
/// `source`, which shows what was written. Returns whether everything came back.
///
/// # Errors
/// An error of the plan's inputs or of the writer, or an interruption.
#[cfg(feature = "internals")]
pub fn to_writer<W: Write>(
    plan: &Plan,
    out: W,
    source: &dyn crate::block::Source,
    progress: &dyn Progress,
) -> Result<bool> {
    let out = Blocks::new(out, Some(Written::new()));
    let (_, out) = stream(plan, out, None, progress, &|e| e)?;
    let (mut out, written) = out.complete().map_err(|e| Error::io("write", e))?;
    out.flush().map_err(|e| Error::io("sync", e))?;
    match written {
        Some(written) => Ok(written.compare(source, progress)?.is_none()),
        None => Ok(true),
    }
}

/// Erases the headers of a trailer whose payload is not complete. Otherwise readers would find the
/// payload by its trailer, although its first sector is cleared.
fn forget_trailer(target: &dyn Target, path: &Path, header: Option<&Header>) {
    let Some(header) = header else {
        return;
    };
    let erased = SourceOptions::default()
        .open(path)
        .map_err(io::Error::other)
        .and_then(|source| erase_headers(target, &source, header.geometry(), None));
    if let Err(e) = erased {
        // The error that led here is what the user must know.
        log::debug!("{}: the trailer is still there: {e}", path.display());
    }
}

/// Passes on what is written to it, and computes its checksum if that is wanted.
struct Summed<W> {
    out: W,
    hasher: Option<Sha256>,
    tee: Option<Tee>,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..n]);
        }
        if let Some(tee) = &mut self.tee {
            tee.put(&bytes[..n]);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn stream<W: Write>(
    plan: &Plan,
    out: W,
    tee: Option<Tee>,
    progress: &dyn Progress,
    named: &dyn Fn(Error) -> Error,
) -> Result<(Report, W)> {
    let out = Summed {
        out,
        hasher: plan.sum_image.then(Sha256::new),
        tee,
    };
    let mut writer = PayloadWriter::new(out, plan.dialect, plan.files()).map_err(named)?;
    let mut hashing = Hashing::new(plan)?;
    progress.begin("packing", plan.data_bytes);
    for (index, input) in (0..).zip(&plan.inputs) {
        writer.entry(&input.name, input.size).map_err(named)?;
        let mut file = open_input(input)?;
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        if input.size > SMALL_MAX {
            hashing.begin(index);
        }
        let mut left = input.size;
        let mut whole = None;
        while left > 0 {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let mut buf = hashing.buffer()?;
            let want = left.min(BLOCK as u64) as usize;
            let n = read_full(&mut file, &mut buf[..want], input)?;
            if n < want {
                let missing = left - n as u64;
                return Err(changed(input, format!("it ended {missing} bytes early")));
            }
            let block = Arc::new(buf);
            hashing.feed(index, &block, n);
            writer.data(&block[..n]).map_err(named)?;
            progress.advance(n as u64);
            left -= n as u64;
            if input.size <= SMALL_MAX {
                whole = Some(block);
            } else {
                hashing.give_back(block);
            }
        }
        refuse_changed(&mut file, input)?;
        if input.size >= BLOCK as u64 {
            drop_cached(file.as_fd(), 0, 0);
        }
        if input.size > SMALL_MAX {
            hashing.end(index)?;
        } else {
            let bytes = whole.as_ref().map(|block| &block[..input.size as usize]);
            hashing.whole(index, bytes.unwrap_or_default())?;
        }
        whole.into_iter().for_each(|block| hashing.give_back(block));
        progress.file_done(input.name.as_str());
    }
    let sums = hashing.finish()?;
    if plan.embed {
        let name = Name::new(EMBEDDED_SUMS.as_bytes())
            .map_err(|e| Error::new(Kind::Refused, e.to_string()))?;
        writer.entry(&name, sums.len() as u64).map_err(named)?;
        writer.data(sums.as_bytes()).map_err(named)?;
    }
    if let Some(signer) = &plan.signer {
        let signature = signer.sign(sums.as_bytes())?;
        let name = plan::signature_name()?;
        writer.entry(&name, signature.len() as u64).map_err(named)?;
        writer.data(&signature).map_err(named)?;
    }
    progress.end();
    debug_assert_eq!(writer.written(), plan.payload_bytes);
    // A trailer takes the place of padding.
    let padded = match plan.geometry {
        Some(_) => plan.payload_bytes,
        None => plan.image_bytes,
    };
    let Summed { out, hasher, tee } = writer.finish(padded).map_err(named)?;
    drop(tee);
    let report = Report {
        sha256: hasher.map(Sha256Sum::from_hasher),
        ..plan.report()
    };
    Ok((report, out))
}

fn open_input(input: &Input) -> Result<File> {
    let failed = |e| Error::io("open", e).with_path(&input.path);
    let file = OpenOptions::new()
        .read(true)
        // If a FIFO has replaced the file, opening it must not block.
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&input.path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() != input.size {
        return Err(changed(
            input,
            format!("it had {} bytes, now {}", input.size, meta.len()),
        ));
    }
    Ok(file)
}

/// Reads until `buf` is full or the file ends.
fn read_full(file: &mut File, buf: &mut [u8], input: &Input) -> Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read_some(file, &mut buf[done..], input)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn read_some(file: &mut File, buf: &mut [u8], input: &Input) -> Result<usize> {
    loop {
        match file.read(buf) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(|e| Error::io("read", e).with_path(&input.path)),
        }
    }
}

fn refuse_changed(file: &mut File, input: &Input) -> Result<()> {
    if read_some(file, &mut [0], input)? != 0 {
        return Err(changed(input, "it grew".into()));
    }
    let meta = file
        .metadata()
        .map_err(|e| Error::io("read the attributes of", e).with_path(&input.path))?;
    if (meta.mtime(), meta.mtime_nsec()) != input.modified {
        return Err(changed(input, "it was written to".into()));
    }
    Ok(())
}

fn changed(input: &Input, how: String) -> Error {
    Error::new(Kind::Changed, format!("changed while it was packed: {how}"))
        .with_path(&input.path)
        .advice("pack again while nothing writes to it")
}
