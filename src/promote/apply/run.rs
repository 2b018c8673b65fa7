//! The common part of a promote and a rollback: the last checks, the writing, the journal and the
//! initramfs.

use std::path::Path;
use std::time::Instant;

use super::checks;
use super::initramfs::{self, Initramfs};
use super::lock::lock;
use super::writer::Writer;
use crate::durable::{Directory, Lookup, Tree};
use crate::error::{Kind, Result};
use crate::progress::Progress;
use crate::promote::inputs::content::Sources;
use crate::promote::inputs::git::Git;
use crate::promote::options::Ownership;
use crate::promote::path::{Place, Zone};
use crate::promote::plan::union::Item;
use crate::promote::record::history::{self, Record};
use crate::promote::record::journal::{Begin, End, FORMAT, Journal, now, user_and_host};
use crate::promote::record::overlaid;
use crate::promote::record::sidecar::Sidecar;
use crate::promote::record::stamps::{Before, Stamps};
use crate::promote::report::InitramfsOutcome;
use crate::promote::tree::protocol::Request;
use crate::promote::trees::Trees;

pub(super) const ZONES: [Zone; 2] = [Zone::Elsewhere, Zone::Rootfs];

/// When to rebuild the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refresh {
    /// If it is due.
    IfDue,
    /// Not now.
    Never,
    /// Even if it is not due.
    Always,
}

/// The options of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunOptions {
    pub(crate) dry_run: bool,
    pub(crate) refresh: Refresh,
    pub(crate) ownership: Ownership,
    pub(crate) recheck: bool,
}

/// A locked image with everything that a run needs.
pub(crate) struct Run<'a> {
    pub(crate) trees: Trees,
    pub(super) sources: Sources,
    pub(crate) sidecar: Sidecar,
    /// Whether there is something to record even if nothing must be written.
    pub(crate) has_news: bool,
    records: Option<(Vec<Record>, u64)>,
    pub(super) stamps: Stamps,
    /// Whether sudo has confirmed that it will run the initramfs tool.
    may_refresh: bool,
    initramfs: Initramfs,
    pub(super) options: RunOptions,
    pub(super) progress: &'a dyn Progress,
    _lock: Option<Directory>,
}

