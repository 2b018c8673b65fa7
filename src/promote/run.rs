//! What a promote and a rollback have in common: the last checks, then the writing,
//! the journal and the initramfs.

use std::path::{Path, PathBuf};

use crate::durable::{Directory, Lookup, Tree};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

use super::Ownership;
use super::apply::Writer;
use super::bytes;
use super::content::{Content, Opener};
use super::hands::{self, Found, LinkTarget, Reply, Request, Was};
use super::history::{self, Record};
use super::initramfs::Initramfs;
use super::journal::{After, Begin, End, Entry, Journal, Line, Sidecar, now, who};
use super::path::{Place, Zone};
use super::plan::{Item, plan_room};
use super::report::InitramfsOutcome;
use super::stamps::{Before, Stamps};
use super::trees::Trees;
use super::writable;

/// How a run is to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) dry_run: bool,
    pub(super) initramfs: bool,
    pub(super) ownership: Ownership,
    pub(super) recheck: bool,
}

/// An image that is being worked on, with everything that this takes.
pub(super) struct Run<'a> {
    pub(super) trees: Trees,
    pub(super) opener: Opener,
    pub(super) sidecar: Sidecar,
    /// Whether there is something to record even if nothing has to be written.
    pub(super) has_news: bool,
    records: Option<(Vec<Record>, u64)>,
    initramfs: Initramfs,
    manner: Manner,
    progress: &'a dyn Progress,
    _lock: Option<Directory>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) id: Option<u64>,
    pub(super) initramfs: InitramfsOutcome,
}

impl<'a> Run<'a> {
    /// Takes hold of the image; only one run does at a time.
    ///
    /// # Errors
    /// Another one has it, or it cannot be opened or read.
    pub(super) fn open(
        image: &Path,
        tracker: Option<Tree>,
        manner: Manner,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let lock = if manner.dry_run {
            None
        } else {
            let dir = Directory::open(image)?;
            if !dir.try_lock()? {
                return Err(Error::new(
                    Kind::Busy,
                    format!("another promote is at work on it{}", holder(image)),
                )
                .path(image)
                .advice("wait until it has ended, and promote again"));
            }
            Some(dir)
        };
        let sidecar = Sidecar::of(image);
        let initramfs = Initramfs::of(image, &sidecar);
        if !manner.dry_run {
            initramfs.probe_idle()?;
        }
        let trees = Trees::open(image, !manner.dry_run)?;
        let opener = Opener {
            tracker,
            image: Tree::open(image, crate::durable::Bounds::Beneath)
                .map_err(|e| Error::io("opening", e).path(image))?,
        };
        Ok(Self {
            initramfs,
            trees,
            opener,
            sidecar,
            has_news: false,
            records: None,
            manner,
            progress,
            _lock: lock,
        })
    }

