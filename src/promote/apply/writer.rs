//! Writes what was planned. Files are staged, synced together, and then given their names.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::promote::inputs::content::{Content, Opened, Sources};
use crate::promote::inputs::invoker;
use crate::promote::options::Ownership;
use crate::promote::path::{Place, Zone};
use crate::promote::plan::attributes::{Rules, plan_attributes};
use crate::promote::plan::union::Item;
use crate::promote::record::journal::{After, Entry, Journal, Line};
use crate::promote::tree::protocol::{JsonPath, PreviousState, Reply, Request};
use crate::promote::trees::{Trees, unexpected};

/// The number of staged bytes after which the files get their names; the number of files is
/// limited too.
const BATCH_BYTES: u64 = 1 << 30;
const BATCH_FILES: usize = 8192;

/// The state of the writing.
pub(crate) struct Writer<'a> {
    pub(crate) trees: &'a mut Trees,
    pub(crate) sources: &'a Sources,
    pub(crate) journal: &'a mut Journal,
    pub(crate) ownership: Ownership,
    /// The files that earlier promotes made executable.
    pub(crate) made_executable: &'a BTreeSet<Place>,
    pub(crate) progress: &'a dyn Progress,
}

impl Writer<'_> {
    /// Writes every item that differs. If this fails, the files that were complete keep their
    /// names.
    pub(crate) fn apply<'i>(mut self, items: impl Iterator<Item = &'i Item>) -> Result<()> {
        let items: Vec<&Item> = items.filter(|item| item.is_to_be_written()).collect();
        let total = items.iter().map(|item| item.bytes).sum();
        self.progress.begin("copying", total);
        let result = self.write(&items);
        let mut cleared = Ok(());
        for zone in zones(&items) {
            let clear = self.trees.ask(zone, &Request::Clear, None);
            let clear =
                clear.map_err(|e| e.or_advice("promote again, which removes the staged files"));
            cleared = cleared.and(clear.map(drop));
        }
        self.progress.end();
        result.and(cleared)
    }

    fn write(&mut self, items: &[&Item]) -> Result<()> {
        let mut result = Ok(());
        let (mut staged, mut bytes) = (Vec::new(), 0);
        for (slot, &item) in (0..).zip(items) {
            let one = match self.progress.cancelled() {
                true => Err(Error::interrupted()),
                false => self
                    .stage(slot, item)
                    .map_err(|e| explain(e, &self.trees.path(&item.place))),
            };
            if one.is_err() {
                result = one;
                break;
            }
            staged.push((slot, item));
            bytes += item.bytes;
            self.progress.advance(item.bytes);
            if bytes >= BATCH_BYTES || staged.len() >= BATCH_FILES {
                bytes = 0;
                self.commit(&std::mem::take(&mut staged))?;
            }
        }
        result.and(self.commit(&staged))
    }

    fn stage(&mut self, slot: u64, item: &Item) -> Result<()> {
        let Place { zone, path } = &item.place;
        let opened = self.sources.open(&item.content)?;
        let look = Request::Look(path.clone());
        let (Reply::Previous(previous), old) = self.trees.ask(*zone, &look, None)? else {
            return Err(unexpected());
        };
        if previous == PreviousState::Other {
            return Err(Error::new(
                Kind::Changed,
                "replaced by a directory or a device during this run",
            ));
        }
        let backup = match old {
            Some(old) => Some(self.journal.keep(&old.into())?),
            None => None,
        };
        let (after, made) = match &item.content {
            Content::Absent => (After::Nothing, Vec::new()),
            _ => self.fill(slot, item, opened.as_ref(), &previous)?,
        };
        let rules = self.rules(item);
        let executable = match (&previous, item.executable) {
            (PreviousState::File { attributes, .. }, Some(wanted)) => {
                let mode = attributes.mode;
                (rules.mode(mode) != mode).then_some(wanted)
            }
            (_, Some(true)) => Some(true),
            _ => None,
        };
        self.journal.line(&Line::File(Box::new(Entry {
            place: item.place.clone(),
            dst: item.dst.as_path().to_path_buf(),
            channel: item.channel,
            before: previous,
            backup,
            after,
            kept: false,
            made,
            executable,
        })))
    }

    fn rules(&self, item: &Item) -> Rules {
        Rules {
            zone: item.place.zone,
            ownership: self.ownership,
            as_root: self.trees.as_root(),
            invoker: invoker::by_sudo(),
            executable: item.executable,
            was_made_executable: self.made_executable.contains(&item.place),
        }
    }

    /// Stages the bytes of `opened`, or a symlink. Returns the content that the place will have,
    /// and the directories that were created for it.
    fn fill(
        &mut self,
        slot: u64,
        item: &Item,
        opened: Option<&Opened>,
        previous: &PreviousState,
    ) -> Result<(After, Vec<JsonPath>)> {
        let Item { place, content, .. } = item;
        let rules = self.rules(item);
        let target = content.link().map(|target| JsonPath(target.into()));
        let request = Request::Stage {
            slot,
            place: place.path.clone(),
            attributes: plan_attributes(
                &rules,
                content,
                opened.map(|opened| &opened.attributes),
                previous,
            ),
            link: target.clone(),
            dir_owner: match place.zone {
                Zone::Elsewhere => rules.invoker,
                Zone::Rootfs => None,
            },
        };
        let file = opened.map(|opened| &opened.file);
        match (self.trees.ask(place.zone, &request, file)?, target) {
            ((Reply::Staged { made, .. }, _), Some(target)) => {
                Ok((After::Symlink { target }, made))
            }
            (
                (
                    Reply::Staged {
                        sha256,
                        bytes,
                        made,
                    },
                    _,
                ),
                None,
            ) => Ok((After::File { sha256, bytes }, made)),
            _ => Err(unexpected()),
        }
    }

    /// Gives the staged files their names: first the record, then the bytes, then the names are
    /// synced to stable storage.
    fn commit(&mut self, staged: &[(u64, &Item)]) -> Result<()> {
        if staged.is_empty() {
            return Ok(());
        }
        self.journal.sync()?;
        let items: Vec<&Item> = staged.iter().map(|(_, item)| *item).collect();
        for zone in zones(&items) {
            self.trees.ask(zone, &Request::Flush, None)?;
        }
        let (mut result, mut named, mut unsure) = (Ok(()), 0, 0);
        for (slot, item) in staged {
            let Place { zone, path } = item.place.clone();
            let request = match item.content {
                Content::Absent => Request::Remove(path),
                _ => Request::Publish {
                    slot: *slot,
                    place: path,
                },
            };
            if let Err(e) = self.trees.ask(zone, &request, None) {
                // If the helper died before it replied, it may still have done this.
                let helper = zone == Zone::Rootfs && !self.trees.as_root();
                unsure = u64::from(helper && e.io_error().is_some());
                result = Err(explain(e, &self.trees.path(&item.place)));
                break;
            }
            named += 1;
            self.progress.file_done(&item.dst.to_string());
        }
        for zone in zones(&items) {
            let flushed = self.trees.ask(zone, &Request::FlushNames, None);
            result = result.and(flushed.map(drop));
        }
        // Even after a failure, the record must hold what was named, so that it can be rolled
        // back.
        result.and(self.journal.named(named, unsure))
    }
}

