//! Opens the source of every command that reads a payload.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use clap::Args;

use crate::block::{CopiesSource, OffsetSource, Source, SourceOptions};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::sandbox::Sandbox;

use super::protection::{Extent, Protected};
use super::values::{is_url, whole_bytes};

/// The options that say how a source is read. All commands that read a payload have them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub(super) struct SourceArgs {
    /// Where the payload starts in SRC, in bytes (K, M and G are powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = whole_bytes)]
    pub offset: Option<u64>,

    /// The memory limit for the pieces of a URL that have been read (default: 64M)
    #[cfg(feature = "net")]
    #[arg(long, value_name = "BYTES", value_parser = super::values::memory)]
    pub cache: Option<std::num::NonZeroU64>,
    /// Read it as if there were no protection trailer: nothing is checked or healed
    #[arg(long)]
    pub no_protection: bool,
    /// Keep the right to open other files and to use all privileges while the payload is read
    #[arg(long)]
    pub no_sandbox: bool,
}

impl SourceArgs {
    /// Returns these options, and the others for what these leave open.
    pub(super) fn or(&self, others: &Self) -> Self {
        Self {
            offset: self.offset.or(others.offset),
            #[cfg(feature = "net")]
            cache: self.cache.or(others.cache),
            no_protection: self.no_protection || others.no_protection,
            no_sandbox: self.no_sandbox || others.no_sandbox,
        }
    }

    /// Opens the source at `paths`, each of which may be an http or https URL. Several paths are
    /// copies of one payload. `options` say what else the command needs. Nothing else in `cli`
    /// opens the source of a payload, except for `payload-import`, which has no such options.
    ///
    /// # Errors
    /// The same as for [`SourceOptions::open`], or those of a URL; a device is named twice.
    pub(super) fn open<P: AsRef<Path>>(
        &self,
        paths: &[P],
        options: SourceOptions,
    ) -> Result<Arc<dyn Source>> {
        if let [path] = paths {
            return self.open_one(path.as_ref(), options);
        }
        let mut copies: Vec<Arc<dyn Source>> = Vec::new();
        for path in paths.iter().map(AsRef::as_ref) {
            let copy = self.open_one(path, options)?;
            if !is_url(path) {
                let meta =
                    std::fs::metadata(path).map_err(|e| Error::io("open", e).with_path(path))?;
                if let Some(other) = copies.iter().find(|other| other.is_file(&meta)) {
                    let other = other.path().display();
                    let message = format!("`{}` and `{other}` are the same device", path.display());
                    return Err(Error::new(Kind::Usage, message)
                        .advice("name each copy of the payload once"));
                }
            }
            copies.push(copy);
        }
        match CopiesSource::new(copies) {
            Some(copies) => Ok(Arc::new(copies)),
            None => Err(Error::new(Kind::Usage, "no image or device is named")),
        }
    }

    fn open_one(&self, path: &Path, options: SourceOptions) -> Result<Arc<dyn Source>> {
        let offset = self.offset.unwrap_or(0);
        if !is_url(path) {
            return SourceOptions { offset, ..options }.open(path);
        }
        let source = self.open_url(&path.to_string_lossy())?;
        match offset {
            0 => Ok(source),
            _ => Ok(Arc::new(OffsetSource::new(source, offset)?)),
        }
    }

    #[cfg(feature = "net")]
    fn open_url(&self, url: &str) -> Result<Arc<dyn Source>> {
        use crate::net::{HttpOptions, HttpSource};
        let mut options = HttpOptions::default();
        if let Some(cache) = self.cache {
            options.cache = cache.get();
        }
        Ok(Arc::new(HttpSource::open(url, options)?))
    }

    #[cfg(not(feature = "net"))]
    fn open_url(&self, _url: &str) -> Result<Arc<dyn Source>> {
        Err(
            Error::new(Kind::Refused, "this build of lbpayload cannot read URLs")
                .with_code("no-net")
                .advice("download the image first, or use a build with the feature `net`"),
        )
    }

    /// Gives up the right to open other files than `paths` and what lies beneath `write`. A command
    /// calls this when it has opened its source and everything else, before it reads headers and
    /// starts threads.
    pub(super) fn confine<P: AsRef<Path>>(&self, paths: &[P], write: &[&Path]) {
        if self.no_sandbox {
            return;
        }
        let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
        let write: Vec<&Path> = write.iter().map(|path| existing(path)).collect();
        let has_url = paths.iter().any(|path| is_url(path));
        let read = (!has_url).then_some(&paths[..]);
        let write = &write;
        Sandbox { read, write }.enter();
    }

    /// Adds the protection of a source that was opened, if it has any. `memory` is what healing
    /// may take, in bytes. If `search` is given, a device whose payload cannot be read is searched
    /// for a trailer. If `extent` is given, the payload is not walked to find it.
    ///
    /// # Errors
    /// A server does not answer; the search fails or is interrupted.
    pub(super) fn protected(
        &self,
        source: Arc<dyn Source>,
        memory: u64,
        search: Option<&dyn Progress>,
        extent: Option<Extent>,
    ) -> Result<Protected> {
        if self.no_protection {
            return Ok(Protected::without(source));
        }
        Protected::open(source, memory, search, extent)
    }
}

/// Returns the directory at `path`, or the closest one above it that exists.
fn existing(path: &Path) -> &Path {
    let mut above = path.ancestors().filter(|path| path.is_dir());
    above.next().unwrap_or(Path::new("."))
}

/// Returns `path` as messages and reports show it: a URL without user, password and query.
pub(super) fn shown(path: &Path) -> Cow<'_, Path> {
    #[cfg(feature = "net")]
    if is_url(path) {
        let url = crate::net::Url::parse(&path.to_string_lossy());
        let url = url.map_or_else(|_| "the URL".to_owned(), |url| url.to_string());
        return Cow::Owned(url.into());
    }
    #[cfg(not(feature = "net"))]
    if is_url(path) {
        return Cow::Owned("the URL".into());
    }
    Cow::Borrowed(path)
}

/// Warns of a payload that comes without encryption and that nothing checks.
pub(super) fn warn_if_unchecked(source: &dyn Source, checked: bool) {
    let path = source.path();
    let plain = is_url(path) && !path.as_os_str().as_encoded_bytes().starts_with(b"https");
    if plain && !checked {
        log::warn!(
            "{} comes without encryption and is not checked, anybody on the way can change it",
            path.display()
        );
    }
}

/// Refuses a URL where something to write to is expected.
///
/// # Errors
/// `path` is a URL.
pub(super) fn refuse_url(path: &Path, expected: &str, instead: &str) -> Result<()> {
    if !is_url(path) {
        return Ok(());
    }
    let message = format!("`{}` is a URL, expected {expected}", shown(path).display());
    Err(Error::new(Kind::Usage, message).advice(instead))
}