    /// What the journal tells, oldest first. Read when first asked for: a run with
    /// nothing to do has no need of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn records(&mut self) -> Result<&[Record]> {
        Ok(&self.journal()?.0)
    }

    fn journal(&mut self) -> Result<&(Vec<Record>, u64)> {
        let read = match self.records.take() {
            Some(read) => read,
            None => history::read(&self.sidecar)?,
        };
        Ok(self.records.insert(read))
    }

    /// Compares `items` with the image, checks everything, and then writes.
    ///
    /// # Errors
    /// A check fails: then nothing was written. Writing fails: then what was complete
    /// is kept, and said so. The initramfs fails: then it stays due.
    pub(super) fn execute(
        &mut self,
        items: &mut [Item],
        begin: Begin,
        empty_dirs: &[Place],
    ) -> Result<Ran> {
        let stamps = match self.manner.recheck {
            true => Stamps::default(),
            false => Stamps::read(&self.sidecar),
        };
        let before = Before::probe(items, &self.opener, &self.trees);
        let mut read = [Zone::Elsewhere, Zone::Rootfs].map(|zone| (zone, false));
        for item in items.iter_mut() {
            if let Some(bytes) = stamps.vouch(&item.place, &before) {
                (item.found, item.bytes) = (Found::Same, bytes);
            } else {
                read[usize::from(item.place.zone == Zone::Rootfs)].1 = true;
            }
        }
        super::survey::probe(items, &mut self.trees, &self.opener, self.progress)?;
        if !self.manner.dry_run {
            // Who put there what is the same may have synced nothing, and a run that was
            // cut off right behind its renames is one of them.
            for (zone, _) in read.into_iter().filter(|(_, read)| *read) {
                self.trees.flush(zone)?;
            }
        }
        let writes = items.iter().any(Item::is_to_be_written);
        let dirties = |item: &Item| item.is_to_be_written() && item.dirties_initramfs();
        let dirty = items.iter().any(dirties);
        let due = dirty || self.initramfs.is_pending();
        let leftovers: Vec<Zone> = [Zone::Elsewhere, Zone::Rootfs]
            .into_iter()
            .filter(|zone| self.trees.tree(*zone).is_ok_and(Tree::has_leftovers))
            .collect();
        let refresh = due && self.manner.initramfs;
        let records = writes || refresh || self.has_news;
        let unknown = self.check(items, records, refresh)?;
        if self.manner.dry_run {
            return Ok(Ran {
                id: None,
                initramfs: self.foretell(due),
            });
        }
        if !records && leftovers.is_empty() {
            return Ok(Ran {
                id: None,
                initramfs: self.foretell(due),
            });
        }
        let empty_dirs: Vec<&Place> = empty_dirs.iter().filter(|dir| self.is_there(dir)).collect();
        let rootfs = |item: &Item| item.is_to_be_written() && item.place.zone == Zone::Rootfs;
        if items.iter().any(rootfs)
            || leftovers.contains(&Zone::Rootfs)
            || records && empty_dirs.iter().any(|dir| dir.zone == Zone::Rootfs)
        {
            self.trees.hands(Zone::Rootfs)?;
            writable::ask(&mut self.trees, unknown)?;
        }
        if refresh && !self.trees.as_root() {
            self.initramfs.probe_privilege()?;
        }
        for zone in leftovers {
            let cleared = self.trees.hands(zone)?.ask(&Request::Clear, None);
            cleared.map_err(|e| e.or_advice("remove its .lbpayload-staging as root"))?;
        }
        if !records {
            return Ok(Ran {
                id: None,
                initramfs: self.foretell(due),
            });
        }
        let (user, host) = who();
        let next_id = self.journal()?.1;
        let mut journal = Journal::begin(
            &self.sidecar,
            Begin {
                id: next_id,
                started: now(),
                user,
                host,
                version: env!("CARGO_PKG_VERSION").into(),
                ..begin
            },
        )?;
        let mut ran = Ran {
            id: Some(journal.id()),
            initramfs: match due {
                true => InitramfsOutcome::StillDue,
                false => InitramfsOutcome::NotNeeded,
            },
        };
        let marked = match dirty {
            true => self.initramfs.mark(journal.id()),
            false => Ok(()),
        };
        let untouched = |item: &Item| stamps.is_untouched(&item.place, before.there(&item.place));
        let result = marked
            .and_then(|()| self.note_kept(items, &mut journal, &untouched))
            .and_then(|()| self.write(items, &empty_dirs, &mut journal, due, &mut ran));
        let ended = journal.end(End {
            state: match &result {
                Ok(()) => "done",
                Err(e) if e.kind() == Kind::Interrupted => "interrupted",
                Err(_) => "failed",
            }
            .into(),
            finished: now(),
            message: result.as_ref().err().map(ToString::to_string),
            initramfs: Some(ran.initramfs.to_string()),
        });
        // What failed first is what is told: a full disk takes the record, too.
        result.and(ended)?;
        if let Err(e) = Stamps::write(&self.sidecar, &self.trees, items, &before) {
            log::warn!("{e}; the next promote will take longer");
        }
        Ok(ran)
    }

    /// Whether a directory may be at `place`.
    fn is_there(&self, place: &Place) -> bool {
        let tree = self.trees.tree(place.zone);
        tree.is_ok_and(|tree| match tree.lookup(&place.path) {
            Ok(seen) => matches!(seen, Lookup::Directory),
            Err(e) => e.kind() == std::io::ErrorKind::PermissionDenied,
        })
    }

    fn foretell(&self, due: bool) -> InitramfsOutcome {
        match (due, self.manner.initramfs) {
            (false, _) => InitramfsOutcome::NotNeeded,
            (true, false) => InitramfsOutcome::Postponed,
            (true, true) => InitramfsOutcome::Due,
        }
    }

    /// All that can be known to fail before the first byte is written. Says of which
    /// places under `rootfs/` only the helper can tell.
    fn check(&self, items: &[Item], records: bool, refresh: bool) -> Result<Vec<PathBuf>> {
        let unknown = writable::probe(&self.trees, items, records)?;
        self.check_room(items)?;
        if refresh {
            self.initramfs.probe_tool()?;
        }
        Ok(unknown)
    }

    fn check_room(&self, items: &[Item]) -> Result<()> {
        let mut needed: Vec<(u64, Zone, u64, u64)> = Vec::new();
        for zone in [Zone::Elsewhere, Zone::Rootfs] {
            let Ok((device, room)) = self.trees.room(zone) else {
                continue;
            };
            let mut bytes = plan_room(items, zone, room.block_bytes);
            if zone == Zone::Elsewhere {
                bytes = bytes.saturating_add(self.backups(items));
            }
            match needed.iter_mut().find(|(other, ..)| *other == device) {
                Some(both) => both.2 = both.2.saturating_add(bytes),
                None => needed.push((device, zone, bytes, room.free_bytes)),
            }
        }
        for (_, zone, bytes, free) in needed {
            if bytes > free {
                let path = self.trees.tree(zone)?.path().to_path_buf();
                let message = format!("{bytes} bytes are to be written there, and {free} are free");
                return Err(Error::new(Kind::Space, message)
                    .path(path)
                    .advice("make room, and promote again"));
            }
        }
        Ok(())
    }

    /// Bytes of what is replaced, all of which the journal keeps.
    fn backups(&self, items: &[Item]) -> u64 {
        let replaced = items.iter().filter(|item| item.is_to_be_written());
        let bytes = |item: &Item| {
            let tree = self.trees.tree(item.place.zone).ok()?;
            Some(tree.stat_key(&item.place.path).ok()?.bytes)
        };
        replaced.filter_map(bytes).fold(0, u64::saturating_add)
    }

    fn write(
        &mut self,
        items: &mut [Item],
        empty_dirs: &[&Place],
        journal: &mut Journal,
        due: bool,
        ran: &mut Ran,
    ) -> Result<()> {
        let (trees, opener) = (&mut self.trees, &self.opener);
        let ownership = self.manner.ownership;
        let writer = Writer::new(trees, opener, journal, ownership, self.progress);
        writer.apply(items)?;
        for place in empty_dirs {
            let hands = self.trees.hands(place.zone)?;
            hands.ask(&Request::RemoveDir(place.path.clone()), None)?;
            hands.ask(&Request::FlushNames, None)?;
        }
        if due && !self.manner.initramfs {
            ran.initramfs = InitramfsOutcome::Postponed;
        } else if due {
            self.progress.begin("initramfs", 0);
            let made = self.initramfs.apply(self.trees.as_root());
            self.progress.end();
            made?;
            ran.initramfs = InitramfsOutcome::Rebuilt;
        }
        Ok(())
    }

    /// Tells the journal of what is as it should be already, where it does not know, or
    /// knows of something else, which somebody changed into this.
    fn note_kept(
        &mut self,
        items: &[Item],
        journal: &mut Journal,
        untouched: &dyn Fn(&Item) -> bool,
    ) -> Result<()> {
        let known = history::held(self.records()?);
        for item in items.iter().filter(|item| !item.is_to_be_written()) {
            let known = known.get(&item.place).and_then(|held| held.sure.as_ref());
            if known.is_some() && untouched(item) {
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
    fn look(&mut self, item: &Item) -> Result<Option<(Was, After)>> {
        if item.content == Content::Absent {
            return Ok(Some((Was::Nothing, After::Nothing)));
        }
        let zone = item.place.zone;
        let look = Request::Look(item.place.path.clone());
        // Whoever may not read it compared it through the helper just now.
        let tree = self.trees.tree(zone)?;
        let (reply, old) = match hands::perform(tree, &look, None) {
            Err(_) if self.trees.may_ask() => self.trees.hands(zone)?.ask(&look, None)?,
            other => other?,
        };
        let Reply::Was(before) = reply else {
            return Ok(None);
        };
        let after = match (&before, old) {
            (Was::File { bytes, .. }, Some(old)) => After::File {
                sha256: bytes::sum(&old.into())
                    .map_err(|e| Error::io("reading", e).path(item.place.in_image()))?,
                bytes: *bytes,
            },
            (Was::Symlink { target, .. }, _) => After::Symlink {
                target: LinkTarget(target.0.clone()),
            },
            _ => return Ok(None),
        };
        Ok(Some((before, after)))
    }
}

/// Who holds the lock, as /proc/locks has it.
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
