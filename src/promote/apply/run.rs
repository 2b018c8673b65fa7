//! What a promote and a rollback have in common: the last checks, then the writing,
//! the journal and the initramfs.

use std::path::Path;

use super::checks;
use super::initramfs::Initramfs;
use super::writer::Writer;
use crate::durable::{Directory, Lookup, Tree};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::promote::inputs::content::{Content, Sources};
use crate::promote::inputs::git::Git;
use crate::promote::options::Ownership;
use crate::promote::path::{Place, Zone};
use crate::promote::plan::survey;
use crate::promote::plan::union::Item;
use crate::promote::record::history::{self, Record};
use crate::promote::record::journal::{After, Begin, End, Entry, Journal, Line, Sidecar, now, who};
use crate::promote::record::stamps::{Before, Stamps};
use crate::promote::report::InitramfsOutcome;
use crate::promote::tree::protocol::{Found, PreviousState, Reply, Request};
use crate::promote::tree::{bytes, executor};
use crate::promote::trees::Trees;

const ZONES: [Zone; 2] = [Zone::Elsewhere, Zone::Rootfs];

/// How a run is to go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunOptions {
    pub(crate) dry_run: bool,
    pub(crate) initramfs: bool,
    pub(crate) ownership: Ownership,
    pub(crate) recheck: bool,
}

/// An image that is being worked on, with everything that this takes.
pub(crate) struct Run<'a> {
    pub(crate) trees: Trees,
    sources: Sources,
    pub(crate) sidecar: Sidecar,
    /// Whether there is something to record even if nothing has to be written.
    pub(crate) has_news: bool,
    records: Option<(Vec<Record>, u64)>,
    stamps: Stamps,
    /// Whether sudo has said that it will run the initramfs tool.
    may_refresh: bool,
    initramfs: Initramfs,
    options: RunOptions,
    progress: &'a dyn Progress,
    _lock: Option<Directory>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct RunOutcome {
    pub(crate) id: Option<u64>,
    pub(crate) initramfs: InitramfsOutcome,
}

impl<'a> Run<'a> {
    /// Opens and locks the image: one run at a time.
    pub(crate) fn open(
        image: &Path,
        overlay: Option<&Git>,
        options: RunOptions,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let lock = if options.dry_run {
            None
        } else {
            let dir = Directory::open(image)?;
            if !dir.try_lock()? {
                return Err(Error::new(
                    Kind::Busy,
                    format!("another promote is running on this image{}", holder(image)),
                )
                .with_path(image)
                .advice("wait until it ends, then promote again"));
            }
            Some(dir)
        };
        let sidecar = Sidecar::of(image);
        let initramfs = Initramfs::of(image, &sidecar);
        if !options.dry_run {
            initramfs.probe_idle()?;
        }
        let trees = Trees::open(image, !options.dry_run)?;
        Ok(Self {
            stamps: match options.recheck {
                true => Stamps::default(),
                false => Stamps::read(&sidecar),
            },
            sources: Sources::new(image, overlay)?,
            initramfs,
            trees,
            sidecar,
            has_news: false,
            records: None,
            may_refresh: false,
            options,
            progress,
            _lock: lock,
        })
    }

    /// What the journal tells, oldest first. Read when first asked for: a run with
    /// nothing to do has no need of it.
    pub(crate) fn records(&mut self) -> Result<&[Record]> {
        Ok(&self.journal()?.0)
    }

    fn journal(&mut self) -> Result<&(Vec<Record>, u64)> {
        let read = match self.records.take() {
            Some(read) => read,
            None => history::read(&self.sidecar)?,
        };
        Ok(self.records.insert(read))
    }

