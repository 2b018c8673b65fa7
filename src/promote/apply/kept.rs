//! Records the files that were equal already, so that the journal knows all that an image should
//! hold.

use super::run::Run;
use crate::error::{Error, Result};
use crate::promote::inputs::content::Content;
use crate::promote::path::Place;
use crate::promote::plan::union::Item;
use crate::promote::record::history;
use crate::promote::record::journal::{After, Entry, Journal, Line};
use crate::promote::record::stamps::Before;
use crate::promote::tree::protocol::{PreviousState, Reply, Request};
use crate::promote::tree::{bytes, executor};

impl Run<'_> {
    /// Records the items that are equal already, if the journal has no entry or another content
    /// for them.
    pub(super) fn note_kept(
        &mut self,
        items: &[Item],
        before: &Before,
        journal: &mut Journal,
    ) -> Result<()> {
        let known = history::held(self.records()?);
        for item in items.iter().filter(|item| !item.is_to_be_written()) {
            let known = known.get(&item.place).and_then(|held| held.sure.as_ref());
            let there = before.there(&item.place);
            if known.is_some() && self.stamps.is_untouched(&item.place, there) {
                continue;
            }
            let looked = match item.content {
                Content::Absent => Some((PreviousState::Nothing, After::Nothing)),
                _ => self.look(&item.place)?,
            };
            let Some((before, after)) = looked else {
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
                executable: None,
            })))?;
        }
        Ok(())
    }

    /// Returns the content of a place in the form that the journal uses, or `None` if it is a
    /// directory or a device. This may need the helper.
    pub(crate) fn look(&mut self, place: &Place) -> Result<Option<(PreviousState, After)>> {
        let zone = place.zone;
        let look = Request::Look(place.path.clone());
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
        let sum = sum.map_err(|e| Error::io("read", e).with_path(place.in_image()))?;
        Ok(After::of(&before, sum).map(|after| (before, after)))
    }
}
