//! Compares what images should hold with what they hold.

use super::run::{Run, ZONES};
use crate::error::Result;
use crate::promote::path::Zone;
use crate::promote::plan::survey;
use crate::promote::plan::union::Item;
use crate::promote::record::history;
use crate::promote::record::stamps::Before;
use crate::promote::tree::protocol::Found;

impl Run<'_> {
    /// Compares `items` with the image.
    pub(crate) fn compare(&mut self, items: &mut [Item]) -> Result<Before> {
        Ok(Run::compare_all(&mut [(self, items)])?.swap_remove(0))
    }

    /// Compares the items of each run with its image. A file that several images should hold is read
    /// once.
    ///
    /// # Errors
    /// One of [`survey::probe`], or the journal cannot be read.
    pub(crate) fn compare_all(runs: &mut [(&mut Run<'_>, &mut [Item])]) -> Result<Vec<Before>> {
        let Some(progress) = runs.first().map(|(run, _)| run.progress) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        let mut read: Vec<Vec<Zone>> = Vec::new();
        for (run, items) in runs.iter_mut() {
            let before = Before::probe(items, &run.sources, &run.trees)?;
            let mut zones = Vec::new();
            for item in items.iter_mut() {
                match run.stamps.vouch(&item.place, &before) {
                    Some(bytes) => (item.found, item.bytes) = (Found::Same, bytes),
                    None => zones.push(item.place.zone),
                }
            }
            all.push(before);
            read.push(zones);
        }
        let mut images: Vec<survey::Image<'_>> = Vec::new();
        for ((run, items), before) in runs.iter_mut().zip(&all) {
            let length = |item: &Item| before.there(&item.place).map(|there| there.bytes);
            images.push(survey::Image {
                lengths: items.iter().map(length).collect(),
                items,
                trees: &mut run.trees,
                sources: &run.sources,
            });
        }
        survey::probe(&mut images, progress)?;
        for ((run, items), zones) in runs.iter_mut().zip(read) {
            // A file that git does not call executable, but that is: only what a promote did to it is
            // undone.
            let is_odd =
                |item: &&mut Item| item.found == Found::Mode && item.executable == Some(false);
            let mut odd: Vec<&mut Item> = items.iter_mut().filter(is_odd).collect();
            if !odd.is_empty() {
                let ours = history::made_executable(run.records()?);
                for item in odd.iter_mut().filter(|item| !ours.contains(&item.place)) {
                    item.found = Found::Same;
                }
            }
            if !run.options.dry_run {
                // Files that are equal already may have been written without a sync, for example by a
                // run that was killed right after its renames.
                for zone in ZONES.into_iter().filter(|zone| zones.contains(zone)) {
                    run.trees.flush(zone)?;
                }
            }
        }
        Ok(all)
    }
}
