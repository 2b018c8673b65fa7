//! `verify --map FILE`: the sectors that cannot be read, as a mapfile of GNU ddrescue.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use crate::block::Source;
use crate::durable::AtomicFile;
use crate::error::{Error, Result};
use crate::verify::Report;

/// Writes the map. Its positions count from the start of the file or device.
pub(super) fn write(path: &Path, report: &Report, source: &dyn Source) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(text(report, source).as_bytes())
        .map_err(|e| Error::io("write", e).with_path(path))?;
    file.commit()
}

/// Returns the text of a mapfile: `+` was read, `-` cannot be read, `?` was not tried.
fn text(report: &Report, source: &dyn Source) -> String {
    let start = source.start();
    let (payload_end, end) = (start + report.payload_bytes, start + source.len());
    let mut text = format!(
        "# Mapfile. Created by lbpayload {}\n\
         # current_pos  current_status  current_pass\n\
         0x00000000     +               1\n\
         #      pos        size  status\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut at = 0;
    let mut upto = |to: u64, status: char| {
        if to > at {
            // Writing to a String does not fail.
            let _ = writeln!(text, "0x{at:08X}  0x{:08X}  {status}", to - at);
            at = to;
        }
    };
    upto(start, '?');
    for bad in &report.bad {
        // A header that cannot be read is behind the last file that was found.
        upto((start + bad.start).min(payload_end), '+');
        upto(start + bad.start, '?');
        upto((start + bad.end).min(end), '-');
    }
    upto(payload_end, '+');
    upto(end, '?');
    text
}
