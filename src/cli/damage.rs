//! What `verify` says about the damage of a protected payload.

use std::ops::Range;
use std::path::Path;

use serde::Serialize;

use crate::block::Source;
use crate::error::{Error, Result, printable};
use crate::payload::Payload;
use crate::progress::Progress;
use crate::protection::{BLOCK, ProtectedSource, Report, TrailerDamage, last_block};

use super::output::{Level, human_bytes, labelled, to_stderr};

/// The number of damaged ranges that are listed.
const MAX_RANGES: usize = 1000;
/// The number of entries that are named for each of them.
const MAX_NAMES: usize = 10;

/// The damage of a protected payload and its trailer.
pub(super) struct Damage {
    report: Report,
    trailer: TrailerDamage,
    ranges: Vec<DamagedRange>,
    more_ranges: u64,
    /// The length of a further run of damage that could still be healed, in bytes.
    run_left: u64,
}

/// A damaged part of the payload.
#[derive(Serialize, Clone)]
struct DamagedRange {
    offset: u64,
    length: u64,
    healable: bool,
    entries: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct JsonDamage {
    percent: u32,
    checked_bytes: u64,
    damaged_blocks: u64,
    healed_blocks: u64,
    lost_blocks: u64,
    damaged: Vec<DamagedRange>,
    more_damaged: u64,
    damaged_recovery_blocks: u64,
    damaged_metadata_blocks: u64,
    damaged_headers: u64,
    run_left_bytes: u64,
}

impl Damage {
    /// Finds the damage. If `all`, the whole payload is read first; otherwise it has been.
    pub(super) fn find(
        protection: &ProtectedSource,
        all: bool,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let source = protection.inner();
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::Interrupted => Error::interrupted(),
            _ => Error::io("read", e).with_path(source.path()),
        };
        if all {
            protection.check_all(progress).map_err(failed)?;
        }
        let healer = protection.healer();
        let end = healer.geometry().end();
        let third = last_block(source.len()).filter(|at| source.is_device() && *at >= end);
        progress.begin("checking the trailer", end - healer.geometry().start());
        let trailer = healer.damaged_trailer(third, progress).map_err(failed)?;
        progress.end();
        let report = protection.report();
        let (_, run_left) = healer.outlook(&report.found.damaged, &trailer.recovery);
        let count = report.found.damaged.iter().count();
        let mut ranges = Vec::new();
        for blocks in report.found.damaged.iter().take(MAX_RANGES) {
            let end = (blocks.end * BLOCK).min(protection.len());
            ranges.push(DamagedRange {
                offset: source.start() + blocks.start * BLOCK,
                length: end - blocks.start * BLOCK,
                healable: !blocks
                    .clone()
                    .any(|block| report.found.lost.contains(block)),
                entries: Vec::new(),
            });
        }
        Ok(Self {
            more_ranges: (count - ranges.len()) as u64,
            report,
            trailer,
            ranges,
            run_left,
        })
    }

    /// Adds the names of the entries that the damage hits.
    pub(super) fn name_entries(&mut self, payload: &Payload) -> Result<()> {
        if self.ranges.is_empty() {
            return Ok(());
        }
        let start = payload.source().start();
        let mut at = 0;
        for entry in payload.walk()?.map_while(std::result::Result::ok) {
            let hit: Range<u64> = start + entry.header_offset..start + entry.end();
            while self
                .ranges
                .get(at)
                .is_some_and(|r| r.offset + r.length <= hit.start)
            {
                at += 1;
            }
            for range in self.ranges[at..]
                .iter_mut()
                .take_while(|r| r.offset < hit.end)
            {
                if range.entries.len() < MAX_NAMES {
                    range.entries.push(entry.shown_name().into_owned());
                }
            }
        }
        Ok(())
    }

    /// Returns the damaged parts of the payload that are listed, in bytes from the start of the
    /// file or device.
    pub(super) fn places(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let ranges = self.ranges.iter();
        ranges.map(|range| range.offset..range.offset + range.length)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.report.found.damaged.is_empty() && self.trailer.is_empty()
    }

    pub(super) fn json(&self) -> JsonDamage {
        let found = &self.report.found;
        JsonDamage {
            percent: self.report.percent,
            checked_bytes: self.report.checked_bytes,
            damaged_blocks: found.damaged.count(),
            healed_blocks: found.healed.count(),
            lost_blocks: found.lost.count(),
            damaged: self.ranges.clone(),
            more_damaged: self.more_ranges,
            damaged_recovery_blocks: self.trailer.recovery.count(),
            damaged_metadata_blocks: self.trailer.metadata,
            damaged_headers: self.trailer.headers.len() as u64,
            run_left_bytes: self.run_left,
        }
    }

    /// Prints the damage, or that there is none.
    pub(super) fn say(&self, path: &Path, quiet: bool) {
        let shown = printable(&path.to_string_lossy());
        let left = human_bytes(self.run_left);
        if self.is_empty() {
            if !quiet {
                to_stderr(&format!(
                    "{shown}: protected with {} percent, {left} in a row can be lost and healed\n",
                    self.report.percent
                ));
            }
            return;
        }
        let say = |level, text: String| to_stderr(&labelled("lbpayload", level, &text));
        for range in &self.ranges {
            let size = human_bytes(range.length);
            let can = if range.healable { "can" } else { "cannot" };
            let text = format!("{size} of `{shown}` are damaged, and {can} be healed");
            say(Level::Error, text);
            let mut note = format!("offset {}, length {}", range.offset, range.length);
            if !range.entries.is_empty() {
                let names: Vec<String> = range.entries.iter().map(|n| printable(n)).collect();
                note += &format!(", in {}", names.join(", "));
            }
            say(Level::Note, note);
        }
        if self.more_ranges > 0 {
            say(
                Level::Note,
                format!("{} more damaged places", self.more_ranges),
            );
        }
        if !self.trailer.is_empty() {
            let count = self.trailer.blocks();
            let (blocks, are) = match count {
                1 => ("block", "is"),
                _ => ("blocks", "are"),
            };
            let text =
                format!("{count} {blocks} of the protection trailer of `{shown}` {are} damaged");
            say(Level::Error, text);
            let (recovery, metadata) = (self.trailer.recovery.count(), self.trailer.metadata);
            let headers = self.trailer.headers.len();
            say(
                Level::Note,
                format!("{recovery} recovery blocks, {metadata} of metadata, {headers} headers"),
            );
        }
        say(
            Level::Note,
            format!("{left} more in a row could still be healed"),
        );
        let from = match self.report.found.lost.is_empty() {
            true => "",
            false => " --from COPY",
        };
        say(Level::Help, format!("lbpayload repair{from} {shown}"));
    }
}
