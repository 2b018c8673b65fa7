//! `lbpayload show`: the payload as a map, for people.

mod drawing;
mod live;
mod map;
mod page;
mod text;

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::Path;

use crate::block::SourceOptions;
use crate::durable::AtomicFile;
use crate::error::{Error, Result, printable};
use crate::payload::{Cause, Checksums, Index, Payload, Problem, Problems};
use crate::progress::{Progress, Silent};
use crate::verify::verify;

use super::args::{ProgressForm, ShowArgs};
use super::damage::Damage;
use super::exit::{self, Outcome};
use super::output::{Level, Out, human_bytes, labelled, to_stderr};
use super::protection::{Protected, default_memory};
use super::{progress, signals};

use map::{Map, Part};

/// The number of rows of the map in text.
const ROWS: usize = 8;
/// The number of cells in a row where there is no terminal.
const PLAIN_WIDTH: usize = 64;
/// The number of files that the text names.
const NAMED: usize = 10;
/// The number of cells of a drawing.
const DRAWN_CELLS: usize = 8 * drawing::ROW_CELLS;

/// What there is to show.
struct Shown {
    index: Index,
    protected: Protected,
    /// The length of the map in bytes: the payload, its trailer, and what could not be reached.
    length: u64,
    problems: Problems,
    damage: Option<Damage>,
}

pub(super) fn run(args: &ShowArgs, form: Option<ProgressForm>, quiet: bool) -> Result<Outcome> {
    signals::listen()?;
    let options = SourceOptions {
        cached_files: !args.verify,
        ..SourceOptions::default()
    };
    let source = args.input.open(&[&args.source], options)?;
    let drawings = [&args.svg, &args.html].into_iter().flatten();
    let written: Vec<&Path> = drawings.filter_map(|path| path.parent()).collect();
    args.input.confine(&[&args.source], &written);
    let protected = args.input.protected(source, default_memory(), None, None)?;
    let payload = protected.payload()?;
    let mut problems = Problems::default();
    let index = Index::scan(&payload, &Silent, &mut |problem| {
        problems.add(problem);
        Ok(())
    })?;
    let length = match &protected.protection {
        Some(protection) => protection.healer().geometry().end(),
        // Nobody knows how long a payload is whose headers are lost.
        None if !index.is_whole() => protected.source_len(),
        None => index.payload_bytes(),
    };
    let mut shown = Shown {
        index,
        protected,
        length,
        problems,
        damage: None,
    };
    let drawn = args.svg.is_some() || args.html.is_some();
    let terminal = std::io::stdout().is_terminal();
    let colors = match anstream::AutoStream::choice(&std::io::stdout()) {
        anstream::ColorChoice::Never => false,
        anstream::ColorChoice::Auto => terminal,
        _ => true,
    };
    let width = match terminal {
        true => columns().clamp(16, 120),
        false => PLAIN_WIDTH,
    };
    if args.verify {
        let live = terminal && colors && !drawn && !quiet && form.is_none();
        let progress: Box<dyn Progress> = if live {
            let map = shown.map(ROWS * width)?;
            let protection = shown.protected.protection.clone();
            Box::new(live::Live::new(map, width, protection))
        } else {
            progress::shown(form)
        };
        shown.verify(&payload, &*progress)?;
    }
    if let Some(path) = &args.svg {
        write(path, &shown.svg()?)?;
    }
    if let Some(path) = &args.html {
        write(path, &page::html(&shown, &args.source)?)?;
    }
    if !drawn {
        let mut out = Out::new();
        shown.print(&mut out, &args.source, width, colors)?;
        out.end()?;
    }
    shown.finish(&payload)
}

/// Returns the width of the terminal, or 80 if it does not tell.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { 80 } else { columns }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(text.as_bytes())
        .map_err(|e| Error::io("write", e).with_path(path))?;
    file.commit()
}

impl Shown {
    /// Reads every byte, and keeps what is damaged.
    fn verify(&mut self, payload: &Payload, progress: &dyn Progress) -> Result<()> {
        let report = verify(payload, Checksums::default(), progress, &mut |_, _| ())?;
        if let Some(protection) = &self.protected.protection {
            let mut damage = Damage::find(protection, !report.is_ok(), progress)?;
            damage.name_entries(payload)?;
            self.damage = Some(damage);
        }
        self.problems = report.problems;
        Ok(())
    }

    /// Draws the map.
    fn map(&self, cells: usize) -> Result<Map> {
        let mut map = Map::new(self.length, cells);
        let mut end = 0;
        for entry in self.index.entries()? {
            let entry = entry?;
            map.add(end..entry.data_offset, Part::Headers);
            end = entry.end();
            map.add(entry.data_offset..end, Part::File(entry.index));
        }
        if let Some(protection) = &self.protected.protection {
            let geometry = protection.healer().geometry();
            map.add(geometry.start()..geometry.end(), Part::Trailer);
        }
        for range in self.damaged()? {
            map.damage(&range);
        }
        Ok(map)
    }

