//! The map as one HTML page without any other file.

use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};

use super::Shown;
use super::drawing::escaped;

const PAGE: &str = include_str!("page.html");

/// A row of the table.
#[derive(Serialize)]
struct Row {
    index: u64,
    name: String,
    size: u64,
    offset: u64,
    damaged: bool,
}

/// Returns the page.
pub(super) fn html(shown: &Shown, path: &Path) -> Result<String> {
    let damaged = shown.damaged()?;
    let start = shown.protected.source.start();
    let mut rows = Vec::new();
    for entry in shown.index.entries()? {
        let entry = entry?;
        let hit = |range: &std::ops::Range<u64>| {
            range.start < entry.end() && entry.header_offset < range.end
        };
        rows.push(Row {
            index: entry.index,
            name: entry.shown_name().into_owned(),
            size: entry.size,
            offset: start + entry.data_offset,
            damaged: damaged.iter().any(hit),
        });
    }
    let rows = serde_json::to_string(&rows).map_err(|e| Error::io("write", e.into()))?;
    // A name must not end the script.
    let rows = rows.replace('<', "\\u003c");
    let mut page = String::with_capacity(PAGE.len() + rows.len());
    // Each part is filled in once, so that nothing in a name is taken for a place to fill.
    let mut rest = PAGE;
    for (place, text) in [
        ("@TITLE@", escaped(&shown.title(path))),
        ("@HEADING@", escaped(&shown.title(path))),
        ("@MAP@", shown.svg()?),
        ("@ROWS@", rows),
    ] {
        if let Some((before, behind)) = rest.split_once(place) {
            page += before;
            page += &text;
            rest = behind;
        }
    }
    page += rest;
    Ok(page)
}