    /// Compares `items` with the image, checks everything, and then writes. Where symlinks
    /// of the overlay are among what is written, they come first, and `plan` then says
    /// where the rest lies, behind them perhaps.
    ///
    /// # Errors
    /// A check fails: then nothing was written. Writing fails: then what was complete
    /// is kept, and said so. The initramfs fails: then it stays due.
    pub(crate) fn execute(
        &mut self,
        items: &mut Vec<Item>,
        plan: &dyn Fn(&mut Trees) -> Result<Vec<Item>>,
        begin: Begin,
        empty_dirs: &[Place],
    ) -> Result<RunOutcome> {
        let mut before = self.compare(items)?;
        let due = is_dirty(items) || self.initramfs.is_pending();
        let leftovers = ZONES.into_iter();
        let leftovers: Vec<Zone> = leftovers
            .filter(|zone| self.trees.tree(*zone).is_ok_and(Tree::has_leftovers))
            .collect();
        let records = items.iter().any(Item::is_to_be_written)
            || due && self.options.initramfs
            || self.has_news;
        let empty_dirs: Vec<&Place> = empty_dirs
            .iter()
            .filter(|dir| records && self.is_there(dir))
            .collect();
        let needs_root = leftovers.contains(&Zone::Rootfs)
            || empty_dirs.iter().any(|dir| dir.zone == Zone::Rootfs);
        self.check(items, records, needs_root)?;
        let mut ran = RunOutcome {
            id: None,
            initramfs: match (due, self.options.initramfs) {
                (false, _) => InitramfsOutcome::NotNeeded,
                (true, false) => InitramfsOutcome::Postponed,
                (true, true) => InitramfsOutcome::Due,
            },
        };
        if self.options.dry_run {
            return Ok(ran);
        }
        for zone in leftovers {
            let cleared = self.trees.ask(zone, &Request::Clear, None);
            cleared.map_err(|e| e.or_advice("remove its .lbpayload-staging as root"))?;
        }
        if !records {
            return Ok(ran);
        }
        let (user, host) = who();
        let begin = Begin {
            id: self.journal()?.1,
            started: now(),
            user,
            host,
            version: env!("CARGO_PKG_VERSION").into(),
            ..begin
        };
        let mut journal = Journal::begin(&self.sidecar, begin)?;
        ran.id = Some(journal.id());
        let written = self
            .write_links(items, plan, &mut before, &mut journal)
            .and_then(|links| {
                self.write_rest(items, &before, &empty_dirs, &mut journal)?;
                items.splice(..0, links);
                Ok(())
            });
        let result = written.and_then(|()| self.refresh());
        ran.initramfs = match &result {
            Ok(outcome) => *outcome,
            Err(_) if self.initramfs.is_pending() => InitramfsOutcome::StillDue,
            Err(_) => InitramfsOutcome::NotNeeded,
        };
        let ended = journal.end(End {
            state: match &result {
                Ok(_) => "done",
                Err(e) if e.kind() == Kind::Interrupted => "interrupted",
                Err(_) => "failed",
            }
            .into(),
            finished: now(),
            message: result.as_ref().err().map(ToString::to_string),
            initramfs: Some(ran.initramfs.to_string()),
        });
        // What failed first is what is told: a full disk takes the record, too.
        result.and(ended.map(|()| ran.initramfs))?;
        if let Err(e) = Stamps::write(&self.sidecar, &self.trees, items, &before) {
            log::warn!("{e} (the next promote will take longer)");
        }
        Ok(ran)
    }

    /// Compares `items` with the image.
    fn compare(&mut self, items: &mut [Item]) -> Result<Before> {
        let before = Before::probe(items, &self.sources, &self.trees);
        let mut read = Vec::new();
        for item in items.iter_mut() {
            match self.stamps.vouch(&item.place, &before) {
                Some(bytes) => (item.found, item.bytes) = (Found::Same, bytes),
                None => read.push(item.place.zone),
            }
        }
        survey::probe(items, &mut self.trees, &self.sources, self.progress)?;
        if !self.options.dry_run {
            // What is the same already may have been written without a sync, for example
            // by a run that was killed right after its renames.
            for zone in ZONES.into_iter().filter(|zone| read.contains(zone)) {
                self.trees.flush(zone)?;
            }
        }
        Ok(before)
    }

    /// All that can be known to fail before the first byte is written. Starts the helper
    /// where it will be needed.
    fn check(&mut self, items: &[Item], records: bool, needs_root: bool) -> Result<()> {
        let unknown = checks::probe_access(&self.trees, items, records)?;
        checks::probe_room(&self.trees, items)?;
        let refresh = self.options.initramfs && (is_dirty(items) || self.initramfs.is_pending());
        if refresh {
            self.initramfs.probe_tool()?;
        }
        if self.options.dry_run {
            return Ok(());
        }
        let rootfs = |item: &Item| item.is_to_be_written() && item.place.zone == Zone::Rootfs;
        if needs_root || items.iter().any(rootfs) {
            self.trees.prepare()?;
            for place in unknown {
                let request = Request::CheckWritable(place);
                self.trees.ask(Zone::Rootfs, &request, None)?;
            }
        }
        if refresh && !self.trees.as_root() && !self.may_refresh {
            self.initramfs.probe_privilege()?;
            self.may_refresh = true;
        }
        Ok(())
    }

    /// Writes the symlinks of the overlay that are not there yet, and plans and compares
    /// the rest of `items` in the image as it is then. Returns the symlinks.
    fn write_links(
        &mut self,
        items: &mut Vec<Item>,
        plan: &dyn Fn(&mut Trees) -> Result<Vec<Item>>,
        before: &mut Before,
        journal: &mut Journal,
    ) -> Result<Vec<Item>> {
        let is_new = |item: &&Item| item.is_new_link();
        let links: Vec<Item> = items.iter().filter(is_new).cloned().collect();
        if links.is_empty() {
            return Ok(links);
        }
        self.mark(&links, journal)?;
        self.writer(journal).apply(links.iter())?;
        *items = plan(&mut self.trees)?;
        items.retain(|item| links.iter().all(|link| link.dst != item.dst));
        *before = self.compare(items)?;
        self.check(items, true, false)?;
        Ok(links)
    }

