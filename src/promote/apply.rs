//! Writing what was planned: staged, flushed together, then named.

use std::os::fd::AsFd;
use std::path::Path;

use crate::durable::Attributes;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

use super::Ownership;
use super::content::{Content, Opener};
use super::hands::{LinkTarget, Reply, Request, Was};
use super::journal::{After, Backup, Entry, Journal, Line};
use super::path::Zone;
use super::plan::{Item, plan_attributes};
use super::trees::{Trees, unexpected};

/// Files get their names when so many bytes, or so many files, are staged.
const BATCH_BYTES: u64 = 1 << 30;
const BATCH_FILES: usize = 8192;

/// What writing takes.
pub(super) struct Writer<'a> {
    pub(super) trees: &'a mut Trees,
    pub(super) opener: &'a Opener,
    pub(super) journal: &'a mut Journal,
    pub(super) ownership: Ownership,
    pub(super) progress: &'a dyn Progress,
    staged: Vec<(u64, usize)>,
    staged_bytes: u64,
    /// Whether anything was asked of a tree that it may have to clear up.
    used: [bool; 2],
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        trees: &'a mut Trees,
        opener: &'a Opener,
        journal: &'a mut Journal,
        ownership: Ownership,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            trees,
            opener,
            journal,
            ownership,
            progress,
            staged: Vec::new(),
            staged_bytes: 0,
            used: [false; 2],
        }
    }

    /// Writes every item that is not as it should be. Where it fails, those that were
    /// complete keep their names.
    ///
    /// # Errors
    /// What the system says, or somebody wants to stop.
    pub(super) fn apply(mut self, items: &[Item]) -> Result<()> {
        let total = items.iter().filter(|i| i.is_to_be_written());
        let total: u64 = total.map(|item| item.bytes).sum();
        self.progress.begin("copying", total);
        let mut done = 0;
        let mut result = Ok(());
        for (at, item) in items.iter().enumerate() {
            if !item.is_to_be_written() {
                continue;
            }
            if self.progress.cancelled() {
                result = Err(Error::interrupted());
                break;
            }
            if let Err(e) = self.stage(at as u64, item) {
                result = Err(self.explain(item, e));
                break;
            }
            self.staged.push((at as u64, at));
            self.staged_bytes += item.bytes;
            self.progress.advance(item.bytes);
            if self.staged_bytes >= BATCH_BYTES || self.staged.len() >= BATCH_FILES {
                result = self.commit(items, &mut done);
                if result.is_err() {
                    break;
                }
            }
        }
        let last = self.commit(items, &mut done);
        let cleared = self.clear();
        self.progress.end();
        result.and(last).and(cleared)
    }

    fn explain(&self, item: &Item, error: Error) -> Error {
        let tree = self.trees.tree(item.place.zone).ok();
        let path = tree.map_or_else(
            || item.place.in_image(),
            |tree| tree.path().join(&item.place.path),
        );
        explain(error, &path)
    }

    fn stage(&mut self, slot: u64, item: &Item) -> Result<()> {
        let zone = item.place.zone;
        let opened = self.opener.open(&item.content)?;
        let place = item.place.path.clone();
        let look = Request::Look(place.clone());
        let (Reply::Was(was), old) = self.ask(zone, &look, None)? else {
            return Err(unexpected());
        };
        if was == Was::Other {
            return Err(Error::new(
                Kind::Changed,
                "it was no directory or device before",
            ));
        }
        let backup = match &old {
            Some(old) => Some(self.keep(old)?),
            None => None,
        };
        let after = match (&item.content, &opened) {
            (Content::Absent, _) => After::Nothing,
            (Content::Link(target, given), _) => {
                let may_give = zone == Zone::Rootfs || self.trees.as_root();
                let roots = (zone == Zone::Rootfs).then_some((0, 0));
                let attributes = Attributes {
                    owner: given.owner.filter(|_| may_give).or(roots),
                    ..given.clone()
                };
                let target = LinkTarget(target.clone());
                let request = Request::Stage {
                    slot,
                    attributes,
                    link: Some(target.clone()),
                };
                self.ask(zone, &request, None)?;
                After::Symlink { target }
            }
            (content, Some(opened)) => {
                let attributes = plan_attributes(
                    zone,
                    self.ownership,
                    self.trees.as_root(),
                    content,
                    &opened.attributes,
                    &was,
                );
                let request = Request::Stage {
                    slot,
                    attributes,
                    link: None,
                };
                let staged = self.ask(zone, &request, Some(&opened.file));
                match staged {
                    Ok((Reply::Staged { sha256, bytes }, _)) => After::File { sha256, bytes },
                    Ok(_) => return Err(unexpected()),
                    Err(e) => {
                        // What is half written only takes room, and is cleared in the end.
                        let _ = self.ask(zone, &Request::Discard(slot), None);
                        return Err(e);
                    }
                }
            }
            (_, None) => return Err(unexpected()),
        };
        let made = if item.content == Content::Absent {
            Vec::new()
        } else {
            match self.ask(zone, &Request::MakeParents(place), None)? {
                (Reply::Made(made), _) => made,
                _ => return Err(unexpected()),
            }
        };
        self.journal.line(&Line::File(Box::new(Entry {
            place: item.place.clone(),
            dst: item.dst.as_path().to_path_buf(),
            channel: item.channel,
            before: was,
            backup,
            after,
            kept: false,
            made,
        })))
    }

    fn keep(&mut self, old: &std::os::fd::OwnedFd) -> Result<Backup> {
        let old = old
            .try_clone()
            .map_err(|e| Error::io("keeping what is replaced", e))?;
        self.journal.keep(&old.into())
    }

    fn ask(
        &mut self,
        zone: Zone,
        request: &Request,
        file: Option<&std::fs::File>,
    ) -> Result<(Reply, Option<std::os::fd::OwnedFd>)> {
        self.used[usize::from(zone == Zone::Rootfs)] = true;
        let hands = self.trees.hands(zone)?;
        hands.ask(request, file.map(AsFd::as_fd))
    }

    /// Gives what is staged its names: the record first, then the bytes, then the
    /// names, each on stable storage before the next.
    fn commit(&mut self, items: &[Item], done: &mut u64) -> Result<()> {
        let staged = std::mem::take(&mut self.staged);
        self.staged_bytes = 0;
        if staged.is_empty() {
            return Ok(());
        }
        self.journal.sync()?;
        let zones: Vec<Zone> = [Zone::Elsewhere, Zone::Rootfs]
            .into_iter()
            .filter(|zone| staged.iter().any(|(_, at)| items[*at].place.zone == *zone))
            .collect();
        for zone in &zones {
            self.ask(*zone, &Request::Flush, None)?;
        }
        let (mut result, mut unsure) = (Ok(()), 0);
        for (slot, at) in staged {
            let item = &items[at];
            let place = item.place.path.clone();
            let request = match item.content {
                Content::Absent => Request::Remove(place),
                _ => Request::Publish { slot, place },
            };
            if let Err(e) = self.ask(item.place.zone, &request, None) {
                // A helper that is gone may have done it before.
                unsure = u64::from(self.is_lost(item.place.zone, &e));
                result = Err(self.explain(item, e));
                break;
            }
            *done += 1;
            self.progress.file_done(&item.dst.to_string());
        }
        for zone in &zones {
            let flushed = self.ask(*zone, &Request::FlushNames, None);
            result = result.and(flushed.map(drop));
        }
        // Whatever failed: what is there is in the record, so that it can be taken back.
        let noted = self.journal.named(*done, unsure);
        result.and(noted)
    }

    /// Whether `error` is that nobody answered, rather than an answer.
    fn is_lost(&self, zone: Zone, error: &Error) -> bool {
        zone == Zone::Rootfs && !self.trees.as_root() && error.io_error().is_some()
    }

    fn clear(&mut self) -> Result<()> {
        for (used, zone) in self.used.into_iter().zip([Zone::Elsewhere, Zone::Rootfs]) {
            if used {
                self.ask(zone, &Request::Clear, None)
                    .map_err(|e| e.or_advice("promote again, which clears it"))?;
            }
        }
        Ok(())
    }
}

/// Says which destination could not be written, where `error` does not name it.
fn explain(error: Error, path: &Path) -> Error {
    let kind = error.kind();
    let explained = if error.named_path() == Some(path) {
        error
    } else {
        Error::new(kind, error.to_string())
            .doing("copying to")
            .path(path)
    };
    match kind {
        Kind::Changed => explained,
        Kind::Space => explained.or_advice("make room and promote again; what was copied is kept"),
        _ => explained.or_advice("fix that and promote again; what was copied is kept"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_destination_also_where_another_path_begins_like_it() {
        let path = Path::new("/image/kernel/a.dtb");
        let source =
            Error::new(Kind::Refused, "it is no regular file").path("/image/kernel/a.dtb.new");
        let told = explain(source, path).to_string();
        assert!(
            told.starts_with("copying to /image/kernel/a.dtb: "),
            "{told}"
        );
        let destination = Error::new(Kind::Io, "broken")
            .doing("renaming to")
            .path(path);
        let told = explain(destination, path).to_string();
        assert!(
            told.starts_with("renaming to /image/kernel/a.dtb: broken; "),
            "{told}"
        );
    }
}
