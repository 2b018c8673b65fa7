//! The common part of a promote and a rollback: the last checks, the writing, the journal and the
//! initramfs.

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
use crate::promote::record::journal::{
    After, Begin, End, Entry, Journal, Line, Sidecar, now, user_and_host,
};
use crate::promote::record::stamps::{Before, Stamps};
use crate::promote::report::InitramfsOutcome;
use crate::promote::tree::protocol::{Found, PreviousState, Reply, Request};
use crate::promote::tree::{bytes, executor};
use crate::promote::trees::Trees;

const ZONES: [Zone; 2] = [Zone::Elsewhere, Zone::Rootfs];

/// The options of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunOptions {
    pub(crate) dry_run: bool,
    pub(crate) initramfs: bool,
    pub(crate) ownership: Ownership,
    pub(crate) recheck: bool,
}

/// A locked image with everything that a run needs.
pub(crate) struct Run<'a> {
    pub(crate) trees: Trees,
    sources: Sources,
    pub(crate) sidecar: Sidecar,
    /// Whether there is something to record even if nothing must be written.
    pub(crate) has_news: bool,
    records: Option<(Vec<Record>, u64)>,
    stamps: Stamps,
    /// Whether sudo has confirmed that it will run the initramfs tool.
    may_refresh: bool,
    initramfs: Initramfs,
    options: RunOptions,
    progress: &'a dyn Progress,
    _lock: Option<Directory>,
}

/// The result of a run.
#[derive(Debug, Default)]
pub(crate) struct RunOutcome {
    pub(crate) id: Option<u64>,
    pub(crate) initramfs: InitramfsOutcome,
}

impl<'a> Run<'a> {
    /// Opens and locks the image, so that only one run at a time can change it.
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

    /// Returns the records of the journal, oldest first. They are read on the first call, because
    /// a run that has nothing to do does not need them.
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

    /// Compares `items` with the image, checks everything, and then writes. If new symlinks of
    /// the overlay are among the items, they are written first. Then `plan` returns the places of
    /// the remaining items, which may be behind these symlinks.
    ///
    /// # Errors
    /// If a check fails, nothing was written. If writing fails, the files that were complete are
    /// kept, and the error says so. If the initramfs fails, it stays due.
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
        let (user, host) = user_and_host();
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
        // The first failure is returned: a full disk, for example, makes the record fail too.
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
            // Files that are equal already may have been written without a sync, for example by a
            // run that was killed right after its renames.
            for zone in ZONES.into_iter().filter(|zone| read.contains(zone)) {
                self.trees.flush(zone)?;
            }
        }
        Ok(before)
    }

    /// Checks everything that can be known to fail before the first byte is written. Starts the
    /// helper if it will be needed.
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

    /// Writes the symlinks of the overlay that do not exist yet, and then plans and compares the
    /// remaining `items` in the changed image. Returns the symlinks.
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

    /// Notes that the initramfs is due, if writing `items` makes it outdated.
    fn mark(&self, items: &[Item], journal: &Journal) -> Result<()> {
        match is_dirty(items) {
            true => self.initramfs.mark(journal.id()),
            false => Ok(()),
        }
    }

    /// Rebuilds the initramfs if it is due.
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

    /// Returns whether a directory may be at `place`. Without permission to look, the answer is
    /// yes.
    fn is_there(&self, place: &Place) -> bool {
        let tree = self.trees.tree(place.zone);
        tree.is_ok_and(|tree| match tree.lookup(&place.path) {
            Ok(seen) => matches!(seen, Lookup::Directory),
            Err(e) => e.kind() == std::io::ErrorKind::PermissionDenied,
        })
    }

    /// Records the items that are equal already, if the journal has no entry or another content
    /// for them.
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

    /// Returns the content of an item's place in the form that the journal uses.
    fn look(&mut self, item: &Item) -> Result<Option<(PreviousState, After)>> {
        if item.content == Content::Absent {
            return Ok(Some((PreviousState::Nothing, After::Nothing)));
        }
        let zone = item.place.zone;
        let look = Request::Look(item.place.path.clone());
        // A file that this process cannot read has just been compared through the helper.
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

/// Returns whether writing `items` makes the initramfs outdated.
fn is_dirty(items: &[Item]) -> bool {
    let dirties = |item: &Item| item.is_to_be_written() && item.dirties_initramfs();
    items.iter().any(dirties)
}

/// Returns the process that holds the lock, according to /proc/locks.
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