    fn write_rest(
        &mut self,
        items: &[Item],
        before: &Before,
        empty_dirs: &[&Place],
        journal: &mut Journal,
    ) -> Result<()> {
        self.mark(items, journal)?;
        self.note_kept(items, before, journal)?;
        self.writer(journal).apply(items.iter())?;
        for place in empty_dirs {
            let remove = Request::RemoveDir(place.path.clone());
            self.trees.ask(place.zone, &remove, None)?;
            self.trees.ask(place.zone, &Request::FlushNames, None)?;
        }
        Ok(())
    }

    fn writer<'w>(&'w mut self, journal: &'w mut Journal) -> Writer<'w> {
        Writer {
            trees: &mut self.trees,
            sources: &self.sources,
            journal,
            ownership: self.options.ownership,
            progress: self.progress,
        }
    }

    /// Notes that the initramfs is due, where writing `items` makes it so.
    fn mark(&self, items: &[Item], journal: &Journal) -> Result<()> {
        match is_dirty(items) {
            true => self.initramfs.mark(journal.id()),
            false => Ok(()),
        }
    }

    /// Makes the initramfs anew where it is due.
    fn refresh(&self) -> Result<InitramfsOutcome> {
        if !self.initramfs.is_pending() {
            return Ok(InitramfsOutcome::NotNeeded);
        }
        if !self.options.initramfs {
            return Ok(InitramfsOutcome::Postponed);
        }
        self.progress.begin("initramfs", 0);
        let made = self.initramfs.apply(self.trees.as_root());
        self.progress.end();
        made.map(|()| InitramfsOutcome::Rebuilt)
    }

    /// Whether a directory may be at `place`.
    fn is_there(&self, place: &Place) -> bool {
        let tree = self.trees.tree(place.zone);
        tree.is_ok_and(|tree| match tree.lookup(&place.path) {
            Ok(seen) => matches!(seen, Lookup::Directory),
            Err(e) => e.kind() == std::io::ErrorKind::PermissionDenied,
        })
    }

    /// Records the items that are the same already, where the journal does not have them
    /// or has something else.
    fn note_kept(&mut self, items: &[Item], before: &Before, journal: &mut Journal) -> Result<()> {
        let known = history::held(self.records()?);
        for item in items.iter().filter(|item| !item.is_to_be_written()) {
            let known = known.get(&item.place).and_then(|held| held.sure.as_ref());
            let there = before.there(&item.place);
            if known.is_some() && self.stamps.is_untouched(&item.place, there) {
                continue;
            }
            let Some((before, after)) = self.look(item)? else {
                continue;
            };
            if known.is_some_and(|put| put.entry.after == after) {
                continue;
            }
            journal.line(&Line::File(Box::new(Entry {
                place: item.place.clone(),
                dst: item.dst.as_path().to_path_buf(),
                channel: item.channel,
                before,
                backup: None,
                after,
                kept: true,
                made: Vec::new(),
            })))?;
        }
        Ok(())
    }

    /// What is at an item's place, as the journal has it.
    fn look(&mut self, item: &Item) -> Result<Option<(PreviousState, After)>> {
        if item.content == Content::Absent {
            return Ok(Some((PreviousState::Nothing, After::Nothing)));
        }
        let zone = item.place.zone;
        let look = Request::Look(item.place.path.clone());
        // What this process may not read was compared through the helper just now.
        let tree = self.trees.tree(zone)?;
        let (reply, old) = match executor::perform(tree, &look, None) {
            Err(_) if self.trees.may_ask() => self.trees.ask(zone, &look, None)?,
            other => other?,
        };
        let Reply::Previous(before) = reply else {
            return Ok(None);
        };
        let sum = old.map(|old| bytes::sum(&old.into())).transpose();
        let sum = sum.map_err(|e| Error::io("read", e).with_path(item.place.in_image()))?;
        Ok(After::of(&before, sum).map(|after| (before, after)))
    }
}

/// Whether writing `items` makes the initramfs outdated.
fn is_dirty(items: &[Item]) -> bool {
    let dirties = |item: &Item| item.is_to_be_written() && item.dirties_initramfs();
    items.iter().any(dirties)
}

/// The process that holds the lock, as /proc/locks tells.
fn holder(image: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = image.metadata() else {
        return String::new();
    };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = format!(":{}", meta.ino());
    let found = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let place = words.get(5)?;
        (words.get(1) == Some(&"FLOCK") && place.ends_with(&inode))
            .then(|| words.get(4).map(|pid| (*pid).to_owned()))?
    });
    found.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