/// Returns the trees that contain the items.
fn zones(items: &[&Item]) -> Vec<Zone> {
    let mut zones = vec![Zone::Elsewhere, Zone::Rootfs];
    zones.retain(|zone| items.iter().any(|item| item.place.zone == *zone));
    zones
}

/// Makes `error` name the destination that could not be written, and adds advice if it has none.
fn explain(error: Error, path: &Path) -> Error {
    let kind = error.kind();
    let explained = if error.path() == Some(path) {
        error
    } else {
        let named = Error::new(kind, error.to_string())
            .doing("copy to")
            .with_path(path)
            .with_code(error.code());
        match error.help() {
            Some(help) => named.advice(help),
            None => named,
        }
    };
    match kind {
        Kind::Changed => explained,
        Kind::Space => {
            explained.or_advice("free some space, then promote again (what was copied is kept)")
        }
        _ => explained.or_advice("fix the cause, then promote again (what was copied is kept)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_destination_even_if_another_path_starts_the_same() {
        let path = Path::new("/image/kernel/a.dtb");
        let source = Error::new(Kind::Refused, "not a regular file")
            .with_path("/image/kernel/a.dtb.new")
            .with_code("bad-source")
            .advice("build again");
        let explained = explain(source, path);
        assert_eq!(explained.path(), Some(path));
        assert_eq!(
            (explained.code(), explained.help()),
            ("bad-source", Some("build again"))
        );
        let destination = Error::new(Kind::Io, "broken")
            .doing("rename to")
            .with_path(path);
        let explained = explain(destination, path);
        assert_eq!(explained.path(), Some(path));
        assert_eq!(explained.named_doing(), Some("rename to"));
        assert!(explained.help().is_some());
    }
}