    /// Returns the damaged parts, in bytes from the start of the payload.
    fn damaged(&self) -> Result<Vec<Range<u64>>> {
        let mut ranges = Vec::new();
        let mut whole = Vec::new();
        for problem in &*self.problems {
            match &problem.cause {
                Cause::BadSectors { ranges: bad, .. } => ranges.extend(bad.iter().cloned()),
                // Where the wrong bytes are is not known.
                Cause::Checksum { .. } | Cause::CopiesDiffer { .. } => whole.extend(problem.index),
                Cause::Missing | Cause::BadSums(_) => {}
                _ => ranges.push(problem.offset..problem.offset.saturating_add(1)),
            }
        }
        if !whole.is_empty() {
            for entry in self.index.entries()? {
                let entry = entry?;
                if whole.contains(&entry.index) {
                    ranges.push(entry.data_offset..entry.end());
                }
            }
        }
        if let Some(damage) = &self.damage {
            let start = self.protected.source.start();
            ranges.extend(damage.places().map(|r| r.start - start..r.end - start));
        }
        Ok(ranges)
    }

    /// Returns the map as a drawing.
    fn svg(&self) -> Result<String> {
        let map = self.map(DRAWN_CELLS)?;
        let mut names = HashMap::new();
        for cell in map.cells() {
            if let Part::File(index) = cell.part {
                names.entry(index).or_insert_with(String::new);
            }
        }
        for entry in self.index.entries()? {
            let entry = entry?;
            if let Some(name) = names.get_mut(&entry.index) {
                *name = format!(
                    "{}, {}",
                    printable(&entry.shown_name()),
                    human_bytes(entry.size)
                );
            }
        }
        Ok(drawing::svg(&map, &mut |part| match part {
            Part::Headers => "headers".into(),
            Part::File(index) => names.get(&index).cloned().unwrap_or_default(),
            Part::Trailer => "protection trailer".into(),
            Part::Unused => "not reached".into(),
        }))
    }

    /// Prints the map with its title, its legend and the largest files.
    fn print(&self, out: &mut Out, path: &Path, width: usize, colors: bool) -> Result<()> {
        let map = self.map(ROWS * width)?;
        out.line(&self.title(path))?;
        out.put(text::rows(&map, width, colors, map.cells().len()).as_bytes())?;
        out.line(&text::legend(&map, colors))?;
        let mut largest: Vec<(u64, String)> = Vec::new();
        for entry in self.index.entries()? {
            let entry = entry?;
            // Those of the same size stay in the order of the payload.
            let at = largest.partition_point(|(size, _)| *size >= entry.size);
            if at < NAMED {
                largest.insert(at, (entry.size, printable(&entry.shown_name())));
                largest.truncate(NAMED);
            }
        }
        for (size, name) in &largest {
            let percent = *size as f64 * 100.0 / map.length().max(1) as f64;
            out.line(&format!(
                "{percent:>6.1} %  {:>12}  {name}",
                human_bytes(*size)
            ))?;
        }
        match self.index.files().saturating_sub(largest.len() as u64) {
            0 => Ok(()),
            1 => out.line("and 1 smaller file"),
            more => out.line(&format!("and {more} smaller files")),
        }
    }

    fn title(&self, path: &Path) -> String {
        let protection = match &self.protected.protection {
            Some(protection) => {
                let percent = protection.healer().geometry().percent();
                format!(", protected with {percent} percent")
            }
            None => String::new(),
        };
        let files = match self.index.files() {
            1 => "1 file".to_owned(),
            files => format!("{files} files"),
        };
        format!(
            "{}: {files}, {} ({}){protection}",
            printable(&super::source::shown(path).to_string_lossy()),
            human_bytes(self.index.payload_bytes()),
            self.index.dialect(),
        )
    }

    /// Prints what is wrong.
    fn finish(self, payload: &Payload) -> Result<Outcome> {
        let source = &**payload.source();
        let damaged = self
            .damage
            .as_ref()
            .is_some_and(|damage| !damage.is_empty());
        let ok = self.problems.is_empty() && !damaged;
        let more = self.problems.more();
        for problem in self.problems {
            exit::say(
                "lbpayload",
                Level::Error,
                &Problem::into_error(problem, source),
            );
        }
        if more > 0 {
            let text = format!("{more} more problems");
            to_stderr(&labelled("lbpayload", Level::Note, &text));
        }
        match &self.damage {
            Some(damage) if damaged => damage.say(source.path(), false),
            Some(_) => {}
            // Without --verify, reading the headers may have healed some.
            None => self.protected.warn(),
        }
        Ok(if ok { Outcome::Done } else { Outcome::Wrong })
    }
}