/// What [`Run::prepare`] found out, for [`Run::write`].
pub(crate) struct Prepared {
    before: Before,
    /// The trees in which an interrupted run left staged files.
    leftovers: Vec<Zone>,
    /// The directories to remove, if they are empty then.
    empty_dirs: Vec<Place>,
    /// Whether there is something to write or to record.
    records: bool,
    initramfs: InitramfsOutcome,
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
        let lock = match options.dry_run {
            true => None,
            false => Some(lock(image)?),
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

    /// Returns the records of the journal, oldest first. They are read on the first call.
    pub(crate) fn records(&mut self) -> Result<&[Record]> {
        Ok(&self.journal()?.0)
    }

    /// Returns the records, or none if they are not `needed`.
    pub(crate) fn records_if(&mut self, needed: bool) -> Result<&[Record]> {
        match needed {
            true => self.records(),
            false => Ok(&[]),
        }
    }

    fn journal(&mut self) -> Result<&(Vec<Record>, u64)> {
        let read = match self.records.take() {
            Some(read) => read,
            None => history::read(&self.sidecar)?,
        };
        Ok(self.records.insert(read))
    }

    /// Checks everything that can be known to fail before something is written. Of `empty_dirs`,
    /// those that are there will be removed.
    ///
    /// # Errors
    /// A check fails. Nothing was written.
    pub(crate) fn prepare(
        &mut self,
        items: &[Item],
        before: Before,
        empty_dirs: &[Place],
    ) -> Result<Prepared> {
        let due = self.is_due(items);
        let leftovers = ZONES.into_iter();
        let leftovers: Vec<Zone> = leftovers
            .filter(|zone| self.trees.tree(*zone).is_ok_and(Tree::has_leftovers))
            .collect();
        let records = items.iter().any(Item::is_to_be_written)
            || due && self.options.refresh != Refresh::Never
            || self.has_news;
        let empty_dirs: Vec<Place> = empty_dirs
            .iter()
            .filter(|dir| records && self.is_there(dir))
            .cloned()
            .collect();
        let needs_root = leftovers.contains(&Zone::Rootfs)
            || empty_dirs.iter().any(|dir| dir.zone == Zone::Rootfs);
        self.check(items, records, needs_root)?;
        Ok(Prepared {
            before,
            leftovers,
            empty_dirs,
            records,
            initramfs: match (due, self.options.refresh) {
                (false, _) => InitramfsOutcome::NotNeeded,
                (true, Refresh::Never) => InitramfsOutcome::Postponed,
                (true, _) => InitramfsOutcome::Due,
            },
        })
    }

    /// Writes `items`, unless this is a dry run. If new symlinks of the overlay are among the
    /// items, they are written first. Then `plan` returns the places of the remaining items,
    /// which may be behind these symlinks.
    ///
    /// # Errors
    /// If writing fails, the files that were complete are kept, and the error says so. If the
    /// initramfs fails, it stays due.
    pub(crate) fn write(
        &mut self,
        items: &mut Vec<Item>,
        plan: &dyn Fn(&mut Trees) -> Result<Vec<Item>>,
        begin: Begin,
        prepared: Prepared,
    ) -> Result<RunOutcome> {
        let Prepared { mut before, .. } = prepared;
        let mut ran = RunOutcome {
            id: None,
            initramfs: prepared.initramfs,
        };
        if self.options.dry_run {
            return Ok(ran);
        }
        for zone in prepared.leftovers {
            let cleared = self.trees.ask(zone, &Request::Clear, None);
            cleared.map_err(|e| e.or_advice("remove its .lbpayload-staging as root"))?;
        }
        if !prepared.records {
            return Ok(ran);
        }
        let is_promote = begin.action == "promote";
        let (user, host) = user_and_host();
        let begin = Begin {
            id: self.journal()?.1,
            started: now(),
            user,
            host,
            version: env!("CARGO_PKG_VERSION").into(),
            format: FORMAT,
            ..begin
        };
        let mut journal = Journal::begin(&self.sidecar, begin)?;
        ran.id = Some(journal.id());
        let written = self
            .write_links(items, plan, &mut before, &mut journal)
            .and_then(|links| {
                self.write_rest(items, &before, &prepared.empty_dirs, &mut journal)?;
                items.splice(..0, links);
                Ok(())
            });
        let since = Instant::now();
        let result = written.and_then(|()| self.refresh(journal.id()));
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
            outputs: match ran.initramfs {
                InitramfsOutcome::Rebuilt => initramfs::outputs(&self.trees),
                _ => Vec::new(),
            },
        });
        // The first failure is returned: a full disk, for example, makes the record fail too.
        result.and(ended.map(|()| ran.initramfs))?;
        let mut saved = Stamps::write(&self.sidecar, &self.trees, items, &before, since);
        if is_promote {
            let records = self
                .records
                .as_ref()
                .map_or(&[][..], |(records, _)| records);
            saved = saved.and(overlaid::write(&self.sidecar, records, items, journal.id()));
        }
        if let Err(e) = saved {
            log::warn!("{e} (the next promote will take longer)");
        }
        Ok(ran)
    }

    /// Checks everything that can be known to fail before the first byte is written. Starts the
    /// helper if it will be needed.
    fn check(&mut self, items: &[Item], records: bool, needs_root: bool) -> Result<()> {
        let unknown = checks::probe_access(&self.trees, items, records)?;
        checks::probe_room(&self.trees, items)?;
        let refresh = self.options.refresh != Refresh::Never && self.is_due(items);
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

    /// Returns whether the initramfs will be due once `items` are written.
    fn is_due(&self, items: &[Item]) -> bool {
        is_dirty(items) || self.initramfs.is_pending() || self.options.refresh == Refresh::Always
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
        self.write_all(&links, journal)?;
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
        empty_dirs: &[Place],
        journal: &mut Journal,
    ) -> Result<()> {
        self.mark(items, journal)?;
        self.note_kept(items, before, journal)?;
        self.write_all(items, journal)?;
        for place in empty_dirs {
            let remove = Request::RemoveDir(place.path.clone());
            self.trees.ask(place.zone, &remove, None)?;
            self.trees.ask(place.zone, &Request::FlushNames, None)?;
        }
        Ok(())
    }

    fn write_all(&mut self, items: &[Item], journal: &mut Journal) -> Result<()> {
        let made_executable = history::made_executable(self.records()?);
        let writer = Writer {
            trees: &mut self.trees,
            sources: &self.sources,
            journal,
            ownership: self.options.ownership,
            made_executable: &made_executable,
            progress: self.progress,
        };
        writer.apply(items.iter())
    }

    /// Notes that the initramfs is due, if writing `items` makes it outdated.
    fn mark(&self, items: &[Item], journal: &Journal) -> Result<()> {
        match is_dirty(items) {
            true => self.initramfs.mark(journal.id()),
            false => Ok(()),
        }
    }

    /// Rebuilds the initramfs if it is due, in the run `id`.
    fn refresh(&self, id: u64) -> Result<InitramfsOutcome> {
        match self.options.refresh {
            Refresh::Always => self.initramfs.mark(id)?,
            _ if !self.initramfs.is_pending() => return Ok(InitramfsOutcome::NotNeeded),
            Refresh::Never => return Ok(InitramfsOutcome::Postponed),
            Refresh::IfDue => {}
        }
        self.progress.begin("initramfs", 0);
        let made = self.initramfs.apply(self.trees.as_root(), id);
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
}

/// Returns whether writing `items` makes the initramfs outdated.
fn is_dirty(items: &[Item]) -> bool {
    let dirties = |item: &Item| item.is_to_be_written() && item.dirties_initramfs();
    items.iter().any(dirties)
}
