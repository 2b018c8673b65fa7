//! Writes a payload: plans it first, then streams it to its destination.

mod device;
mod list;
mod plan;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::durable::AtomicFile;
use crate::error::{Error, Kind, Result};
use crate::format::{Dialect, EMBEDDED_SUMS, Name};
use crate::payload::{PayloadWriter, Sha256Sum, sum_line};
use crate::progress::Progress;
use crate::sys::drop_cached;

pub use plan::{Input, Inputs, Options, Plan, plan};

/// The result of writing a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The dialect, which is the width of the integers.
    pub dialect: Dialect,
    /// The number of entries, including the embedded checksums.
    pub files: u64,
    /// The length of the payload in bytes.
    pub payload_bytes: u64,
    /// The number of bytes written, including padding.
    pub image_bytes: u64,
}

/// The number of bytes read from an input at a time.
const BLOCK: usize = 1 << 20;

/// Writes the payload to a file: under a temporary name in the same directory, then synced
/// and renamed.
///
/// # Errors
/// An error of the plan's inputs or of the file system. Then the file is unchanged.
pub fn to_file(plan: &Plan, path: &Path, progress: &dyn Progress) -> Result<Report> {
    plan.refuse_output_among_inputs(path)?;
    let file = AtomicFile::create(path)?;
    let named = |e: Error| {
        if e.io_error().is_some() {
            e.with_path(path)
        } else {
            e
        }
    };
    let (report, out) = stream(
        plan,
        BufWriter::with_capacity(BLOCK, file),
        progress,
        &named,
    )?;
    let file = out
        .into_inner()
        .map_err(|e| Error::io("write", e.into_error()).with_path(path))?;
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
    let (report, out) = stream(plan, BufWriter::with_capacity(BLOCK, out), progress, &named)?;
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
/// The first block, which contains the magic, is cleared before anything else is written.
/// It is written after everything else is synced. So after a run that fails, the device
/// holds no payload rather than an incomplete one.
///
/// # Errors
/// The device is in use or too small, and nothing was written; or an input or the device
/// fails.
pub fn to_device(plan: &Plan, path: &Path, progress: &dyn Progress) -> Result<Report> {
    let device = device::DeviceWriter::open(path, plan.image_bytes)?;
    let named = |e: Error| {
        if e.io_error().is_some() {
            e.with_path(path)
        } else {
            e
        }
    };
    let (report, device) = stream(plan, device, progress, &named)?;
    device
        .commit()
        .map_err(|e| Error::io("write", e).with_path(path))?;
    Ok(report)
}

fn stream<W: Write>(
    plan: &Plan,
    out: W,
    progress: &dyn Progress,
    named: &dyn Fn(Error) -> Error,
) -> Result<(Report, W)> {
    let mut writer = PayloadWriter::new(out, plan.dialect, plan.files()).map_err(named)?;
    let mut sums = String::new();
    let mut buf = vec![0; BLOCK];
    progress.begin("packing", plan.data_bytes);
    for input in &plan.inputs {
        writer.entry(&input.name, input.size).map_err(named)?;
        let mut file = open_input(input)?;
        let mut hasher = plan.hashes().then(Sha256::new);
        let mut left = input.size;
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        while left > 0 {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let want = left.min(BLOCK as u64) as usize;
            let n = read_some(&mut file, &mut buf[..want], input)?;
            if n == 0 {
                return Err(changed(input, format!("it ended {left} bytes early")));
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&buf[..n]);
            }
            writer.data(&buf[..n]).map_err(named)?;
            progress.advance(n as u64);
            left -= n as u64;
        }
        refuse_changed(&mut file, input)?;
        if input.size >= BLOCK as u64 {
            drop_cached(file.as_fd(), 0, 0);
        }
        if let Some(hasher) = hasher {
            let found = Sha256Sum::from_hasher(hasher);
            plan.check(input, found)?;
            if plan.embed {
                sums.push_str(&sum_line(found, input.name.as_str()));
            }
        }
        progress.file_done(input.name.as_str());
    }
    if plan.embed {
        let name = Name::new(EMBEDDED_SUMS.as_bytes())
            .map_err(|e| Error::new(Kind::Refused, e.to_string()))?;
        writer.entry(&name, sums.len() as u64).map_err(named)?;
        writer.data(sums.as_bytes()).map_err(named)?;
    }
    progress.end();
    let report = Report {
        dialect: plan.dialect,
        files: plan.files(),
        payload_bytes: writer.written(),
        image_bytes: plan.image_bytes,
    };
    debug_assert_eq!(report.payload_bytes, plan.payload_bytes);
    Ok((report, writer.finish(plan.image_bytes).map_err(named)?))
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
